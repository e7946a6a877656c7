"""Functions, methods and operators become integers as modules do; what has none stays float and right.

By hand this is stubs and a FloatFunctional at each place: pytorch/pytorch#133087, #18318, #34583.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import intaglio
from tests.fx.quantized_models import kinds, quantize, sqnr

Function = Callable[[Tensor], Tensor]


class Between(nn.Module):
    """A function between two convolutions, so that it meets integers and gives some."""

    def __init__(self, function: Function) -> None:
        super().__init__()
        self.before, self.after = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 1)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.function(self.before(x)))


def _in_place(x: Tensor) -> Tensor:
    x += 1.0
    x.mul_(0.5)
    return F.relu_(x)


def _bottom_up(x: Tensor) -> Tensor:
    left, right = x.chunk(2, dim=1)
    return torch.cat([right, left], 1)


def _scaled(x: Tensor) -> Tensor:
    return 2.0 * x - 1


FUNCTIONS: dict[str, Function] = {
    "F.relu": F.relu,
    "torch.relu": torch.relu,
    "Tensor.relu": lambda x: x.relu(),
    "F.relu6": F.relu6,
    "F.hardtanh": lambda x: F.hardtanh(x, -0.5, 0.7),
    "torch.clamp": lambda x: torch.clamp(x, -0.3, 0.6),
    "Tensor.clamp, one end": lambda x: x.clamp(min=0),
    "F.leaky_relu": lambda x: F.leaky_relu(x, 0.2),
    "F.elu": F.elu,
    "F.celu": F.celu,
    "F.selu": F.selu,
    "F.gelu": lambda x: F.gelu(x, approximate="tanh"),
    "F.silu": lambda x: F.silu(x, inplace=True),
    "F.mish": F.mish,
    "F.softplus": lambda x: F.softplus(x, 2.0),
    "F.hardswish": F.hardswish,
    "F.hardsigmoid": F.hardsigmoid,
    "torch.sigmoid": torch.sigmoid,
    "Tensor.sigmoid": lambda x: x.sigmoid(),
    "torch.tanh": torch.tanh,
    "F.logsigmoid": F.logsigmoid,
    "F.softsign": F.softsign,
    "F.tanhshrink": F.tanhshrink,
    "F.softshrink": lambda x: F.softshrink(x, 0.1),
    "F.hardshrink": lambda x: F.hardshrink(x, 0.1),
    "F.threshold": lambda x: F.threshold(x, 0.1, 0.0),
    "add": lambda x: x + x.flip(2),
    "torch.add with alpha": lambda x: torch.add(x, x.flip(3), alpha=0.5),
    "Tensor.add": lambda x: x.add(x.flip(2)),
    "sub": lambda x: x - x.flip(2),
    "mul": lambda x: x * x.flip(2),
    "torch.mul": lambda x: torch.mul(x, x.flip(3)),
    "numbers": _scaled,
    "1 - x": lambda x: 1.0 - x,
    "x / 3": lambda x: x / 3,
    "neg": lambda x: -x,
    "square": torch.square,
    "in place": _in_place,
    "chunk and cat": _bottom_up,
    "stack": lambda x: torch.stack([x, x.flip(2)], 1).flatten(0, 1),
    "F.max_pool2d": lambda x: F.max_pool2d(x, 2),
    "F.avg_pool2d": lambda x: F.avg_pool2d(x, 2),
    "F.adaptive_avg_pool2d": lambda x: F.adaptive_avg_pool2d(x, 3),
    "mean": lambda x: x.mean((2, 3), keepdim=True),
    "F.pad": lambda x: F.pad(x, (1, 2, 0, 1)),
    "F.pad, reflected": lambda x: F.pad(x, (1, 1, 1, 1), mode="reflect"),
    "F.interpolate": lambda x: F.interpolate(x, scale_factor=2),
    "F.interpolate, bilinear": lambda x: F.interpolate(x, size=(9, 7), mode="bilinear"),
    "F.pixel_shuffle": lambda x: F.pixel_shuffle(F.pixel_unshuffle(x, 2), 2),
    "moves": lambda x: x.permute(0, 2, 3, 1).contiguous().transpose(1, 3).reshape(x.shape[0], 8, -1, 8),
    "slices": lambda x: x[:, :, 1:-1, ::2],
    "split": lambda x: operator.add(*x.split(4, dim=1)).repeat(1, 2, 1, 1),
    "dropout": lambda x: F.dropout(x, training=False),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_between_layers_is_made_on_integers(name: str) -> None:
    model = Between(FUNCTIONS[name]).eval()
    inputs = [torch.randn(2, 3, 8, 8) for _ in range(4)]
    converted = quantize(model, *inputs)
    assert kinds(converted).count("Quantize") == 1
    assert kinds(converted).count("DeQuantize") == 1
    assert sqnr(converted(inputs[0]), model(inputs[0])) > 22
    larger = torch.randn(3, 3, 8, 8)
    assert sqnr(converted(larger), model(larger)) > 18


class Weighted(nn.Module):
    """Layers called as functions, with parameters of the module's own."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(6, 3, 3, 3) / 5)
        self.shift = nn.Parameter(torch.randn(6))
        self.up = nn.Parameter(torch.randn(6, 4, 2, 2) / 3)
        self.gain, self.offset = nn.Parameter(torch.rand(4) + 0.5), nn.Parameter(torch.randn(4))
        self.mean: Tensor
        self.register_buffer("mean", torch.randn(4) / 5)
        self.register_buffer("variance", torch.rand(4) + 0.5)
        self.matrix = nn.Parameter(torch.randn(4, 5) / 2)
        self.bias = nn.Parameter(torch.randn(5))

    def forward(self, x: Tensor) -> Tensor:
        weight = self.kernel - self.kernel.mean((1, 2, 3), keepdim=True)  # standardized in every call
        x = F.relu(F.conv2d(x, weight, self.shift, padding=1))
        x = F.conv_transpose2d(x, self.up, stride=2)
        x = F.batch_norm(x, self.mean, self.variance, self.gain, self.offset)  # type: ignore[arg-type]
        x = F.layer_norm(x.permute(0, 2, 3, 1), (4,), self.gain, self.offset)
        x = torch.addmm(self.bias, x.flatten(0, 2), self.matrix)
        return F.linear(x, self.matrix) + (x @ self.matrix.t())


