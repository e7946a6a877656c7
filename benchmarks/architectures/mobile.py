"""Small convolutional networks for phones.

Hard to trace or to fuse: channels split, shuffled, sliced and joined, hard activations by functions, padding
and widths computed in the constructor, parallel branches that are summed before one activation.
Source: Sandler et al., "MobileNetV2" (2018); Howard et al., "MobileNetV3" (2019); Ma et al., "ShuffleNet V2"
(2018); Han et al., "GhostNet" (2020); Ding et al., "RepVGG" (2021).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.architectures.weights import seeded, settle

__all__ = [
    "make_functional_mobilenet",
    "make_ghostnet",
    "make_mobilenet_v2",
    "make_mobilenet_v3",
    "make_repvgg",
    "make_shufflenet",
]


class ConvBNReLU(nn.Sequential):
    """Convolution, BatchNorm, ReLU6."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> None:
        padding = (kernel - 1) // 2
        super().__init__(
            nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU6(inplace=True),
        )
        self.out_channels = outputs


class InvertedResidual(nn.Module):
    """Expand, convolve each channel, project; added to the input where shapes allow."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        assert stride in (1, 2), f"a stride of {stride} is not made for"
        hidden = round(inputs * expansion)
        self.use_res_connect = stride == 1 and inputs == outputs
        layers: list[nn.Module] = []
        if expansion != 1:
            layers.append(ConvBNReLU(inputs, hidden, kernel=1))
        layers.extend(
            [
                ConvBNReLU(hidden, hidden, stride=stride, groups=hidden),
                nn.Conv2d(hidden, outputs, 1, bias=False),
                nn.BatchNorm2d(outputs),
            ]
        )
        self.conv = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """`(N, inputs, H, W)` to `(N, outputs, H / stride, W / stride)`."""
        if self.use_res_connect:
            return x + self.conv(x)
        return self.conv(x)


MOBILE_STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 2, 2), (6, 64, 3, 2), (6, 96, 2, 1), (6, 160, 2, 2))


class MobileNetV2(nn.Module):
    """The network."""

    def __init__(self) -> None:
        super().__init__()
        features: list[nn.Module] = [ConvBNReLU(3, 32, stride=2)]
        inputs = 32
        for expansion, outputs, repeats, stride in MOBILE_STAGES:
            for index in range(repeats):
                features.append(InvertedResidual(inputs, outputs, stride if index == 0 else 1, expansion))
                inputs = outputs
        features.append(ConvBNReLU(inputs, 1280, kernel=1))
        self.features = nn.Sequential(*features)
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(1280, 100))

    def forward(self, x: Tensor) -> Tensor:
        """`(N, 3, H, W)` to `(N, 100)` logits."""
        x = self.features(x)
        x = F.adaptive_avg_pool2d(x, (1, 1))
        x = torch.flatten(x, 1)
        return self.classifier(x)


class FunctionalInverted(nn.Module):
    """The same block with `F.relu6` and the addition in place."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.stride = stride
        self.conv1, self.bn1 = nn.Conv2d(inputs, hidden, 1, bias=False), nn.BatchNorm2d(hidden)
        self.conv2 = nn.Conv2d(hidden, hidden, 3, stride, 1, groups=hidden, bias=False)
        self.bn2 = nn.BatchNorm2d(hidden)
        self.conv3, self.bn3 = nn.Conv2d(hidden, outputs, 1, bias=False), nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """`(N, inputs, H, W)` to `(N, outputs, H / stride, W / stride)`."""
        out = F.relu6(self.bn1(self.conv1(x)))
        out = F.hardtanh(self.bn2(self.conv2(out)), 0.0, 6.0)
        out = self.bn3(self.conv3(out))
        return out.add_(x) if self.stride == 1 and x.shape == out.shape else out


