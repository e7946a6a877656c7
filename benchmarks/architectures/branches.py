"""Convolutional networks whose features are joined rather than added, and one without any branch.

Hard to trace: a list or a tensor as input, `isinstance` and `len` in forward, lists that grow, outputs
that are there only while training.
Source: Huang et al., "DenseNet" (2017); Szegedy et al., "Inception" (2015); Simonyan and
Zisserman, "VGG" (2015).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.architectures.weights import seeded, settle, spread_weights

__all__ = ["make_densenet", "make_inception", "make_vgg"]


class DenseLayer(nn.Module):
    """A few more channels from all those before."""

    def __init__(self, inputs: int, growth: int, bn_size: int = 4) -> None:
        super().__init__()
        self.norm1, self.relu1 = nn.BatchNorm2d(inputs), nn.ReLU(inplace=True)
        self.conv1 = nn.Conv2d(inputs, bn_size * growth, 1, bias=False)
        self.norm2, self.relu2 = nn.BatchNorm2d(bn_size * growth), nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(bn_size * growth, growth, 3, padding=1, bias=False)
        self.drop_rate = 0.1

    def bn_function(self, inputs: list[Tensor]) -> Tensor:
        """The bottleneck over all channels joined."""
        concated = torch.cat(inputs, 1)
        return self.conv1(self.relu1(self.norm1(concated)))

    def forward(self, input: Tensor | list[Tensor]) -> Tensor:
        """Maps of one size, or one of them, to `(N, growth, H, W)`."""
        prev_features = [input] if isinstance(input, Tensor) else input
        bottleneck_output = self.bn_function(prev_features)
        new_features = self.conv2(self.relu2(self.norm2(bottleneck_output)))
        if self.drop_rate > 0:
            new_features = F.dropout(new_features, p=self.drop_rate, training=self.training)
        return new_features


class DenseBlock(nn.ModuleDict):
    """Layers that each see the outputs of all before."""

    def __init__(self, layers: int, inputs: int, growth: int) -> None:
        super().__init__()
        for index in range(layers):
            self.add_module(f"denselayer{index + 1}", DenseLayer(inputs + index * growth, growth))

    def forward(self, init_features: Tensor) -> Tensor:
        """`(N, inputs, H, W)` to `(N, inputs + layers * growth, H, W)`."""
        features = [init_features]
        for _, layer in self.items():
            features.append(layer(features))
        assert len(features) == len(self) + 1
        return torch.cat(features, 1)


class DenseNet(nn.Module):
    """The network."""

    def __init__(self, *, growth: int = 32, blocks: tuple[int, ...] = (4, 6, 8)) -> None:
        super().__init__()
        channels = 2 * growth
        self.features = nn.Sequential()
        self.features.add_module("conv0", nn.Conv2d(3, channels, 7, 2, 3, bias=False))
        self.features.add_module("norm0", nn.BatchNorm2d(channels))
        self.features.add_module("relu0", nn.ReLU(inplace=True))
        self.features.add_module("pool0", nn.MaxPool2d(3, 2, 1))
        for index, layers in enumerate(blocks):
            self.features.add_module(f"denseblock{index + 1}", DenseBlock(layers, channels, growth))
            channels += layers * growth
            if index < len(blocks) - 1:
                transition = nn.Sequential(
                    nn.BatchNorm2d(channels),
                    nn.ReLU(inplace=True),
                    nn.Conv2d(channels, channels // 2, 1, bias=False),
                    nn.AvgPool2d(2, 2),
                )
                self.features.add_module(f"transition{index + 1}", transition)
                channels //= 2
        self.features.add_module("norm5", nn.BatchNorm2d(channels))
        self.classifier = nn.Linear(channels, 100)

    def forward(self, x: Tensor) -> Tensor:
        """`(N, 3, H, W)` to `(N, 100)` logits."""
        features = self.features(x)
        out = F.relu(features, inplace=True)
        out = F.adaptive_avg_pool2d(out, (1, 1))
        return self.classifier(torch.flatten(out, 1))


class BasicConv2d(nn.Module):
    """Convolution, BatchNorm, and `F.relu` in place."""

    def __init__(self, inputs: int, outputs: int, **kwargs: object) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, bias=False, **kwargs)
        self.bn = nn.BatchNorm2d(outputs, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        """`(N, inputs, H, W)` to `(N, outputs, ...)`."""
        x = self.conv(x)
        x = self.bn(x)
        return F.relu(x, inplace=True)


class InceptionBlock(nn.Module):
    """Four branches side by side; one of them forks again."""

    def __init__(self, inputs: int, width: int, pooled: int) -> None:
        super().__init__()
        self.branch1x1 = BasicConv2d(inputs, width, kernel_size=1)
        self.branch7x7_1 = BasicConv2d(inputs, width, kernel_size=1)
        self.branch7x7_2 = BasicConv2d(width, width, kernel_size=(1, 7), padding=(0, 3))
        self.branch7x7_3 = BasicConv2d(width, width, kernel_size=(7, 1), padding=(3, 0))
        self.branch3x3_1 = BasicConv2d(inputs, width, kernel_size=1)
        self.branch3x3_2a = BasicConv2d(width, width // 2, kernel_size=(1, 3), padding=(0, 1))
        self.branch3x3_2b = BasicConv2d(width, width // 2, kernel_size=(3, 1), padding=(1, 0))
        self.branch_pool = BasicConv2d(inputs, pooled, kernel_size=1)
        self.out_channels = 3 * width + pooled

    def _forward(self, x: Tensor) -> list[Tensor]:
        branch1x1 = self.branch1x1(x)
        branch7x7 = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        branch3x3 = self.branch3x3_1(x)
        branch3x3 = [self.branch3x3_2a(branch3x3), self.branch3x3_2b(branch3x3)]
        branch3x3 = torch.cat(branch3x3, 1)
        branch_pool = F.avg_pool2d(x, kernel_size=3, stride=1, padding=1)
        branch_pool = self.branch_pool(branch_pool)
        return [branch1x1, branch7x7, branch3x3, branch_pool]

    def forward(self, x: Tensor) -> Tensor:
        """`(N, inputs, H, W)` to `(N, out_channels, H, W)`."""
        outputs = self._forward(x)
        return torch.cat(outputs, 1)


class Inception(nn.Module):
    """The network; while training, a second classifier half way."""

    def __init__(self) -> None:
        super().__init__()
        self.transform_input = True
        self.stem = nn.Sequential(
            BasicConv2d(3, 32, kernel_size=3, stride=2, padding=1),
            BasicConv2d(32, 64, kernel_size=3, padding=1),
        )
        self.mixed1 = InceptionBlock(64, 64, 48)
        self.mixed2 = InceptionBlock(self.mixed1.out_channels, 96, 64)
        self.mixed3 = InceptionBlock(self.mixed2.out_channels, 160, 112)
        self.aux = nn.Linear(self.mixed2.out_channels, 100)
        self.dropout = nn.Dropout(p=0.2)
        self.fc = nn.Linear(self.mixed3.out_channels, 100)

    def _transform_input(self, x: Tensor) -> Tensor:
        if self.transform_input:
            red = torch.unsqueeze(x[:, 0], 1) * 0.458 - 0.03
            green = torch.unsqueeze(x[:, 1], 1) * 0.448 - 0.088
            blue = torch.unsqueeze(x[:, 2], 1) * 0.45 - 0.188
            x = torch.cat((red, green, blue), 1)
        return x

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """`(N, 3, H, W)` to `(N, 100)` logits, twice while training."""
        x = self.stem(self._transform_input(x))
        x = F.max_pool2d(x, kernel_size=3, stride=2)
        x = self.mixed2(self.mixed1(x))
        aux = None
        if self.training:
            aux = self.aux(x.mean((2, 3)))
        x = self.mixed3(F.max_pool2d(x, kernel_size=3, stride=2, ceil_mode=True))
        x = F.adaptive_avg_pool2d(x, (1, 1))
        x = self.fc(torch.flatten(self.dropout(x), 1))
        return (x, aux) if aux is not None else x


class VGG(nn.Module):
    """Convolutions with ReLU one after another, made from a list of widths and pools; no BatchNorm."""

    def __init__(self, layers: tuple[int | str, ...]) -> None:
        super().__init__()
        features: list[nn.Module] = []
        inputs = 3
        for layer in layers:
            if layer == "M":
                features += [nn.MaxPool2d(kernel_size=2, stride=2)]
            else:
                features += [nn.Conv2d(inputs, int(layer), 3, padding=1), nn.ReLU(inplace=True)]
                inputs = int(layer)
        self.features = nn.Sequential(*features)
        self.avgpool = nn.AdaptiveAvgPool2d((3, 3))
        self.classifier = nn.Sequential(
            nn.Linear(inputs * 9, 512), nn.ReLU(True), nn.Dropout(), nn.Linear(512, 100)
        )

    def forward(self, x: Tensor) -> Tensor:
        """`(N, 3, H, W)` to `(N, 100)` logits."""
        x = self.avgpool(self.features(x))
        x = torch.flatten(x, 1)
        return self.classifier(x)


@seeded
def make_densenet() -> nn.Module:
    """Three dense blocks."""
    return settle(DenseNet(), torch.randn(4, 3, 96, 96))


@seeded
def make_inception() -> nn.Module:
    """Three blocks of branches."""
    return settle(Inception(), torch.randn(4, 3, 64, 64))


@seeded
def make_vgg() -> nn.Module:
    """Seven convolutions and four pools."""
    return spread_weights(VGG((32, "M", 64, "M", 128, 128, "M", 256, 256, "M")))
