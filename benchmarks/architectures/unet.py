"""Encoders and decoders of images, joined by skips.

Hard to trace: lists filled and reversed in forward, sizes of skips as arguments of an interpolation.
Source: Ronneberger et al., "U-Net" (2015).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.architectures.weights import seeded, settle

__all__ = ["UNet", "make_unet", "make_unet_bilinear"]


class DoubleConv(nn.Sequential):
    """Twice convolution, BatchNorm and ReLU."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(
            nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
        )


class Up(nn.Module):
    """Twice the size, joined with the skip."""

    def __init__(self, inputs: int, outputs: int, bilinear: bool) -> None:
        super().__init__()
        self.bilinear = bilinear
        if bilinear:
            self.reduce = nn.Conv2d(inputs, outputs, 1)
        else:
            self.up = nn.ConvTranspose2d(inputs, outputs, 2, stride=2)
        self.conv = DoubleConv(2 * outputs, outputs)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """`(N, inputs, H, W)` and `(N, outputs, 2 H, 2 W)` to the latter's shape."""
        if self.bilinear:
            x = F.interpolate(self.reduce(x), size=skip.shape[-2:], mode="bilinear", align_corners=False)
        else:
            x = self.up(x)
            dy, dx = skip.size(2) - x.size(2), skip.size(3) - x.size(3)
            if dy != 0 or dx != 0:
                x = F.pad(x, [dx // 2, dx - dx // 2, dy // 2, dy - dy // 2])
        return self.conv(torch.cat([skip, x], dim=1))


class UNet(nn.Module):
    """The network."""

    def __init__(self, *, width: int = 20, depth: int = 3, classes: int = 5, bilinear: bool) -> None:
        super().__init__()
        self.inc = DoubleConv(3, width)
        self.downs = nn.ModuleList(DoubleConv(width << i, width << i + 1) for i in range(depth))
        self.ups = nn.ModuleList(Up(width << i + 1, width << i, bilinear) for i in reversed(range(depth)))
        self.outc = nn.Conv2d(width, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """`(N, 3, H, W)` to `(N, classes, H, W)`."""
        x = self.inc(x)
        skips = []
        for down in self.downs:
            skips.append(x)
            x = down(F.max_pool2d(x, 2))
        for up, skip in zip(self.ups, reversed(skips), strict=True):
            x = up(x, skip)
        return self.outc(x)


@seeded
def make_unet() -> nn.Module:
    """Upwards by transposed convolutions."""
    return settle(UNet(bilinear=False, width=24), torch.randn(2, 3, 64, 64))


@seeded
def make_unet_bilinear() -> nn.Module:
    """Upwards by interpolation to the size of the skip."""
    return settle(UNet(bilinear=True, width=24), torch.randn(2, 3, 64, 64))
