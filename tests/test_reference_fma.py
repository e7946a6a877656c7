"""`fma32`, on which every bit of the oracle rests, against exact rational arithmetic and the C library."""

import ctypes
import ctypes.util
import math
import struct
from fractions import Fraction

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import example, given
from torch import Tensor

from intaglio.ops.reference import fma32

any_float = st.floats(width=32, allow_nan=False, allow_infinity=False)
SMALLEST_EXPONENT = -149
"""Of float32's last place: the exponent of its smallest subnormal."""


def float32(bits: int) -> float:
    return struct.unpack("<f", struct.pack("<I", bits))[0]


def round_to_float32(value: Fraction) -> float:
    """The float32 nearest to `value`, ties to even, overflow to infinity: by integers alone."""
    if value == 0:
        return 0.0
    magnitude = abs(value)
    exponent = magnitude.numerator.bit_length() - magnitude.denominator.bit_length()
    if magnitude < Fraction(2) ** exponent:
        exponent -= 1
    place = Fraction(2) ** max(exponent - 23, SMALLEST_EXPONENT)
    rounded = round(magnitude / place) * place  # round() of a Fraction sends ties to even
    limit = Fraction(2) ** 128
    result = math.inf if rounded >= limit else float(rounded)
    return -result if value < 0 else result


def fma(a: float, b: float, c: float) -> float:
    result = fma32(*(torch.tensor([v], dtype=torch.float32) for v in (a, b, c)))
    assert result.dtype is torch.float32
    return float(result)


def exact(a: float, b: float, c: float) -> float:
    return round_to_float32(Fraction(a) * Fraction(b) + Fraction(c))


def test_the_rational_oracle_rounds_as_float32_does() -> None:
    bits = torch.randint(0, 0x7F800000, (2000,)).tolist()
    assert all(round_to_float32(Fraction(float32(b))) == float32(b) for b in bits)
    for double in (
        torch.randn(2000, dtype=torch.float64) * 2.0 ** torch.randint(-150, 128, (2000,))
    ).tolist():
        assert round_to_float32(Fraction(double)) == float(torch.tensor(double).float())


@given(any_float, any_float, any_float)
@example(1.0 + 2.0**-23, 1.0 + 2.0**-23, -1.0)  # the product's last bits are all that is left
@example(1.0 + 2.0**-12, 1.0 + 2.0**-12, 2.0**-60)  # a tie in float32, broken far below float64's last bit
@example(1.0 + 2.0**-12, 1.0 + 2.0**-12, -(2.0**-60))
@example(2.0**-75, 2.0**-75, 0.0)  # half of the smallest subnormal: to even, that is to zero
@example(2.0**-75, 2.0**-75, 2.0**-149)  # one and a half of it
@example(1.5 * 2.0**-75, 2.0**-75, 0.0)
@example(2.0**127, 1.0, 2.0**127)  # overflows
@example(3.4028234663852886e38, 1.0, 2.0**102)  # half of the last place over the largest: to even, up
def test_one_rounding_of_the_exact_sum(a: float, b: float, c: float) -> None:
    assert fma(a, b, c) == exact(a, b, c)


@given(any_float, any_float, st.integers(-3, 3))
def test_one_rounding_under_cancellation(a: float, b: float, places: int) -> None:
    product = torch.tensor(a * b).float()
    if not torch.isfinite(product):
        return
    c = float(torch.tensor([-float(product)]).view(torch.int32).add(places).view(torch.float32))
    if math.isfinite(c):
        assert fma(a, b, c) == exact(a, b, c)


@pytest.mark.parametrize("spread", [0, 8, 24, 40, 60])
def test_one_rounding_on_many_random_operands(spread: int) -> None:
    def draw() -> Tensor:
        return torch.randn(3000) * 2.0 ** torch.randint(-spread, spread + 1, (3000,))

    a, b, c = draw(), draw(), draw()
    found = fma32(a, b, c).tolist()
    for operands, result in zip(zip(a.tolist(), b.tolist(), c.tolist(), strict=True), found, strict=True):
        assert result == exact(*operands), operands


def test_what_is_not_finite_is_as_in_the_c_library() -> None:
    name = ctypes.util.find_library("m")
    if name is None:
        pytest.skip("no C mathematics library by that name")
    fmaf = ctypes.CDLL(name).fmaf
    fmaf.restype, fmaf.argtypes = ctypes.c_float, [ctypes.c_float] * 3
    values = [0.0, -0.0, 1.0, -1.0, 1e-45, -1e-45, 3e38, -3e38, math.inf, -math.inf, math.nan]
    for a in values:
        for b in values:
            for c in values:
                found, expected = fma(a, b, c), fmaf(a, b, c)
                if math.isnan(expected):
                    assert math.isnan(found), (a, b, c)
                else:
                    assert struct.pack("<f", found) == struct.pack("<f", expected), (a, b, c, found, expected)
