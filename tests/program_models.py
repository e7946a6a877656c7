"""Small models that tests of programs share, and how two results are compared."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._pytree import tree_leaves

import intaglio
from intaglio import DeQuantStub, FloatFunctional, QTensor, QuantStub


def tensors(result: Any) -> list[Tensor]:
    leaves = tree_leaves(result, is_leaf=lambda x: isinstance(x, QTensor))
    return [
        leaf.data if isinstance(leaf, QTensor) else leaf
        for leaf in leaves
        if torch.is_tensor(leaf) or isinstance(leaf, QTensor)
    ]


def same_bits(found: Any, expected: Any) -> bool:
    """Whether results hold equal tensors, at least one, and are nested alike."""
    pairs = list(zip(tensors(found), tensors(expected), strict=True))
    alike = type(found) is type(expected) and bool(pairs)
    return alike and all(
        (a.shape, a.dtype) == (b.shape, b.dtype) and torch.equal(a.nan_to_num(7.5), b.nan_to_num(7.5))
        for a, b in pairs
    )


def sqnr(found: Tensor, expected: Tensor) -> float:
    return float(20 * torch.log10(expected.norm() / (found - expected).norm().clamp(min=1e-30)))


def converted(model: nn.Module, *inputs: Any) -> nn.Module:
    """The model in static form, calibrated on these inputs."""
    model = model.eval().requires_grad_(False)
    model.qconfig = intaglio.get_default_qconfig("x86")
    prepared = intaglio.prepare(model)
    prepared(*inputs)
    return intaglio.convert(prepared)


def converted_fx(model: nn.Module, *inputs: Any) -> nn.Module:
    """The same by graph mode."""
    model = model.eval().requires_grad_(False)
    prepared = intaglio.prepare_fx(model, intaglio.get_default_qconfig_mapping("x86"), inputs)
    prepared(*inputs)
    return intaglio.convert_fx(prepared)


# ---- Images ------------------------------------------------------------------------------------------------


class Stem(nn.Module):
    """A base of models: quantize, `body`, dequantize."""

    def __init__(self) -> None:
        super().__init__()
        self.quant, self.dequant = QuantStub(), DeQuantStub()
        self.f = nn.ModuleDict()
        self.make()

    def use(self, name: str) -> FloatFunctional:
        return self.f[name]  # type: ignore[return-value]

    def make(self) -> None:
        raise NotImplementedError

    def body(self, x: Any) -> Any:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Any:
        return self.dequant(self.body(self.quant(x)))


class Residual(Stem):
    def make(self) -> None:
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.conv1 = nn.Conv2d(8, 8, 3, padding=1)
        self.relu = nn.ReLU()
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1)
        self.plus = FloatFunctional()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(8, 5)

    def body(self, x: Any) -> Any:
        x = self.stem(x)
        x = self.plus.add_relu(x, self.conv2(self.relu(self.conv1(x))))
        return self.fc(torch.flatten(self.pool(x), 1))


class Convolutions(Stem):
    """Depthwise, grouped, dilated, transposed and padded by reflection."""

    def make(self) -> None:
        self.convs = nn.Sequential(
            nn.Conv2d(3, 12, 1),
            nn.Conv2d(12, 12, 3, padding=1, groups=12, stride=2),
            nn.Hardswish(),
            nn.Conv2d(12, 8, 3, padding=2, groups=4, dilation=2),
            nn.Conv2d(8, 6, 3, padding=1, padding_mode="reflect"),
            nn.Sigmoid(),
            nn.ConvTranspose2d(6, 5, 3, stride=2, padding=1, output_padding=1),
        )

    def body(self, x: Any) -> Any:
        return self.convs(x)


class Gate(Stem):
    """Squeeze and excitation: a product with one value for each channel."""

    def make(self) -> None:
        self.conv = nn.Conv2d(3, 8, 3)
        self.down, self.up = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1)
        self.relu, self.sigmoid = nn.ReLU(), nn.Sigmoid()
        self.times, self.shift = FloatFunctional(), FloatFunctional()

    def body(self, x: Any) -> Any:
        x = self.conv(x)
        gate = self.sigmoid(self.up(self.relu(self.down(x.mean((2, 3), keepdim=True)))))
        x = self.times.mul(x, gate)
        return self.shift.add(x, gate)


class Pools(Stem):
    """Every kind of pool, joined."""

    def make(self) -> None:
        self.pools = nn.ModuleList(
            [
                nn.MaxPool2d(3, 2, 1, ceil_mode=True),
                nn.AvgPool2d(3, 2, 1, ceil_mode=True, count_include_pad=False),
                nn.AvgPool2d(3, 2, 1, ceil_mode=True),
                nn.AdaptiveAvgPool2d(9),
                nn.AdaptiveMaxPool2d(9),
            ]
        )
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.join = FloatFunctional()

    def body(self, x: Any) -> Any:
        x = self.conv(x)
        parts = [F.adaptive_avg_pool2d(pool(x), 9) for pool in self.pools]
        return self.join.cat(parts, 1)


class Shuffle(Stem):
    """Chunks, splits, permutations and other shapes; scalars; padding."""

    def make(self) -> None:
        self.left, self.right = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 3, padding=1)
        self.first = nn.Conv2d(3, 8, 1)
        self.join, self.scalar, self.factor = FloatFunctional(), FloatFunctional(), FloatFunctional()
        self.fc = nn.Linear(8, 6)

    def body(self, x: Any) -> Any:
        a, b = self.first(x).chunk(2, 1)
        x = self.join.cat([self.left(a), self.right(b)], 1)
        n, c, h, w = x.shape
        x = x.reshape(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
        x = self.factor.mul_scalar(self.scalar.add_scalar(x, 0.5), -1.5)
        x = F.pad(x, (1, 2, 0, 1))
        u, v, _ = torch.split(x, [3, 4, x.shape[2] - 7], 2)
        return self.fc(u.permute(0, 2, 3, 1)), v[:, 1::2, :, 0].flatten(1)


class Norms(Stem):
    """Normalization of quantized values, and products of matrices."""

    def make(self) -> None:
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.group, self.instance = nn.GroupNorm(2, 8), nn.InstanceNorm2d(8, affine=True)
        self.batch = nn.BatchNorm2d(8)
        self.layer = nn.LayerNorm(8)
        self.mat, self.plus = FloatFunctional(), FloatFunctional()

    def body(self, x: Any) -> Any:
        x = self.plus.add(self.group(self.conv(x)), self.instance(self.conv(x)))
        x = self.layer(self.batch(x).flatten(2).transpose(1, 2))
        return self.mat.matmul(x, x.transpose(1, 2))


class Branches(nn.Module):
    """Plain functions, for graph mode."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1, groups=2)
        self.norm, self.fc = nn.BatchNorm2d(6), nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.conv1(x)))
        y = F.hardswish(self.conv2(x)) + x
        y = torch.cat([y, F.max_pool2d(x, 3, 1, 1)], 1)
        return self.fc(y.mean((2, 3)) * 2.0)


