"""The convolutional networks that are timed: ResNet-18 and -50, MobileNetV2, and EfficientNet-Lite0.

With stubs, as their users write them for static quantization in eager mode. EfficientNet-Lite0 has its real
weights and photos; the others random weights, which is enough for their speed and says nothing of accuracy.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

import intaglio
from benchmarks.workloads import Case, Inputs, Network
from intaglio.demo.carriers import EFFICIENTNET_LITE0, PHOTOS, cache_folder, locate
from intaglio.demo.efficientnet import load_efficientnet_lite0
from intaglio.demo.photos import read_photos

__all__ = ["NETWORKS", "MobileNetV2", "ResNet", "make_vision"]

SIZE = 224
CALIBRATION_BATCHES = 8


def _conv_norm(
    inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1, *, then: nn.Module | None = None
) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), *([] if then is None else [then]))


class Residual(nn.Module):
    """Convolutions beside a shortcut, added and rectified."""

    def __init__(self, inputs: int, width: int, outputs: int, stride: int) -> None:
        super().__init__()
        if width == outputs:
            layers = [_conv_norm(inputs, width, 3, stride, then=nn.ReLU()), _conv_norm(width, outputs, 3)]
        else:
            layers = [
                _conv_norm(inputs, width, 1, then=nn.ReLU()),
                _conv_norm(width, width, 3, stride, then=nn.ReLU()),
                _conv_norm(width, outputs, 1),
            ]
        self.body = nn.Sequential(*layers)
        is_same = stride == 1 and inputs == outputs
        self.shortcut = nn.Identity() if is_same else _conv_norm(inputs, outputs, 1, stride)
        self.plus = intaglio.FloatFunctional()

    def forward(self, x: Tensor) -> Tensor:
        """`(N, inputs, H, W)` to `(N, outputs, H / stride, W / stride)`."""
        return self.plus.add_relu(self.body(x), self.shortcut(x))


class ResNet(nn.Module):
    """ResNet with basic blocks (`expansion` 1) or bottlenecks (4)."""

    def __init__(self, depths: Sequence[int], expansion: int) -> None:
        super().__init__()
        self.quant, self.dequant = intaglio.QuantStub(), intaglio.DeQuantStub()
        self.stem = _conv_norm(3, 64, 7, 2, then=nn.ReLU())
        self.pool = nn.MaxPool2d(3, 2, 1)
        blocks, inputs = [], 64
        for stage, depth in enumerate(depths):
            width = 64 << stage
            for index in range(depth):
                stride = 2 if stage > 0 and index == 0 else 1
                blocks.append(Residual(inputs, width, width * expansion, stride))
                inputs = width * expansion
        self.blocks = nn.Sequential(*blocks)
        self.average = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(inputs, 1000)

    def forward(self, x: Tensor) -> Tensor:
        """`(N, 3, H, W)` to `(N, 1000)` logits."""
        x = self.blocks(self.pool(self.stem(self.quant(x))))
        logits: Tensor = self.dequant(self.classifier(torch.flatten(self.average(x), 1)))
        return logits


class Inverted(nn.Module):
    """MobileNetV2's block: expand, depthwise, project."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        width = inputs * expansion
        expand = [_conv_norm(inputs, width, 1, then=nn.ReLU6())] if expansion > 1 else []
        depthwise = _conv_norm(width, width, 3, stride, width, then=nn.ReLU6())
        self.body = nn.Sequential(*expand, depthwise, _conv_norm(width, outputs, 1))
        self.is_residual = stride == 1 and inputs == outputs
        if self.is_residual:
            self.plus = intaglio.FloatFunctional()

    def forward(self, x: Tensor) -> Tensor:
        """`(N, inputs, H, W)` to `(N, outputs, H / stride, W / stride)`."""
        y: Tensor = self.body(x)
        return self.plus.add(x, y) if self.is_residual else y


class MobileNetV2(nn.Module):
    """The network at width 1."""

    STAGES = (
        *((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2)),
        *((6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)),
    )

    def __init__(self) -> None:
        super().__init__()
        self.quant, self.dequant = intaglio.QuantStub(), intaglio.DeQuantStub()
        blocks: list[nn.Module] = [_conv_norm(3, 32, 3, 2, then=nn.ReLU6())]
        inputs = 32
        for expansion, outputs, repeats, stride in self.STAGES:
            for index in range(repeats):
                blocks.append(Inverted(inputs, outputs, stride if index == 0 else 1, expansion))
                inputs = outputs
        self.blocks = nn.Sequential(*blocks, _conv_norm(inputs, 1280, 1, then=nn.ReLU6()))
        self.average = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(1280, 1000)

    def forward(self, x: Tensor) -> Tensor:
        """`(N, 3, H, W)` to `(N, 1000)` logits."""
        x = self.average(self.blocks(self.quant(x)))
        logits: Tensor = self.dequant(self.classifier(torch.flatten(x, 1)))
        return logits


NETWORKS = ("EfficientNet-Lite0", "MobileNetV2", "ResNet-18", "ResNet-50")
"""The order in which cases name them by number."""


def make_vision(shapes: Sequence[tuple[int, ...]]) -> Iterator[Network]:
    """The networks at `(number in NETWORKS, batch)`."""
    for number in dict.fromkeys(number for number, _ in shapes):
        name = NETWORKS[number]
        module, images = _make_network(name)
        batches = [batch for index, batch in shapes if index == number]
        operations = _count_operations(module, images[:1])
        yield Network(
            group="vision",
            name=name,
            module=module,
            cases=tuple(Case(f"{name}, batch {b}", (_take(images, b),), b * operations) for b in batches),
            calibration=tuple((images[i : i + 1],) for i in range(CALIBRATION_BATCHES)),
        )


def _make_network(name: str) -> tuple[nn.Module, Tensor]:
    """The network and images for it."""
    if name == "EfficientNet-Lite0":
        weights = locate(EFFICIENTNET_LITE0, cache_folder(), lambda label, done, total: None)
        photos = locate(PHOTOS, cache_folder(), lambda label, done, total: None)
        images, _ = read_photos(photos)
        return load_efficientnet_lite0(next(iter(weights.values()))), images
    makers = {
        "MobileNetV2": MobileNetV2,
        "ResNet-18": lambda: ResNet((2, 2, 2, 2), 1),
        "ResNet-50": lambda: ResNet((3, 4, 6, 3), 4),
    }
    module = makers[name]()
    images = torch.randn(CALIBRATION_BATCHES, 3, SIZE, SIZE)
    with torch.no_grad():
        module.train()(images[:4])  # statistics that batch norms could have
    return module.eval(), images


def _take(images: Tensor, batch: int) -> Tensor:
    return images[torch.arange(batch) % len(images)]


def _count_operations(module: nn.Module, image: Tensor) -> int:
    """Multiplications and additions of all convolutions and Linears for one image."""
    total = 0

    def count(layer: nn.Module, inputs: Inputs, output: Tensor) -> None:
        nonlocal total
        weight = layer.weight
        assert isinstance(weight, Tensor)
        total += 2 * output.numel() * math.prod(weight.shape[1:])

    layers = [layer for layer in module.modules() if isinstance(layer, (nn.Conv2d, nn.Linear))]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    with torch.no_grad():
        module(image)
    for hook in hooks:
        hook.remove()
    return total
