"""Pooling of quantized images: the windows are torch's, in one to three dimensions, whatever the layout."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from intaglio import InputError, _core
from intaglio.ops import reference_pooling as reference
from intaglio.ops.layout import has_channels_innermost
from intaglio.ops.pooling import adaptive_avg_pool, adaptive_max_pool, avg_pool, max_pool

MAX: Any = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
AVERAGE: Any = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}
ADAPTIVE_MAX: Any = {1: F.adaptive_max_pool1d, 2: F.adaptive_max_pool2d, 3: F.adaptive_max_pool3d}
ADAPTIVE_AVERAGE: Any = {1: F.adaptive_avg_pool1d, 2: F.adaptive_avg_pool2d, 3: F.adaptive_avg_pool3d}
ZERO_POINT = 77


def bytes_of(*shape: int) -> Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8)


def near(q: Tensor, expected: Tensor) -> bool:
    """Whether integers are what float arithmetic rounds to, ties either way."""
    steps = expected.clamp(0, 255)
    return q.shape == expected.shape and bool(((q.float() - steps).abs() <= 0.5 + 1e-3).all())


@given(
    st.integers(1, 3).flatmap(
        lambda axes: st.tuples(
            *[
                st.lists(st.integers(low, high), min_size=axes, max_size=axes)
                for low, high in ((1, 9), (1, 4), (1, 4), (0, 2), (1, 3))
            ]
        )
    ),
    st.booleans(),
    st.booleans(),
)
def test_windows_are_those_of_torch(
    numbers: tuple[list[int], ...], ceil_mode: bool, count_include_pad: bool
) -> None:
    size, kernel, stride, padding, dilation = numbers
    assume(all(p <= k // 2 for p, k in zip(padding, kernel, strict=True)))
    axes, x = len(size), bytes_of(2, 3, *size)
    try:
        expected = MAX[axes](x.float(), kernel, stride, padding, dilation, ceil_mode)
    except RuntimeError:
        with pytest.raises(InputError, match="too small for windows"):
            max_pool(x, kernel, stride, padding, dilation, ceil_mode)
    else:
        found = max_pool(x, kernel, stride, padding, dilation, ceil_mode)
        assert torch.equal(found.float(), expected.clamp(min=0))
    try:
        real = AVERAGE[axes](x.float() - ZERO_POINT, kernel, stride, padding, ceil_mode, count_include_pad)
    except RuntimeError as error:
        # In three dimensions torch refuses to average windows that only padding makes room for.
        assume("smaller than kernel size" not in str(error))
        with pytest.raises(InputError, match="too small for windows"):
            avg_pool(x, kernel, stride, padding, ceil_mode, count_include_pad, zero_point=ZERO_POINT)
    else:
        found = avg_pool(x, kernel, stride, padding, ceil_mode, count_include_pad, zero_point=ZERO_POINT)
        assert near(found, real + ZERO_POINT)


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_adaptive_windows_are_those_of_torch(axes: int) -> None:
    size = (7, 10, 3)[:axes]
    x = bytes_of(2, 5, *size)
    for out in itertools.product((1, 3, 7, 12), repeat=axes):
        assert torch.equal(adaptive_max_pool(x, out).float(), ADAPTIVE_MAX[axes](x.float(), out))
        assert near(adaptive_avg_pool(x, out, zero_point=ZERO_POINT), ADAPTIVE_AVERAGE[axes](x.float(), out))
    kept = adaptive_avg_pool(x, (None,) * axes, zero_point=ZERO_POINT)
    assert torch.equal(kept, x)


def test_a_divisor_of_ones_own_saturates() -> None:
    x = bytes_of(1, 3, 4, 4)
    for divisor in (1, 3, 100):
        real = F.avg_pool2d(x.float() - 30, 2, divisor_override=divisor) + 30
        found = avg_pool(x, (2, 2), (2, 2), (0, 0), divisor_override=divisor, zero_point=30)
        assert near(found, real)


@pytest.mark.parametrize("isa", _core.available_isas())
@pytest.mark.parametrize("threads", [1, 2, 5])
def test_threads_do_not_change_bits(isa: str, threads: int) -> None:
    _core.force_isa(isa)
    torch.set_num_threads(threads)
    x = bytes_of(2, 40, 34, 33)
    windows = ((3, 3), (2, 2), (1, 1), (1, 1))
    y = max_pool(x, *windows)
    axes = reference.windows(x.shape[2:], y.shape[2:], *windows)
    assert torch.equal(y, reference.largest(x, axes))
    assert has_channels_innermost(y)
    averages = avg_pool(x, *windows[:3], False, False, zero_point=3)
    assert torch.equal(averages, reference.average(x, axes, 3))


def test_any_layout_and_empty_batches() -> None:
    x = bytes_of(2, 3, 8, 8)
    expected = max_pool(x, (2, 2), (2, 2), (0, 0), (1, 1))
    for other in (x.contiguous(memory_format=torch.channels_last), torch.stack([x, x], -1)[..., 0]):
        assert torch.equal(max_pool(other, (2, 2), (2, 2), (0, 0), (1, 1)), expected)
    assert max_pool(x[:0], (2, 2), (2, 2), (0, 0), (1, 1)).shape == (0, 3, 4, 4)
    assert adaptive_avg_pool(x[:0], (1, 1), zero_point=0).shape == (0, 3, 1, 1)


def test_what_cannot_be_is_refused() -> None:
    x = bytes_of(1, 3, 8, 8)
    with pytest.raises(InputError, match="padding 2 is more than half of a window of 3"):
        max_pool(x, (3, 3), (1, 1), (2, 2), (1, 1))
    with pytest.raises(InputError, match="cannot have kernel_size"):
        max_pool(x, (3, 0), (1, 1), (0, 0), (1, 1))
    with pytest.raises(InputError, match="too small for windows"):
        avg_pool(x, (9, 9), (1, 1), (0, 0), zero_point=0)
    with pytest.raises(InputError, match=r"not one of torch\.float32"):
        max_pool(x.float(), (2, 2), (2, 2), (0, 0), (1, 1))
    with pytest.raises(InputError, match="divisor_override must not be zero"):
        avg_pool(x, (2, 2), (2, 2), (0, 0), divisor_override=0, zero_point=0)
    with pytest.raises(InputError, match="pooling over 1 axes takes"):
        adaptive_max_pool(x, (2,))
    with pytest.raises(InputError, match=r"of size \(8, 8\) cannot be pooled to \(-1, 2\)"):
        adaptive_max_pool(x, (-1, 2))
    with pytest.raises(InputError, match=r"cannot be pooled to \(2, 2\)"):
        adaptive_avg_pool(x[:, :, :0], (2, 2), zero_point=0)
    huge = torch.zeros(1, 1, 3000, 3000, dtype=torch.uint8)
    with pytest.raises(InputError, match="may not fit 32 bits"):
        adaptive_avg_pool(huge, (1, 1), zero_point=0)


def test_ops_are_registered_as_torch_expects() -> None:
    ops = torch.ops.intaglio
    windows = ([3, 3], [2, 2], [1, 1])
    for x in (bytes_of(2, 3, 9, 8), bytes_of(2, 3, 9, 8).contiguous(memory_format=torch.channels_last)):
        calls = [
            (ops.max_pool, (x, *windows, [1, 1], True)),
            (ops.avg_pool, (x, *windows, True, False, 0, 100, 0, 255)),
            (ops.adaptive_max_pool, (x, [3, 3])),
            (ops.adaptive_avg_pool, (x, [1, 1], 100, 0, 255)),
        ]
        for op, args in calls:
            torch.library.opcheck(op, args, test_utils=("test_schema", "test_faketensor"))