class FunctionalMobileNet(nn.Module):
    """No module without weights."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 32, 3, 2, 1, bias=False), nn.BatchNorm2d(32)
        self.layers = nn.Sequential()
        inputs = 32
        for expansion, outputs, repeats, stride in MOBILE_STAGES:
            for index in range(repeats):
                block = FunctionalInverted(inputs, outputs, stride if index == 0 else 1, expansion)
                self.layers.append(block)
                inputs = outputs
        self.conv2, self.bn2 = nn.Conv2d(inputs, 1280, 1, bias=False), nn.BatchNorm2d(1280)
        self.linear = nn.Linear(1280, 100)

    def forward(self, x: Tensor) -> Tensor:
        """`(N, 3, H, W)` to `(N, 100)` logits."""
        out = F.relu6(self.bn1(self.conv1(x)))
        out = self.layers(out)
        out = self.bn2(self.conv2(out)).clamp(0.0, 6.0)
        out = F.avg_pool2d(out, out.shape[-2:])
        out = out.reshape(out.shape[0], -1)
        return self.linear(out)


def make_divisible(value: float, divisor: int = 8) -> int:
    """The nearest multiple of `divisor` that is no more than a tenth below `value`."""
    nearest = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return nearest + divisor if nearest < 0.9 * value else nearest


class HardGate(nn.Module):
    """Squeeze-and-excite with `F.hardsigmoid`."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        reduced = make_divisible(channels / 4)
        self.fc1, self.fc2 = nn.Linear(channels, reduced), nn.Linear(reduced, channels)

    def forward(self, x: Tensor) -> Tensor:
        """`(N, channels, H, W)` to the same."""
        b, c, _, _ = x.size()
        y = F.adaptive_avg_pool2d(x, 1).view(b, c)
        y = F.hardsigmoid(self.fc2(F.relu(self.fc1(y)))).view(b, c, 1, 1)
        return x * y.expand_as(x)


class MobileV3Block(nn.Module):
    """An inverted bottleneck with a gate or without, with `F.hardswish` or `F.relu`."""

    def __init__(
        self, inputs: int, hidden: int, outputs: int, kernel: int, stride: int, gated: bool, hard: bool
    ) -> None:
        super().__init__()
        self.nonlinearity = F.hardswish if hard else F.relu
        self.expand, self.bn1 = nn.Conv2d(inputs, hidden, 1, bias=False), nn.BatchNorm2d(hidden)
        self.depthwise = nn.Conv2d(hidden, hidden, kernel, stride, kernel // 2, groups=hidden, bias=False)
        self.bn2 = nn.BatchNorm2d(hidden)
        self.gate = HardGate(hidden) if gated else None
        self.project, self.bn3 = nn.Conv2d(hidden, outputs, 1, bias=False), nn.BatchNorm2d(outputs)
        self.identity = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """`(N, inputs, H, W)` to `(N, outputs, H / stride, W / stride)`."""
        y = self.nonlinearity(self.bn1(self.expand(x)))
        y = self.nonlinearity(self.bn2(self.depthwise(y)))
        if self.gate is not None:
            y = self.gate(y)
        y = self.bn3(self.project(y))
        return x + y if self.identity else y


class MobileNetV3(nn.Module):
    """The network."""

    STAGES = (
        (32, 16, 3, 1, False, False),
        (64, 24, 3, 2, False, False),
        (88, 24, 3, 1, False, False),
        (96, 40, 5, 2, True, True),
        (240, 40, 5, 1, True, True),
        (240, 80, 3, 2, False, True),
        (320, 80, 5, 1, True, True),
        (480, 112, 5, 1, True, True),
        (640, 112, 5, 1, True, True),
    )

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.Hardswish(inplace=True)
        )
        blocks, inputs = [], 16
        for hidden, outputs, *rest in self.STAGES:
            blocks.append(MobileV3Block(inputs, hidden, outputs, *rest))
            inputs = outputs
        self.blocks = nn.Sequential(*blocks)
        self.last, self.bn = nn.Conv2d(inputs, 480, 1, bias=False), nn.BatchNorm2d(480)
        self.pre, self.classifier = nn.Linear(480, 512), nn.Linear(512, 100)

    def forward(self, x: Tensor) -> Tensor:
        """`(N, 3, H, W)` to `(N, 100)` logits."""
        x = self.blocks(self.stem(x))
        x = F.hardswish(self.bn(self.last(x)), inplace=True)
        x = x.mean([2, 3])
        return self.classifier(F.dropout(F.hardswish(self.pre(x)), p=0.2, training=self.training))


def channel_shuffle(x: Tensor, groups: int) -> Tensor:
    """Deal the channels of each group out to all."""
    batchsize, num_channels, height, width = x.size()
    channels_per_group = num_channels // groups
    x = x.view(batchsize, groups, channels_per_group, height, width)
    x = torch.transpose(x, 1, 2).contiguous()
    return x.view(batchsize, num_channels, height, width)