IMAGE_MODELS: list[type[Stem]] = [Residual, Convolutions, Gate, Pools, Shuffle, Norms]


def image(batch: int = 2, size: tuple[int, int] = (17, 18), seed: int = 5) -> Tensor:
    return torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(seed))


def image_model(kind: Callable[[], nn.Module]) -> nn.Module:
    """One of the models above, converted."""
    torch.manual_seed(1)
    return converted(kind(), image(4))


# ---- Sequences ---------------------------------------------------------------------------------------------


class PreNorm(nn.Module):
    """A block of a language model: grouped causal attention, a gated product, root mean square norms."""

    def __init__(self, width: int = 16, heads: int = 4, kv_heads: int = 2) -> None:
        super().__init__()
        self.heads, self.kv_heads = heads, kv_heads
        self.norm1, self.norm2 = nn.RMSNorm(width), nn.LayerNorm(width)
        self.q = nn.Linear(width, width, bias=False)
        self.kv = nn.Linear(width, 2 * width // heads * kv_heads, bias=False)
        self.out = nn.Linear(width, width)
        self.gate, self.up, self.down = nn.Linear(width, 24), nn.Linear(width, 24), nn.Linear(24, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        y = self.norm1(x)
        depth = width // self.heads
        q = self.q(y).view(batch, length, self.heads, depth).transpose(1, 2)
        k, v = self.kv(y).chunk(2, -1)
        k, v = (t.reshape(batch, length, self.kv_heads, depth).transpose(1, 2) for t in (k, v))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        x = x + self.out(y.transpose(1, 2).reshape(batch, length, width))
        y = self.norm2(x)
        return x + self.down(F.silu(self.gate(y)) * self.up(y))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(6, 8, num_layers=2, bidirectional=True, batch_first=True)
        self.fc = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.lstm(x)[0])


def dynamic(model: nn.Module, **more: Any) -> nn.Module:
    return intaglio.quantize_dynamic(model.eval().requires_grad_(False), **more)


def with_arguments(layer: nn.Module, count: int) -> nn.Module:
    """A model whose forward passes `count` named arguments to `layer`."""
    names = ", ".join(f"x{i}" for i in range(count))
    scope: dict[str, Callable[..., Any]] = {}
    exec(f"def forward(self, {names}):\n    return self.layer({names})", scope)
    model = type("Held", (nn.Module,), {"forward": scope["forward"]})()
    model.layer = layer
    return model.eval()
