"""Residual networks in the ways people write them.

Hard to trace or to fuse: one ReLU module called twice, additions in place, shortcuts that may be None,
everything by functions, BatchNorm before its convolution, weights that are computed before each use.
Source: He et al., "Deep Residual Learning" (2016) and "Identity Mappings" (2016); Qiao et al., "Weight
Standardization" (2019); Hu et al., "Squeeze-and-Excitation" (2018).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.architectures.weights import seeded, settle

__all__ = [
    "ResNet",
    "make_functional_resnet",
    "make_preactivation_resnet",
    "make_resnet18",
    "make_resnet50",
    "make_resnext",
    "make_squeeze_excite_resnet",
    "make_standardised_resnet",
]


def conv3x3(inputs: int, outputs: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """A padded 3x3 convolution without bias."""
    return nn.Conv2d(inputs, outputs, 3, stride, 1, groups=groups, bias=False)


def conv1x1(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    """A 1x1 convolution without bias."""
    return nn.Conv2d(inputs, outputs, 1, stride, bias=False)


class BasicBlock(nn.Module):
    """Two convolutions, added to the input in place, and one ReLU module used twice."""

    expansion = 1

    def __init__(
        self, inputs: int, planes: int, stride: int, downsample: nn.Module | None, groups: int
    ) -> None:
        super().__init__()
        self.conv1 = conv3x3(inputs, planes, stride, groups)
        self.bn1 = nn.BatchNorm2d(planes)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = conv3x3(planes, planes)
        self.bn2 = nn.BatchNorm2d(planes)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        """`(N, inputs, H, W)` to `(N, planes, H / stride, W / stride)`."""
        identity = x
        out = self.conv1(x)
        out = self.bn1(out)
        out = self.relu(out)
        out = self.conv2(out)
        out = self.bn2(out)
        if self.downsample is not None:
            identity = self.downsample(x)
        out += identity
        return self.relu(out)


class Bottleneck(nn.Module):
    """Three convolutions and one ReLU module used three times."""

    expansion = 4

    def __init__(
        self, inputs: int, planes: int, stride: int, downsample: nn.Module | None, groups: int
    ) -> None:
        super().__init__()
        self.conv1 = conv1x1(inputs, planes)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = conv3x3(planes, planes, stride, groups)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv3 = conv1x1(planes, planes * self.expansion)
        self.bn3 = nn.BatchNorm2d(planes * self.expansion)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        """`(N, inputs, H, W)` to `(N, 4 planes, H / stride, W / stride)`."""
        identity = x
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        if self.downsample is not None:
            identity = self.downsample(x)
        out += identity
        return self.relu(out)


class SqueezeExcitation(nn.Module):
    """Gates with checks for TorchScript in the way."""

    def __init__(self, channels: int, reduced: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, reduced, 1)
        self.fc2 = nn.Conv2d(reduced, channels, 1)
        self.activation, self.scale_activation = nn.ReLU(), nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        """`(N, channels, H, W)` to the same."""
        if not torch.jit.is_scripting() and not torch.jit.is_tracing():
            assert x.dim() == 4, "images in batches are expected"
        scale = F.adaptive_avg_pool2d(x, output_size=1)
        scale = self.activation(self.fc1(scale))
        return self.scale_activation(self.fc2(scale)) * x


class GatedBlock(BasicBlock):
    """A basic block with squeeze-and-excite before the addition."""

    def __init__(
        self, inputs: int, planes: int, stride: int, downsample: nn.Module | None, groups: int
    ) -> None:
        super().__init__(inputs, planes, stride, downsample, groups)
        self.se = SqueezeExcitation(planes, planes // 8)

    def forward(self, x: Tensor) -> Tensor:
        """`(N, inputs, H, W)` to `(N, planes, H / stride, W / stride)`."""
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        residual = x if self.downsample is None else self.downsample(x)
        if torch.jit.is_scripting():
            return F.relu(self.se(out) + residual)
        return self.relu(self.se(out).add_(residual))


Block = type[BasicBlock] | type[Bottleneck]


class ResNet(nn.Module):
    """The network."""

    def __init__(
        self, block: Block, layers: tuple[int, ...], *, width: int = 32, groups: int = 1, classes: int = 100
    ) -> None:
        super().__init__()
        self.inplanes = width
        self.groups = groups
        self.conv1 = nn.Conv2d(3, width, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.layer1 = self._make_layer(block, width, layers[0])
        self.layer2 = self._make_layer(block, width * 2, layers[1], stride=2)
        self.layer3 = self._make_layer(block, width * 4, layers[2], stride=2)
        self.layer4 = self._make_layer(block, width * 8, layers[3], stride=2)
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(self.inplanes, classes)

    def _make_layer(self, block: Block, planes: int, blocks: int, stride: int = 1) -> nn.Sequential:
        outputs = planes * block.expansion
        downsample = None
        if stride != 1 or self.inplanes != outputs:
            downsample = nn.Sequential(conv1x1(self.inplanes, outputs, stride), nn.BatchNorm2d(outputs))
        layers = [block(self.inplanes, planes, stride, downsample, self.groups)]
        self.inplanes = outputs
        layers += [block(outputs, planes, 1, None, self.groups) for _ in range(1, blocks)]
        return nn.Sequential(*layers)

    def _forward_impl(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        x = self.avgpool(x)
        x = torch.flatten(x, 1)
        return self.fc(x)

    def forward(self, x: Tensor) -> Tensor:
        """`(N, 3, H, W)` to `(N, classes)` logits."""
        return self._forward_impl(x)


class FunctionalBlock(nn.Module):
    """Modules for what has weights, functions for the rest."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv3x3(inputs, outputs, stride), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = conv3x3(outputs, outputs), nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(conv1x1(inputs, outputs, stride), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """`(N, inputs, H, W)` to `(N, outputs, H / stride, W / stride)`."""
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        out = self.bn2(self.conv2(out))
        return F.relu(torch.add(out, self.shortcut(x)))


class FunctionalResNet(nn.Module):
    """Pooling, activation and addition by functions."""

    def __init__(self, width: int = 40) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv3x3(3, width), nn.BatchNorm2d(width)
        widths = (width, width, width * 2, width * 4)
        self.blocks = nn.ModuleList(
            FunctionalBlock(before, after, 1 if stage == 0 else 2)
            for stage, (before, after) in enumerate(itertools.pairwise(widths))
        )
        self.more = nn.ModuleList(FunctionalBlock(after, after, 1) for after in widths[1:])
        self.weight = nn.Parameter(0.1 * torch.randn(100, widths[-1]))
        self.bias = nn.Parameter(torch.zeros(100))

    def forward(self, x: Tensor) -> Tensor:
        """`(N, 3, H, W)` to `(N, 100)` logits."""
        x = F.relu_(self.bn1(self.conv1(x)))
        for block, again in zip(self.blocks, self.more, strict=True):
            x = again(block(x))
        x = F.adaptive_avg_pool2d(x, 1)
        x = x.view(x.size(0), -1)
        x = F.dropout(x, p=0.1, training=self.training)
        return F.linear(x, self.weight, self.bias)


class PreactivationBlock(nn.Module):
    """BatchNorm and ReLU before each convolution; the shortcut starts after the first ReLU."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(inputs), conv3x3(inputs, outputs, stride)
        self.bn2, self.conv2 = nn.BatchNorm2d(outputs), conv3x3(outputs, outputs)
        if stride != 1 or inputs != outputs:
            self.shortcut = conv1x1(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        """`(N, inputs, H, W)` to `(N, outputs, H / stride, W / stride)`."""
        out = F.relu(self.bn1(x))
        shortcut = self.shortcut(out) if hasattr(self, "shortcut") else x
        out = self.conv1(out)
        out = self.conv2(F.relu(self.bn2(out)))
        out += shortcut
        return out


class PreactivationResNet(nn.Module):
    """Identity mappings from block to block."""

    def __init__(self, width: int = 40) -> None:
        super().__init__()
        self.stem = conv3x3(3, width)
        shapes = ((width, width, 1), (width, 2 * width, 2), (2 * width, 4 * width, 2))
        blocks = [
            block
            for inputs, outputs, stride in shapes
            for block in (
                PreactivationBlock(inputs, outputs, stride),
                PreactivationBlock(outputs, outputs, 1),
            )
        ]
        self.blocks = nn.Sequential(*blocks)
        self.bn = nn.BatchNorm2d(4 * width)
        self.fc = nn.Linear(4 * width, 100)

    def forward(self, x: Tensor) -> Tensor:
        """`(N, 3, H, W)` to `(N, 100)` logits."""
        x = F.relu(self.bn(self.blocks(self.stem(x))))
        return self.fc(x.mean(dim=(-2, -1)))


class StdConv2d(nn.Conv2d):
    """A convolution that standardises its weights before each use."""

    def forward(self, x: Tensor) -> Tensor:
        """`(N, C, H, W)` to `(N, K, ...)`."""
        w = self.weight
        v, m = torch.var_mean(w, dim=[1, 2, 3], keepdim=True, unbiased=False)
        w = (w - m) / torch.sqrt(v + 1e-10) * (w[0].numel() ** -0.5)
        return F.conv2d(x, w, self.bias, self.stride, self.padding, self.dilation, self.groups)


class StandardisedBlock(nn.Module):
    """GroupNorm and ReLU before each of three standardised convolutions."""

    def __init__(self, inputs: int, width: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.gn1, self.conv1 = nn.GroupNorm(8, inputs), StdConv2d(inputs, width, 1, bias=False)
        self.gn2, self.conv2 = nn.GroupNorm(8, width), StdConv2d(width, width, 3, stride, 1, bias=False)
        self.gn3, self.conv3 = nn.GroupNorm(8, width), StdConv2d(width, outputs, 1, bias=False)
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Module | None = None
        if stride != 1 or inputs != outputs:
            self.downsample = StdConv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """`(N, inputs, H, W)` to `(N, outputs, H / stride, W / stride)`."""
        out = self.relu(self.gn1(x))
        residual = x
        if self.downsample is not None:
            residual = self.downsample(out)
        out = self.conv1(out)
        out = self.conv2(self.relu(self.gn2(out)))
        out = self.conv3(self.relu(self.gn3(out)))
        return out + residual


class StandardisedResNet(nn.Module):
    """No BatchNorm anywhere."""

    def __init__(self, width: int = 40) -> None:
        super().__init__()
        self.root = nn.Sequential(
            StdConv2d(3, width, 7, 2, 3, bias=False), nn.ConstantPad2d(1, 0.0), nn.MaxPool2d(3, 2)
        )
        blocks, inputs = [], width
        for stage, depth in enumerate((2, 2, 2)):
            outputs = 4 * width << stage
            for index in range(depth):
                stride = 2 if index == 0 and stage > 0 else 1
                blocks.append(StandardisedBlock(inputs, outputs // 4, outputs, stride))
                inputs = outputs
        self.body = nn.Sequential(*blocks)
        self.head = nn.Sequential(
            nn.GroupNorm(8, inputs), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Conv2d(inputs, 100, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        """`(N, 3, H, W)` to `(N, 100)` logits."""
        x = self.head(self.body(self.root(x)))
        assert x.shape[-2:] == (1, 1)
        return x[..., 0, 0]


def _settled(make: Callable[[], nn.Module], size: int = 96) -> nn.Module:
    return settle(make(), torch.randn(4, 3, size, size))


@seeded
def make_resnet18() -> nn.Module:
    """Basic blocks, two a stage."""
    return _settled(lambda: ResNet(BasicBlock, (2, 2, 2, 2), width=48))


@seeded
def make_resnet50() -> nn.Module:
    """Bottlenecks, in ResNet-50's depths."""
    return _settled(lambda: ResNet(Bottleneck, (3, 4, 6, 3), width=32))


@seeded
def make_resnext() -> nn.Module:
    """Bottlenecks with grouped convolutions."""
    return _settled(lambda: ResNet(Bottleneck, (2, 2, 2, 2), width=32, groups=8))


@seeded
def make_squeeze_excite_resnet() -> nn.Module:
    """Basic blocks with gates."""
    return _settled(lambda: ResNet(GatedBlock, (2, 2, 2, 2), width=32))


@seeded
def make_functional_resnet() -> nn.Module:
    """Functions wherever there is one."""
    return _settled(FunctionalResNet, 48)


@seeded
def make_preactivation_resnet() -> nn.Module:
    """BatchNorm before the convolution."""
    return _settled(PreactivationResNet, 48)


@seeded
def make_standardised_resnet() -> nn.Module:
    """Computed weights and GroupNorm."""
    return StandardisedResNet()
