"""Inverted bottlenecks with squeeze-and-excite, and padding computed from the size of the input.

Hard to trace: `math.ceil`, `max` and a branch on shapes before every strided convolution.
Source: Tan and Le, "EfficientNet" (2019); the padding is TensorFlow's "SAME".
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.architectures.weights import seeded, settle

__all__ = ["EfficientNet", "make_efficientnet"]


def same_padding(size: int, kernel: int, stride: int, dilation: int) -> int:
    """How much to add to `size` for an output of `size / stride`, rounded up."""
    return max((math.ceil(size / stride) - 1) * stride + (kernel - 1) * dilation + 1 - size, 0)


def pad_same(
    x: Tensor, kernel: tuple[int, int], stride: tuple[int, int], dilation: tuple[int, int]
) -> Tensor:
    """Zeros around `x`, more after than before, where they are needed."""
    ih, iw = x.size()[-2:]
    pad_h = same_padding(ih, kernel[0], stride[0], dilation[0])
    pad_w = same_padding(iw, kernel[1], stride[1], dilation[1])
    if pad_h > 0 or pad_w > 0:
        x = F.pad(x, [pad_w // 2, pad_w - pad_w // 2, pad_h // 2, pad_h - pad_h // 2])
    return x


class Conv2dSame(nn.Conv2d):
    """A convolution whose padding depends on what it is given."""

    def forward(self, x: Tensor) -> Tensor:
        """`(N, C, H, W)` to `(N, K, ceil(H / stride), ceil(W / stride))`."""
        x = pad_same(x, self.weight.shape[-2:], self.stride, self.dilation)
        return F.conv2d(x, self.weight, self.bias, self.stride, (0, 0), self.dilation, self.groups)


class SqueezeExcite(nn.Module):
    """Channels weighed by a gate that sees them all."""

    def __init__(self, channels: int, reduced: int) -> None:
        super().__init__()
        self.conv_reduce = nn.Conv2d(channels, reduced, 1)
        self.act1 = nn.SiLU(inplace=True)
        self.conv_expand = nn.Conv2d(reduced, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """`(N, channels, H, W)` to the same."""
        gate = x.mean((2, 3), keepdim=True)
        gate = self.conv_reduce(gate)
        gate = self.act1(gate)
        gate = self.conv_expand(gate)
        return x * gate.sigmoid()


class MBConv(nn.Module):
    """Expand, convolve each channel, weigh, project; added to the input where shapes allow."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        width = inputs * expansion
        self.has_skip = stride == 1 and inputs == outputs
        self.conv_pw = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width, eps=1e-3)
        self.conv_dw = Conv2dSame(width, width, kernel, stride, groups=width, bias=False)
        self.bn2 = nn.BatchNorm2d(width, eps=1e-3)
        self.act = nn.SiLU(inplace=True)
        self.se = SqueezeExcite(width, max(1, inputs // 4))
        self.conv_pwl = nn.Conv2d(width, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs, eps=1e-3)
        self.drop_connect_rate = 0.1

    def forward(self, x: Tensor) -> Tensor:
        """`(N, inputs, H, W)` to `(N, outputs, H / stride, W / stride)`."""
        shortcut = x
        x = self.act(self.bn1(self.conv_pw(x)))
        x = self.act(self.bn2(self.conv_dw(x)))
        x = self.bn3(self.conv_pwl(self.se(x)))
        if self.has_skip:
            if self.training and self.drop_connect_rate > 0.0:
                x = F.dropout(x, p=self.drop_connect_rate)
            x += shortcut
        return x


class EfficientNet(nn.Module):
    """The network."""

    STAGES = ((3, 1, 1, 1, 16), (3, 2, 2, 4, 24), (5, 2, 2, 4, 48), (5, 3, 2, 4, 96), (3, 2, 1, 4, 160))

    def __init__(self) -> None:
        super().__init__()
        self.conv_stem = Conv2dSame(3, 32, 3, 2, bias=False)
        self.bn1 = nn.BatchNorm2d(32, eps=1e-3)
        self.act1 = nn.SiLU(inplace=True)
        blocks, inputs = [], 32
        for kernel, repeats, stride, expansion, outputs in self.STAGES:
            for index in range(repeats):
                blocks.append(MBConv(inputs, outputs, kernel, stride if index == 0 else 1, expansion))
                inputs = outputs
        self.blocks = nn.Sequential(*blocks)
        self.conv_head = nn.Conv2d(inputs, 1280, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(1280, eps=1e-3)
        self.act2 = nn.SiLU(inplace=True)
        self.classifier = nn.Linear(1280, 100)
        self.drop_rate = 0.2

    def forward(self, x: Tensor) -> Tensor:
        """`(N, 3, H, W)` to `(N, 100)` logits."""
        x = self.act1(self.bn1(self.conv_stem(x)))
        x = self.blocks(x)
        x = self.act2(self.bn2(self.conv_head(x)))
        x = F.adaptive_avg_pool2d(x, 1).flatten(1)
        if self.drop_rate > 0.0:
            x = F.dropout(x, p=self.drop_rate, training=self.training)
        return self.classifier(x)


@seeded
def make_efficientnet() -> nn.Module:
    """Five stages."""
    return settle(EfficientNet(), torch.randn(4, 3, 96, 96))