def test_layers_called_as_functions() -> None:
    model = Weighted().eval()
    inputs = [torch.randn(2, 3, 8, 8) for _ in range(4)]
    converted = quantize(model, *inputs)
    found = kinds(converted)
    assert found.count("QuantizedConv") == 1
    assert found.count("QuantizedConvTranspose") == 1
    assert found.count("QuantizedLinear") == 3
    assert "QuantizedLayerNorm" in found
    assert not list(converted.parameters())  # no float weight is left
    assert sqnr(converted(inputs[0]), model(inputs[0])) > 22


EINSUMS = {
    "bchw,oc->bohw": (8, 5),
    "oc,bchw->bhwo": (8, 5),
    "bchw,cdh->bwd": (8, 3, 6),
    "bchw,c->bhw": (8,),
}


@pytest.mark.parametrize("equation", EINSUMS)
def test_an_einsum_with_a_weight_is_a_linear(equation: str) -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 1)
            shape = EINSUMS[equation] if equation != "oc,bchw->bhwo" else (5, 8)
            shape = (5, 8) if equation == "bchw,oc->bohw" else shape
            self.weight = nn.Parameter(torch.randn(shape))

        def forward(self, x: Tensor) -> Tensor:
            x = self.conv(x)
            operands = (self.weight, x) if equation.startswith("oc") else (x, self.weight)
            return torch.einsum(equation, *operands)

    model = Model().eval()
    inputs = [torch.randn(2, 3, 6, 6) for _ in range(4)]
    converted = quantize(model, *inputs)
    assert kinds(converted).count("QuantizedLinear") == 1
    assert sqnr(converted(inputs[0]), model(inputs[0])) > 25


def test_attention_keeps_its_scores_in_float() -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.query, self.key, self.value = (nn.Linear(16, 16) for _ in range(3))
            self.out = nn.Linear(16, 16)

        def forward(self, x: Tensor) -> Tensor:
            scores = self.query(x) @ self.key(x).transpose(-2, -1) / 4.0
            return self.out(F.softmax(scores, dim=-1) @ self.value(x))

    model = Attention().eval()
    inputs = [torch.randn(2, 7, 16) for _ in range(4)]
    converted = quantize(model, *inputs)
    assert "QFunctional" not in kinds(converted)
    assert "matmul" in converted.code
    assert sqnr(converted(inputs[0]), model(inputs[0])) > 28
    longer = torch.randn(1, 12, 16)
    assert sqnr(converted(longer), model(longer)) > 25