def depthwise(channels: int, stride: int) -> nn.Conv2d:
    """A 3x3 convolution of each channel."""
    return nn.Conv2d(channels, channels, 3, stride, 1, groups=channels, bias=False)


def pointwise(inputs: int, outputs: int) -> list[nn.Module]:
    """1x1 convolution, BatchNorm, ReLU."""
    return [nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]


class ShuffleUnit(nn.Module):
    """Half of the channels convolved, or all in two branches where the size is halved; then shuffled."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        half = outputs // 2
        self.branch1 = nn.Sequential()
        if stride > 1:
            self.branch1 = nn.Sequential(
                depthwise(inputs, stride), nn.BatchNorm2d(inputs), *pointwise(inputs, half)
            )
        self.branch2 = nn.Sequential(
            *pointwise(inputs if stride > 1 else half, half),
            depthwise(half, stride),
            nn.BatchNorm2d(half),
            *pointwise(half, half),
        )

    def forward(self, x: Tensor) -> Tensor:
        """`(N, inputs, H, W)` to `(N, outputs, H / stride, W / stride)`."""
        if self.stride == 1:
            x1, x2 = x.chunk(2, dim=1)
            out = torch.cat((x1, self.branch2(x2)), dim=1)
        else:
            out = torch.cat((self.branch1(x), self.branch2(x)), dim=1)
        return channel_shuffle(out, 2)


class ShuffleNet(nn.Module):
    """The network."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Sequential(
            nn.Conv2d(3, 24, 3, 2, 1, bias=False), nn.BatchNorm2d(24), nn.ReLU(inplace=True)
        )
        inputs = 24
        for name, repeats, outputs in (("stage2", 4, 116), ("stage3", 6, 232), ("stage4", 4, 464)):
            units = [ShuffleUnit(inputs, outputs, 2)]
            units += [ShuffleUnit(outputs, outputs, 1) for _ in range(repeats - 1)]
            setattr(self, name, nn.Sequential(*units))
            inputs = outputs
        self.conv5 = nn.Sequential(*pointwise(inputs, 512))
        self.fc = nn.Linear(512, 100)

    def forward(self, x: Tensor) -> Tensor:
        """`(N, 3, H, W)` to `(N, 100)` logits."""
        x = self.conv1(x)
        for stage in (self.stage2, self.stage3, self.stage4):
            x = stage(x)
        return self.fc(self.conv5(x).mean([2, 3]))


class GhostModule(nn.Module):
    """Some channels by a convolution, the others cheaply from them, cut to the number wanted."""

    def __init__(self, inputs: int, outputs: int, *, relu: bool = True) -> None:
        super().__init__()
        self.oup = outputs
        first = math.ceil(outputs / 2)
        self.primary_conv = nn.Sequential(
            nn.Conv2d(inputs, first, 1, bias=False),
            nn.BatchNorm2d(first),
            nn.ReLU(inplace=True) if relu else nn.Sequential(),
        )
        self.cheap_operation = nn.Sequential(
            depthwise(first, 1), nn.BatchNorm2d(first), nn.ReLU(inplace=True) if relu else nn.Sequential()
        )

    def forward(self, x: Tensor) -> Tensor:
        """`(N, inputs, H, W)` to `(N, outputs, H, W)`."""
        x1 = self.primary_conv(x)
        x2 = self.cheap_operation(x1)
        out = torch.cat([x1, x2], dim=1)
        return out[:, : self.oup, :, :]


