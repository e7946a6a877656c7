"""Elementwise arithmetic on quantized tensors: shapes, layouts, scalars, concatenation, threads, ops."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from intaglio import InputError, QParams, QTensor, _core
from intaglio.ops import reference_elementwise as reference
from intaglio.ops.elementwise import add, add_scalar, concatenate, lookup, mul, mul_scalar, requantize
from intaglio.ops.layout import has_channels_innermost, with_channels_innermost
from intaglio.qparams import UINT8

from .kernel_cases.elementwise import PARAMS, bytes_of

PAIRS = ((add, reference.add), (mul, reference.mul))
SHAPES = [
    ((2, 5, 3, 4), (2, 5, 3, 4)),
    ((2, 5, 3, 4), (2, 5, 1, 1)),  # squeeze and excite
    ((2, 5, 3, 4), (1, 5, 1, 1)),
    ((2, 5, 3, 4), (5, 1, 1)),
    ((2, 5, 3, 4), (2, 1, 3, 4)),
    ((2, 5, 3, 4), (4,)),
    ((2, 5, 3, 4), (1, 1, 1, 1)),
    ((2, 5, 3, 4), ()),
    ((2, 5, 1, 1), (1, 1, 3, 4)),
    ((2, 3, 7), (7,)),
    ((2, 3, 7), (1, 3, 1)),
    ((3, 7), (3, 1)),
    ((2, 3, 2, 2, 2), (2, 3, 1, 1, 1)),
    ((0, 3, 2, 2), (1, 3, 1, 1)),
]


def forms(x: Tensor) -> list[Tensor]:
    """`x` contiguous, with channels innermost, and with gaps."""
    found = [x]
    if x.dim() > 2:
        found.append(with_channels_innermost(x))
    if x.dim() > 0 and x.numel() > 0:
        found.append(torch.stack([x, x], -1)[..., 1])
    return found


@pytest.mark.parametrize(("shape_a", "shape_b"), SHAPES, ids=str)
def test_operands_broadcast_in_every_layout(shape_a: tuple[int, ...], shape_b: tuple[int, ...]) -> None:
    a, b = (torch.randint(0, 256, shape, dtype=torch.uint8) for shape in (shape_a, shape_b))
    for (found, expected), x, y in itertools.product(PAIRS, forms(a), forms(b)):
        for params in PARAMS[:2]:
            assert torch.equal(found(x, y, *params), expected(a, b, *params))
            other = (*params[2:4], *params[:2], *params[4:])
            assert torch.equal(found(y, x, *other), expected(b, a, *other))


SCALES = st.floats(2.0**-118, 1e30)


@given(SCALES, SCALES, SCALES, st.tuples(*[st.integers(0, 255)] * 5), st.integers(0, 2**31))
def test_any_parameters_give_the_reference_on_every_isa(
    scale_a: float, scale_b: float, scale: float, integers: tuple[int, ...], seed: int
) -> None:
    zero_a, zero_b, zero, *ends = integers
    torch.manual_seed(seed)
    a, b = bytes_of(200), bytes_of(200)
    params = (scale_a, zero_a, scale_b, zero_b, scale, zero, min(ends), max(ends))
    for isa in _core.available_isas():
        _core.force_isa(isa)
        for found, expected in PAIRS:
            assert torch.equal(found(a, b, *params), expected(a, b, *params)), isa
        one = (*params[:2], *params[4:])
        assert torch.equal(requantize(a, *one), reference.requantize(a, *one)), isa


def test_an_image_stays_one() -> None:
    a, b = (with_channels_innermost(bytes_of(2, 5, 3, 4)) for _ in range(2))
    for y in (
        add(a, b, *PARAMS[0]),
        mul(a, b[:, :, :1, :1], *PARAMS[0]),
        lookup(a, torch.arange(256).byte()),
    ):
        assert has_channels_innermost(y)
    assert has_channels_innermost(add(a.contiguous(), b, *PARAMS[0]))
    assert has_channels_innermost(add(a, b.contiguous(), *PARAMS[0]))


@pytest.mark.parametrize("isa", _core.available_isas())
@pytest.mark.parametrize("threads", [2, 5])
def test_threads_do_not_change_bits(isa: str, threads: int) -> None:
    _core.force_isa(isa)
    torch.set_num_threads(threads)
    a = with_channels_innermost(bytes_of(3, 48, 35, 37))
    table = torch.randperm(256).byte()
    assert torch.equal(lookup(a, table), table[a.long()])
    for b in (bytes_of(3, 48, 35, 37), bytes_of(3, 48, 1, 1), bytes_of(1, 48, 1, 1)):
        for found, expected in PAIRS:
            assert torch.equal(found(a, b, *PARAMS[0]), expected(a, b, *PARAMS[0]))
    parts = [a, bytes_of(3, 24, 35, 37)]
    joined = torch.cat([a, reference.requantize(parts[1], 0.3, 7, 0.1, 3)], 1)
    assert torch.equal(concatenate(parts, [0.1, 0.3], [3, 7], 1, 0.1, 3), joined)


@pytest.mark.parametrize(
    "shape", [(9,), (4, 5), (2, 5, 7), (2, 5, 3, 4), (2, 3, 2, 3, 4), (0, 3, 2, 2)], ids=str
)
def test_concatenation_along_every_axis(shape: tuple[int, ...]) -> None:
    for dim in range(-len(shape), len(shape)):
        sizes = [[*shape] for _ in range(3)]
        sizes[1][dim], sizes[2][dim] = 1, 3
        parts = [torch.randint(0, 256, size, dtype=torch.uint8) for size in sizes]
        scales, zero_points = [0.1, 0.07, 0.1], [3, 200, 3]
        expected = torch.cat(
            [
                reference.requantize(x, s, z, 0.1, 3, 2, 250)
                for x, s, z in zip(parts, scales, zero_points, strict=True)
            ],
            dim,
        )
        for made in (parts, [with_channels_innermost(x) for x in parts], [forms(x)[-1] for x in parts]):
            found = concatenate(made, scales, zero_points, dim, 0.1, 3, 2, 250)
            assert torch.equal(found, expected)


def test_what_does_not_fit_is_refused() -> None:
    a = bytes_of(2, 3)
    with pytest.raises(InputError, match=r"\(2, 3\) and \(2, 4\) cannot be broadcast"):
        add(a, bytes_of(2, 4), *PARAMS[0])
    with pytest.raises(InputError, match=r"not one of torch\.float32"):
        mul(a, torch.ones(2, 3), *PARAMS[0])
    with pytest.raises(InputError, match=r"\(2, 3\), \(2, 4\) cannot be concatenated along axis 0"):
        concatenate([a, bytes_of(2, 4)], [1.0, 1.0], [0, 0], 0, 1.0, 0)
    with pytest.raises(InputError, match="no axis 2"):
        concatenate([a, a], [1.0, 1.0], [0, 0], 2, 1.0, 0)
    with pytest.raises(InputError, match="256 bytes"):
        lookup(a, torch.zeros(255, dtype=torch.uint8))


# ---- Scalars -------------------------------------------------------------------------------------------


def qtensor(scale: float, zero_point: int, **limits: int) -> QTensor:
    qparams = QParams(torch.tensor(scale), torch.tensor(zero_point, dtype=torch.int32), UINT8, **limits)
    low, high = qparams.limits()
    return QTensor(torch.arange(low, high + 1, dtype=torch.uint8), qparams)


@given(st.floats(-30, 30, width=32), st.integers(0, 255))
def test_a_scalar_is_added_as_the_nearest_multiple_of_the_scale(value: float, zero_point: int) -> None:
    q = qtensor(0.05, zero_point)
    y = add_scalar(q, value)
    nearest = round(value / float(q.qparams.scale)) * float(q.qparams.scale)
    expected = q.dequantize() + nearest
    tolerance = 1e-4 if y.data is q.data else float(y.qparams.scale) * 0.501 + 1e-4
    assert float((y.dequantize() - expected).abs().max()) <= tolerance


def test_a_scalar_that_fits_the_limits_leaves_the_integers() -> None:
    q = qtensor(0.5, 100)
    assert add_scalar(q, 10.0).data is q.data
    assert add_scalar(q, -10.0).data is q.data
    assert add_scalar(q, 100.0).data is not q.data
    assert mul_scalar(q, 3.0).data is q.data


@pytest.mark.parametrize("value", [0.0, 2.5, -2.5, 1e-3, -0.0])
@pytest.mark.parametrize("limits", [{}, {"quant_min": 1, "quant_max": 255}])
def test_a_scalar_multiplies_the_scale(value: float, limits: dict[str, int]) -> None:
    q = qtensor(0.05, 128, **limits)
    y = mul_scalar(q, value)
    assert torch.allclose(y.dequantize(), q.dequantize() * value, rtol=1e-6, atol=0)
    low, high = y.qparams.limits()
    assert int(y.data.min()) >= low
    assert int(y.data.max()) <= high


def test_scalars_beyond_reason_and_per_channel_tensors_are_refused() -> None:
    with pytest.raises(InputError, match="cannot add inf to a QTensor of scale"):
        add_scalar(qtensor(0.05, 128), float("inf"))
    scale = torch.ones(2)
    per_channel = QTensor(bytes_of(2, 3), QParams(scale, torch.zeros(2, dtype=torch.int32), UINT8, 0))
    for function in (add_scalar, mul_scalar):
        with pytest.raises(InputError, match="is no activation"):
            function(per_channel, 2.0)


# ---- Ops -----------------------------------------------------------------------------------------------


def test_ops_are_registered_as_torch_expects() -> None:
    a = with_channels_innermost(bytes_of(2, 5, 3, 4))
    row, plain = bytes_of(2, 5, 1, 1), bytes_of(2, 5, 3, 4)
    ops = torch.ops.intaglio
    calls: list[tuple[Any, tuple[Any, ...]]] = [
        (ops.lookup, (a, torch.randperm(256).byte())),
        (ops.requantize, (a, 0.1, 3, 0.2, 4, 0, 255)),
    ]
    for op, pair in itertools.product(
        (ops.add_quantized, ops.mul_quantized), ((a, a), (a, row), (row, a), (plain, a), (row, plain))
    ):
        calls.append((op, (*pair, *PARAMS[0])))
    for parts in ([a, a], [plain, plain], [plain, a], [row, row]):
        calls.append((ops.concatenate, (parts, [0.1, 0.2], [3, 4], 1, 0.1, 3, 0, 255)))
    for op, args in calls:
        torch.library.opcheck(op, args, test_utils=("test_schema", "test_faketensor"))
    assert torch.equal(ops.requantize(a, 0.1, 3, 0.2, 4, 0, 255), requantize(a, 0.1, 3, 0.2, 4))