def test_a_sum_of_a_layer_and_a_shortcut_is_one_kernel() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.conv = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
            self.head = nn.Conv2d(8, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x).relu_()
            y = self.conv(x)
            y += x
            return self.head(F.relu(y))

    model = Block().eval()
    inputs = [torch.randn(2, 3, 8, 8) for _ in range(4)]
    converted = quantize(model, *inputs)
    assert kinds(converted).count("QFunctional") == 0
    assert kinds(converted).count("QuantizedConv") == 3
    assert sqnr(converted(inputs[0]), model(inputs[0])) > 30


def test_what_others_look_at_before_and_after_a_change_in_place() -> None:
    # EasyOCR's CRAFT ends a slice on a batch norm, and the next slice begins with an in-place ReLU: the skip
    # connection that was taken before sees the rectified values.
    class Slices(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8))
            self.second = nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(8, 8, 3, padding=1))
            self.join = nn.Conv2d(16, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            skip = self.first(x)
            y = self.second(skip)
            return self.join(torch.cat([skip, y], 1))

    model = Slices().eval()
    inputs = [torch.randn(2, 3, 8, 8) for _ in range(4)]
    assert sqnr(quantize(model, *inputs)(inputs[0]), model(inputs[0])) > 30


def test_writing_into_a_slice_is_seen_through_every_view() -> None:
    class Writes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.out = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = self.conv(x)
            half = x[:, :4]
            half.mul_(2.0)
            x[:, 6:] = 0.5
            return self.out(x)

    model = Writes().eval()
    inputs = [torch.randn(2, 3, 8, 8) for _ in range(4)]
    assert sqnr(quantize(model, *inputs)(inputs[0]), model(inputs[0])) > 28


def test_a_module_called_twice_has_ranges_for_each_call() -> None:
    # pytorch/ao#4478, pytorch/pytorch#142035
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(3, 8, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(100.0 * self.conv(self.norm(x)))

    model = Twice().eval()
    inputs = [torch.randn(2, 3, 8, 8) for _ in range(4)]
    converted: Any = quantize(model, *inputs)
    first, second = converted.conv, converted.conv_1
    assert torch.equal(first.weight.data, second.weight.data)
    assert second.output.scalars[0] > 5 * first.output.scalars[0]
    assert sqnr(converted(inputs[0]), model(inputs[0])) > 30


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_states_of_a_recurrent_layer_among_integers_are_floats(kind: Any) -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.rnn = nn.Conv1d(3, 8, 3, padding=1), kind(8, 6, batch_first=True)
            self.out, self.last = nn.Linear(6, 4), nn.Linear(6, 4)

        def forward(self, x: Tensor) -> Any:
            y, state = self.rnn(self.conv(x).transpose(1, 2))
            last = state[0][-1] if kind is nn.LSTM else state[-1]
            return self.out(y), self.last(last)

    model = Recurrent().eval()
    inputs = [torch.randn(2, 3, 9) for _ in range(4)]
    converted = quantize(model, *inputs)
    assert "RequantizedLayer" in kinds(converted)
    for found, expected in zip(converted(inputs[0]), model(inputs[0]), strict=True):
        assert sqnr(found, expected) > 22


def pad_to_even(x: Tensor) -> Tensor:
    extra = x.shape[-1] % 2
    return F.pad(x, (0, 1)) if extra else F.pad(x, (1, 1))


def test_a_users_function_that_only_moves_values_meets_integers() -> None:
    model = Between(lambda x: pad_to_even(x)).eval()
    converted = quantize(model, *[torch.randn(2, 3, 8, 8) for _ in range(4)])
    assert kinds(converted).count("Quantize") == 1
    for width in (8, 9):
        x = torch.randn(2, 3, 8, width)
        assert sqnr(converted(x), model(x)) > 25


def test_values_and_indices_of_integers() -> None:
    class Largest(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.out = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 2, 1)

        def forward(self, x: Tensor) -> Any:
            x = self.conv(x)
            values, indices = x.max(dim=1)
            return values, indices, self.out(x)

    model = Largest().eval()
    inputs = [torch.randn(2, 3, 8, 8) for _ in range(4)]
    values, indices, _ = quantize(model, *inputs)(inputs[0])
    expected, places, _ = model(inputs[0])
    assert sqnr(values, expected) > 30
    assert (indices == places).float().mean() > 0.9


def test_tail_and_softmax_stay_float() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(288, 5), nn.Softmax(1)).eval()
    inputs = [torch.randn(2, 3, 8, 8) for _ in range(4)]
    converted = quantize(model, *inputs)
    found = converted(inputs[0])
    assert found.sum(1).allclose(torch.ones(2))  # not in steps of 1/256
    assert intaglio.summary(converted).int8_share == 1.0
