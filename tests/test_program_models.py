"""Programs of Transformers, of every way to call a model, and of inputs of every shape and layout."""

from __future__ import annotations

from collections import namedtuple
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import intaglio
from intaglio import ConversionError, InputError, QTensor
from intaglio.demo.minilm import MiniLM
from intaglio.runtime.program import MOST_PLANS
from tests.program_models import (
    PreNorm,
    Recurrent,
    Residual,
    Shuffle,
    dynamic,
    image,
    image_model,
    same_bits,
    sqnr,
    tensors,
)

FLOOR = 40.0
"""Decibels by which a program and its model may differ where floats stand between: kernels round otherwise,
and now and then a value is quantized to the neighbouring integer."""


def small_minilm() -> nn.Module:
    return dynamic(MiniLM(vocabulary=30, width=16, heads=4, feedforward=32, layers=2, positions=16))


# ---- Transformers ------------------------------------------------------------------------------------------


def test_a_sentence_encoder_with_and_without_a_mask() -> None:
    model = small_minilm()
    program = intaglio.compile(model)
    for batch, length in ((2, 7), (1, 16), (3, 1)):
        ids = torch.randint(0, 30, (batch, length))
        mask = torch.arange(length) < torch.randint(1, length + 1, (batch, 1))
        assert sqnr(program(ids), model(ids)) > FLOOR
        assert sqnr(program(ids, mask), model(ids, mask)) > FLOOR
        assert sqnr(program(ids, mask=None), model(ids)) > FLOOR
        assert sqnr(program(mask=mask, ids=ids), model(ids, mask)) > FLOOR


def test_rows_of_a_batch_do_not_touch_each_other() -> None:
    model = small_minilm()
    program = intaglio.compile(model)
    ids = torch.randint(0, 30, (4, 9))
    assert torch.equal(program(ids), torch.cat([program(row[None]) for row in ids]))


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_encoders_of_torch(norm_first: bool, activation: str) -> None:
    layer = nn.TransformerEncoderLayer(
        16, 2, 32, batch_first=True, norm_first=norm_first, activation=activation
    )
    model = dynamic(nn.TransformerEncoder(layer, 2, enable_nested_tensor=False))
    x = torch.randn(2, 6, 16)
    program = intaglio.compile(model, (x,))
    assert sqnr(program(x), model(x)) > FLOOR
    other = torch.randn(3, 4, 16)
    assert sqnr(program(other), model(other)) > FLOOR


def test_a_pre_norm_block_with_grouped_causal_attention() -> None:
    model = dynamic(PreNorm())
    program = intaglio.compile(model)
    for batch, length in ((2, 7), (1, 1), (5, 33)):
        x = torch.randn(batch, length, 16)
        assert sqnr(program(x), model(x)) > FLOOR


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Linear(16, 16) for _ in range(4))

    def forward(self, x: Tensor, memory: Tensor, mask: Tensor | None = None, scale: float = 0.25) -> Tensor:
        def split(y: Tensor) -> Tensor:
            return y.unflatten(-1, (4, 4)).transpose(1, 2)

        q, k, v = split(self.q(x)), split(self.k(memory)), split(self.v(memory))
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale)
        return self.out(y.transpose(1, 2).flatten(2))


def test_attention_to_another_sequence_with_masks_of_both_kinds() -> None:
    model = dynamic(Attention())
    program = intaglio.compile(model)
    x, memory = torch.randn(2, 5, 16), torch.randn(2, 9, 16)
    allowed = torch.rand(2, 1, 5, 9) > 0.4
    allowed[..., 0] = True
    assert sqnr(program(x, memory), model(x, memory)) > FLOOR
    for mask in (allowed, torch.randn(5, 9), torch.randn(2, 4, 9, 5).transpose(2, 3), torch.randn(1, 1, 9)):
        assert sqnr(program(x, memory, mask), model(x, memory, mask)) > FLOOR