class GhostBottleneck(nn.Module):
    """Two ghost modules with a strided convolution between where the size is halved."""

    def __init__(self, inputs: int, hidden: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.ghost1 = GhostModule(inputs, hidden)
        if self.stride > 1:
            self.conv_dw, self.bn_dw = depthwise(hidden, stride), nn.BatchNorm2d(hidden)
        self.ghost2 = GhostModule(hidden, outputs, relu=False)
        if inputs == outputs and stride == 1:
            self.shortcut = nn.Sequential()
        else:
            self.shortcut = nn.Sequential(
                depthwise(inputs, stride),
                nn.BatchNorm2d(inputs),
                nn.Conv2d(inputs, outputs, 1, bias=False),
                nn.BatchNorm2d(outputs),
            )

    def forward(self, x: Tensor) -> Tensor:
        """`(N, inputs, H, W)` to `(N, outputs, H / stride, W / stride)`."""
        residual = x
        x = self.ghost1(x)
        if self.stride > 1:
            x = self.bn_dw(self.conv_dw(x))
        x = self.ghost2(x)
        x += self.shortcut(residual)
        return x


class GhostNet(nn.Module):
    """The network; some widths are odd, so that the cut is needed."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_stem, self.bn1 = nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16)
        shapes = (
            (16, 16, 1),
            (48, 24, 2),
            (73, 24, 1),
            (120, 40, 2),
            (241, 40, 1),
            (400, 80, 2),
            (801, 80, 1),
        )
        blocks, inputs = [], 16
        for hidden, outputs, stride in shapes:
            blocks.append(GhostBottleneck(inputs, hidden, outputs, stride))
            inputs = outputs
        self.blocks = nn.Sequential(*blocks, *pointwise(inputs, 960))
        self.global_pool = nn.AdaptiveAvgPool2d((1, 1))
        self.conv_head, self.classifier = nn.Conv2d(960, 1280, 1), nn.Linear(1280, 100)

    def forward(self, x: Tensor) -> Tensor:
        """`(N, 3, H, W)` to `(N, 100)` logits."""
        x = F.relu(self.bn1(self.conv_stem(x)))
        x = self.global_pool(self.blocks(x))
        x = F.relu(self.conv_head(x), inplace=True)
        return self.classifier(x.view(x.size(0), -1))


class RepBlock(nn.Module):
    """Three branches under one ReLU: a 3x3, a 1x1, and the input's own BatchNorm where shapes allow."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.nonlinearity = nn.ReLU()
        self.rbr_identity = nn.BatchNorm2d(inputs) if inputs == outputs and stride == 1 else None
        self.rbr_dense = nn.Sequential()
        self.rbr_dense.add_module("conv", nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False))
        self.rbr_dense.add_module("bn", nn.BatchNorm2d(outputs))
        self.rbr_1x1 = nn.Sequential()
        self.rbr_1x1.add_module("conv", nn.Conv2d(inputs, outputs, 1, stride, bias=False))
        self.rbr_1x1.add_module("bn", nn.BatchNorm2d(outputs))

    def forward(self, inputs: Tensor) -> Tensor:
        """`(N, inputs, H, W)` to `(N, outputs, H / stride, W / stride)`."""
        if hasattr(self, "rbr_reparam"):
            return self.nonlinearity(self.rbr_reparam(inputs))
        id_out = 0 if self.rbr_identity is None else self.rbr_identity(inputs)
        return self.nonlinearity(self.rbr_dense(inputs) + self.rbr_1x1(inputs) + id_out)


class RepVGG(nn.Module):
    """The network as it is trained, its branches not merged."""

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.ModuleList()
        inputs = 3
        for repeats, outputs in ((1, 32), (2, 64), (3, 112), (2, 224)):
            for index in range(repeats):
                self.stages.append(RepBlock(inputs, outputs, 2 if index == 0 else 1))
                inputs = outputs
        self.gap = nn.AdaptiveAvgPool2d(output_size=1)
        self.linear = nn.Linear(inputs, 100)

    def forward(self, x: Tensor) -> Tensor:
        """`(N, 3, H, W)` to `(N, 100)` logits."""
        for block in self.stages:
            x = block(x)
        out = self.gap(x)
        return self.linear(out.view(out.size(0), -1))


def _settled(model: nn.Module) -> nn.Module:
    return settle(model, torch.randn(4, 3, 96, 96))


@seeded
def make_mobilenet_v2() -> nn.Module:
    """ReLU6 modules and additions by `+`."""
    return _settled(MobileNetV2())


@seeded
def make_functional_mobilenet() -> nn.Module:
    """ReLU6 in three spellings."""
    return _settled(FunctionalMobileNet())


@seeded
def make_mobilenet_v3() -> nn.Module:
    """Hard swishes and hard gates."""
    return _settled(MobileNetV3())


@seeded
def make_shufflenet() -> nn.Module:
    """Channels split and shuffled."""
    return _settled(ShuffleNet())


@seeded
def make_ghostnet() -> nn.Module:
    """Channels cut to an odd number."""
    return _settled(GhostNet())


@seeded
def make_repvgg() -> nn.Module:
    """Branches summed under one ReLU."""
    return _settled(RepVGG())
