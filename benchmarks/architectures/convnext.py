"""A convolutional network in a transformer's clothes: wide depthwise kernels, LayerNorm, GELU.

Hard to trace: permutes in modules, a LayerNorm subclass that permutes by itself, a bare parameter as factor.
Source: Liu et al., "A ConvNet for the 2020s" (2022).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.architectures.vision_transformer import DropPath
from benchmarks.architectures.weights import seeded

__all__ = ["ConvNeXt", "LayerNorm2d", "make_convnext"]


class LayerNorm2d(nn.LayerNorm):
    """LayerNorm over the channels of images in planes."""

    def forward(self, x: Tensor) -> Tensor:
        """`(N, C, H, W)` to the same."""
        x = x.permute(0, 2, 3, 1)
        x = F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)
        return x.permute(0, 3, 1, 2)


class Permute(nn.Module):
    """`torch.permute` as a module."""

    def __init__(self, dims: Sequence[int]) -> None:
        super().__init__()
        self.dims = list(dims)

    def forward(self, x: Tensor) -> Tensor:
        """Any shape, with its dimensions in the order given."""
        return torch.permute(x, self.dims)


class Block(nn.Module):
    """Depthwise 7x7, then an MLP over the channels of each place, scaled and added."""

    def __init__(self, width: int, dropped: float) -> None:
        super().__init__()
        self.block = nn.Sequential(
            nn.Conv2d(width, width, 7, padding=3, groups=width),
            Permute([0, 2, 3, 1]),
            nn.LayerNorm(width, eps=1e-6),
            nn.Linear(width, 4 * width),
            nn.GELU(),
            nn.Linear(4 * width, width),
            Permute([0, 3, 1, 2]),
        )
        self.layer_scale = nn.Parameter(0.5 + 0.5 * torch.rand(width, 1, 1))
        self.stochastic_depth = DropPath(dropped)

    def forward(self, x: Tensor) -> Tensor:
        """`(N, width, H, W)` to the same."""
        result = self.layer_scale * self.block(x)
        result = self.stochastic_depth(result)
        result += x
        return result


class ConvNeXt(nn.Module):
    """The network."""

    def __init__(self, *, widths: Sequence[int] = (48, 96, 192), depths: Sequence[int] = (2, 2, 4)) -> None:
        super().__init__()
        layers: list[nn.Module] = [
            nn.Sequential(nn.Conv2d(3, widths[0], 4, 4), LayerNorm2d(widths[0], eps=1e-6))
        ]
        for stage, (width, depth) in enumerate(zip(widths, depths, strict=True)):
            if stage > 0:
                before = widths[stage - 1]
                layers.append(nn.Sequential(LayerNorm2d(before, eps=1e-6), nn.Conv2d(before, width, 2, 2)))
            layers.append(nn.Sequential(*[Block(width, 0.05 * (index + 1)) for index in range(depth)]))
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        last = widths[-1]
        self.classifier = nn.Sequential(LayerNorm2d(last, eps=1e-6), nn.Flatten(1), nn.Linear(last, 100))

    def forward(self, x: Tensor) -> Tensor:
        """`(N, 3, H, W)` to `(N, 100)` logits."""
        return self.classifier(self.avgpool(self.features(x)))


@seeded
def make_convnext() -> nn.Module:
    """Three stages."""
    return ConvNeXt()