def masked(row: float) -> Tensor:
    mask = torch.zeros(5, 9)
    mask[2] = row
    mask[1, :4] = row
    return mask


LOWEST = torch.finfo(torch.float32).min


@pytest.mark.parametrize(
    "mask",
    [
        masked(-1e9),
        masked(0.0) - 1e30,
        torch.randn(2, 1, 5, 1),
        torch.randn(4, 1, 9),
        masked(LOWEST),
    ],
)
def test_masks_of_very_low_numbers_and_of_every_shape(mask: Tensor) -> None:
    model = dynamic(Attention())
    x, memory = torch.randn(2, 5, 16), torch.randn(2, 9, 16)
    assert sqnr(intaglio.compile(model)(x, memory, mask), model(x, memory, mask)) > FLOOR


class Heads(nn.Module):
    """MultiheadAttention, whose bool masks say what may not be seen."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(16, 4, **options)
        self.register_buffer("later", torch.triu(torch.ones(5, 5, dtype=torch.bool), 1))

    def forward(self, x: Tensor, mask: Tensor | None = None, padding: Tensor | None = None) -> Tensor:
        own = self.attention(x, x, x, attn_mask=self.later, need_weights=False)[0]
        more = self.attention(own, x, x, attn_mask=mask, key_padding_mask=padding, need_weights=False)[0]
        return own + more  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    "options", [{}, {"batch_first": True}, {"bias": False}, {"add_bias_kv": True}], ids=str
)
def test_multihead_attention_and_its_masks(options: dict[str, Any]) -> None:
    model = dynamic(Heads(**options))
    program = intaglio.compile(model)
    x = torch.randn(5, 5, 16)
    allowed_not = torch.rand(5, 5) > 0.7
    allowed_not[:, 0] = False
    for inputs in ((x,), (x, allowed_not), (x, torch.randn(5, 5)), (x, None, allowed_not)):
        assert sqnr(program(*inputs), model(*inputs)) > FLOOR


# ---- Ways to call ------------------------------------------------------------------------------------------

Pair = namedtuple("Pair", ["first", "second"])


@dataclass
class Found:
    value: Tensor
    parts: Any = None


class Base(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 8)
        self.table = nn.Parameter(torch.randn(3, 8))


class Everything(Base):
    """An input itself, a constant, one tensor twice, views of others, what depends on no input, nothing."""

    def forward(self, x: Tensor) -> dict[str, Any]:
        y = self.a(x)
        return {
            "input": x,
            "constant": self.table,
            "fixed": self.b(self.table),
            "same": [y, y],
            "views": (y[1:], y.t(), y[:, ::2], x[:, 1], y.unsqueeze(1).expand(4, 2, 8)),
            "none": None,
            "number": 3,
        }


def test_results_of_every_kind() -> None:
    model, x = dynamic(Everything()), torch.randn(4, 8)
    program = intaglio.compile(model)
    for _ in range(2):
        found, expected = program(x), model(x)
        assert list(found) == list(expected)
        assert [type(v) for v in found.values()] == [
            *(torch.Tensor, torch.Tensor, torch.Tensor, list, tuple, type(None), int)
        ]
        assert same_bits(found, expected)
    found["same"][0].zero_()
    assert same_bits(program(x), expected)
    assert torch.equal(found["same"][1], expected["same"][1])


class Constant(Base):
    def forward(self, x: Tensor) -> Tensor:
        return self.a(self.table)


def test_a_result_that_depends_on_no_input() -> None:
    model = dynamic(Constant())
    program = intaglio.compile(model)
    for x in (torch.randn(2, 8), torch.randn(7)):
        assert same_bits(program(x), model(x))


class Named(Base):
    def forward(self, x: Tensor, *, scale: float = 2.0, bias: Tensor | None = None) -> Pair:
        y = self.a(x)
        y = y * scale if bias is None else y * scale + bias
        return Pair(y, second=self.b(x))


def test_optional_arguments_and_namedtuples() -> None:
    model, x, bias = dynamic(Named()), torch.randn(4, 8), torch.randn(8)
    with pytest.raises(ConversionError, match=r"Named cannot be compiled as it is.*Pass example_inputs"):
        intaglio.compile(model)
    program = intaglio.compile(model, x)
    assert same_bits(program(x), model(x))
    assert isinstance(program(x), Pair)
    program = intaglio.compile(model, {"x": x, "bias": bias})
    assert same_bits(program(x, bias=bias), model(x, bias=bias))
    with pytest.raises(InputError, match="'bias' is None in this call, but it was given in the example"):
        program(x)


class Optional(Base):
    def forward(
        self, x: Tensor, y: Tensor | None = None, *, twice: bool = False, bias: Tensor | None = None
    ) -> Any:
        x = self.a(x)
        x = x if y is None else x + self.b(y)
        x = x if bias is None else x + bias
        return (x, x) if twice else x


def test_optional_arguments() -> None:
    model, x, y, bias = dynamic(Optional()), torch.randn(4, 8), torch.randn(4, 8), torch.randn(8)
    program = intaglio.compile(model)
    assert same_bits(program(x), model(x))
    assert same_bits(program(x, bias=bias), model(x, bias=bias))
    assert same_bits(program(x, y), model(x, y))
    assert same_bits(program(bias=bias, y=y, x=x, twice=False), model(x, y, bias=bias))
    assert same_bits(program(x, None, bias=None), model(x))
    with pytest.raises(InputError, match="recorded with twice=False, which cannot be True now"):
        program(x, twice=True)


class Objects(Base):
    def forward(self, x: Tensor) -> Found:
        y = self.a(x)
        inner = Found(y)
        return Found(self.b(inner.value), parts={"inner": inner})


def test_objects_of_the_users_classes() -> None:
    model, x = dynamic(Objects()), torch.randn(4, 8)
    program = intaglio.compile(model, x)
    found, expected = program(x), model(x)
    assert type(found) is type(found.parts["inner"]) is Found
    assert torch.equal(found.value, expected.value)
    assert torch.equal(found.parts["inner"].value, expected.parts["inner"].value)


class Nested(Base):
    def forward(self, batch: dict[str, Any], pair: Any) -> Any:
        return self.a(batch["x"]) + self.b(pair[0]), pair[1][0]


def test_dictionaries_and_tuples_as_inputs() -> None:
    model = dynamic(Nested())
    x, y, z = torch.randn(4, 8), torch.randn(4, 8), torch.arange(3)
    program = intaglio.compile(model, ({"x": x}, (y, [z])))
    for scale in (1.0, 3.0):
        inputs = {"x": x * scale}, (y, [z + 1])
        assert same_bits(program(*inputs), model(*inputs))


class Starred(Base):
    def forward(self, *xs: Tensor, **more: Tensor) -> Tensor:
        return self.a(xs[0]) + self.b(xs[1]) + more["bias"]


def test_any_number_of_arguments() -> None:
    model = dynamic(Starred())
    x, y, bias = torch.randn(4, 8), torch.randn(4, 8), torch.randn(8)
    program = compile_starred(model, x, y, bias)
    assert same_bits(program(y, x, bias=bias + 1), model(y, x, bias=bias + 1))


def compile_starred(model: nn.Module, x: Tensor, y: Tensor, bias: Tensor) -> intaglio.Program:
    class Caller(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, x: Tensor, y: Tensor, bias: Tensor) -> Tensor:
            return self.model(x, y, bias=bias)

    return intaglio.compile(Caller().eval(), (x, y, bias))


# ---- Shapes and layouts ------------------------------------------------------------------------------------


def test_plans_are_made_once_and_the_newest_are_kept() -> None:
    program = intaglio.compile(dynamic(nn.Sequential(nn.Linear(4, 4))))
    assert program.memory.plans == 0
    first = program.plan_for(torch.randn(1, 4))
    assert program.plan_for(torch.randn(1, 4)) is first
    for n in range(1, MOST_PLANS + 9):
        program(torch.randn(n, 4))
    assert program.memory.plans == MOST_PLANS
    assert program.plan_for(torch.randn(1, 4)) is not first


def test_an_example_is_planned_for_at_once() -> None:
    program = intaglio.compile(dynamic(nn.Sequential(nn.Linear(4, 4))), torch.randn(3, 4))
    assert program.memory.plans == 1
    program(torch.randn(3, 4))
    assert program.memory.plans == 1
    assert "1 shapes planned" in repr(program)


@pytest.mark.parametrize("kind", [Residual, Shuffle])
def test_layouts_of_images(kind: Any) -> None:
    model = image_model(kind)
    program, x = intaglio.compile(model), image()
    expected = model(x)
    wide = torch.randn(2, 3, 17, 36)
    wide[..., ::2] = x
    padded = F.pad(x, (2, 1, 1, 1))
    behind = torch.cat([torch.zeros(1), x.flatten()])[1:].view(x.shape)
    layouts = {
        "channels_last": x.to(memory_format=torch.channels_last),
        "wide": wide[..., ::2],
        "cut out": padded[:, :, 1:-1, 2:-1],
        "transposed": x.transpose(2, 3).contiguous().transpose(2, 3),
        "batch inside": x.permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2),
        "unaligned": behind,
    }
    for name, layout in layouts.items():
        assert same_bits(program(layout), expected), name
    assert same_bits(program(x[:1].expand(3, -1, -1, -1)), model(x[:1].expand(3, -1, -1, -1)))


def test_layouts_of_sequences() -> None:
    for model, width in ((dynamic(Recurrent()), 6), (dynamic(PreNorm()), 16)):
        program, x = intaglio.compile(model), torch.randn(3, 7, width)
        expected = program(x)
        for layout in (x.transpose(0, 1).contiguous().transpose(0, 1), x.mT.contiguous().mT):
            assert torch.equal(program(layout), expected)
        flat = x[:1, :1].expand(3, 7, width)
        assert torch.equal(program(flat), program(flat.contiguous()))


@pytest.mark.parametrize("shape", [(0, 7, 16), (2, 0, 16)])
def test_empty_inputs(shape: tuple[int, ...]) -> None:
    model = dynamic(PreNorm())
    x = torch.empty(shape)
    assert same_bits(intaglio.compile(model)(x), model(x))


def test_empty_batches_of_images() -> None:
    model = image_model(Residual)
    program = intaglio.compile(model)
    assert same_bits(program(image(0)), model(image(0)))
    assert same_bits(program(image()), model(image()))


def test_quantized_inputs_and_results() -> None:
    class Inner(nn.Module):
        def __init__(self, model: Any) -> None:
            super().__init__()
            self.stem, self.relu = model.stem, model.relu

        def forward(self, x: Any) -> Any:
            return self.relu(self.stem(x))

    model: Any = image_model(Residual)
    inner = Inner(model).eval()
    x = model.quant(image())
    program = intaglio.compile(inner)
    found, expected = program(x), inner(x)
    assert isinstance(found, QTensor)
    assert torch.equal(found.data, expected.data)
    assert found.qparams.scalars == expected.qparams.scalars
    again = program(QTensor(x.data, expected.qparams))
    assert torch.equal(again.data, inner(QTensor(x.data, expected.qparams)).data)
    assert tensors(again)[0].shape == expected.shape


def test_scalars_and_single_rows() -> None:
    model = dynamic(nn.Sequential(nn.Linear(1, 3)))
    program = intaglio.compile(model)
    for shape in ((1,), (2, 1), (1, 1, 1, 1)):
        x = torch.randn(shape)
        assert same_bits(program(x), model(x))
