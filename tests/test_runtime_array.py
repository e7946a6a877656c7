"""`Array`: the strides and offsets of views are those of numpy's, and what is said of them holds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.lib.stride_tricks import as_strided

from intaglio import InputError
from intaglio.runtime.array import Array, Buffer, broadcast_shapes, contiguous_strides, image_strides

Numbers = np.ndarray[Any, Any]


def array_of(values: Numbers) -> Array:
    """The array of a whole contiguous numpy array, whose values are known."""
    buffer = Buffer("constant", values.nbytes, values.ctypes.data, values)
    return Array(buffer, values.shape, contiguous_strides(values.shape), "float32", None, 0, values)


def values_of(array: Array) -> Numbers:
    """What lies where an array says."""
    flat = array.buffer.keep.reshape(-1)[array.offset :]
    return as_strided(flat, array.shape, [4 * s for s in array.strides], writeable=False)


shapes = st.lists(st.integers(0, 4) | st.integers(1, 3), max_size=4).map(tuple)


def counting(shape: tuple[int, ...]) -> Numbers:
    return np.arange(np.prod(shape, dtype=int), dtype=np.float32).reshape(shape)


def any_shape(draw: st.DrawFn, size: int) -> list[int]:
    """A shape of so many values."""
    found, rest = [], size
    while rest > 1 and len(found) < 4:
        found.append(draw(st.sampled_from([d for d in range(1, rest + 1) if rest % d == 0])))
        rest //= found[-1]
    found.append(rest)
    return found


def step(draw: st.DrawFn, x: Array, y: Numbers) -> tuple[Array, Numbers]:
    """One view of both, drawn at random."""
    choices = ["permute", "unsqueeze", "squeeze", "expand", "reshape"]
    choices += ["slice", "swap"] if x.ndim else []
    choices += ["select"] if x.ndim and min(x.shape) > 0 else []
    kind = draw(st.sampled_from(choices))
    axis = draw(st.integers(-x.ndim, x.ndim - 1)) if x.ndim else 0
    if kind == "permute":
        order = draw(st.permutations(range(x.ndim)))
        return x.permute([a - x.ndim if draw(st.booleans()) else a for a in order]), y.transpose(order)
    if kind == "swap":
        other = draw(st.integers(-x.ndim, x.ndim - 1))
        return x.swap(axis, other), y.swapaxes(axis, other)
    if kind == "slice":
        part = draw(st.slices(x.shape[axis]).filter(lambda part: (part.step or 1) > 0))
        index: list[Any] = [slice(None)] * x.ndim
        index[axis] = part
        return x.slice(axis, part), y[tuple(index)]
    if kind == "select":
        number = draw(st.integers(-x.shape[axis], x.shape[axis] - 1))
        return x.select(axis, number), y.take(number, axis)
    if kind == "unsqueeze":
        place = draw(st.integers(-x.ndim - 1, x.ndim))
        return x.unsqueeze(place), np.expand_dims(y, place)
    if kind == "squeeze":
        ones = tuple(a for a in range(x.ndim) if x.shape[a] == 1)
        return x.squeeze(), y.squeeze(ones)
    if kind == "expand":
        lead = draw(st.lists(st.integers(1, 2), max_size=1))
        inner = [draw(st.integers(1, 3)) if n == 1 else n for n in x.shape]
        wanted = [-1 if n == m and draw(st.booleans()) else n for n, m in zip(inner, x.shape, strict=True)]
        return x.expand([*lead, *wanted]), np.broadcast_to(y, [*lead, *inner])
    shape = any_shape(draw, y.size) if y.size else [0, 2]
    view = x.reshaped(shape)
    return (x, y) if view is None else (view, y.reshape(shape))


@st.composite
def views(draw: st.DrawFn) -> tuple[Array, Numbers]:
    """An array after some views, and numpy's."""
    values = counting(draw(shapes))
    x, y = array_of(values), values
    for _ in range(draw(st.integers(0, 5))):
        if y.size > 500 or x.ndim > 6:
            break
        x, y = step(draw, x, y)
    return x, y


@settings(max_examples=400)
@given(views())
def test_views_are_those_of_numpy(found: tuple[Array, Numbers]) -> None:
    x, y = found
    assert (x.shape, x.size, x.ndim, x.bytes) == (y.shape, y.size, y.ndim, 4 * y.size)
    assert np.array_equal(values_of(x), y)
    assert x.data is not None
    assert np.array_equal(x.data, y)


def shares(y: Numbers, reshaped: Numbers) -> bool:
    return bool(np.may_share_memory(y, reshaped))


@settings(max_examples=400)
@given(views(), st.data())
def test_reshapes_are_none_only_where_numpy_would_copy(found: tuple[Array, Numbers], data: Any) -> None:
    x, y = found
    if y.size == 0:
        return
    shape = any_shape(data.draw, y.size)
    view, expected = x.reshaped(shape), values_of(x).reshape(shape)
    if view is None:
        assert not shares(values_of(x), expected)
    else:
        assert view.shape == expected.shape
        assert np.array_equal(values_of(view), expected)


@settings(max_examples=400)
@given(views())
def test_dense_is_without_gaps_and_overlaps(found: tuple[Array, Numbers]) -> None:
    x, y = found
    if y.size == 0:
        return
    places = np.zeros(x.shape, int)
    for axis, stride in enumerate(x.strides):
        shape = [1] * x.ndim
        shape[axis] = x.shape[axis]
        places = places + (np.arange(x.shape[axis]) * stride).reshape(shape)
    assert x.is_dense == (sorted(places.reshape(-1)) == list(range(y.size)))
    if x.is_contiguous:
        assert x.is_dense
        assert np.array_equal(places.reshape(-1), np.arange(y.size))
    if x.is_image:
        moved = np.moveaxis(places, 1, -1) if x.ndim > 2 else places
        assert np.array_equal(moved.reshape(-1), np.arange(y.size))


@settings(max_examples=300)
@given(views())
def test_dense_strides_keep_the_order_of_axes(found: tuple[Array, Numbers]) -> None:
    x, y = found
    dense = replace(x, buffer=Buffer("arena", 0), strides=x.dense_strides(), data=None)
    assert y.size == 0 or dense.is_dense
    if x.is_dense:
        assert dense.strides == x.strides
    long = [a for a in range(x.ndim) if x.shape[a] > 1 and x.strides[a] > 0]
    for a in long:
        for b in long:
            if x.strides[a] > x.strides[b]:
                assert y.size == 0 or dense.strides[a] > dense.strides[b]


@given(st.lists(shapes, max_size=3))
def test_broadcast_shapes_are_those_of_numpy(found: list[tuple[int, ...]]) -> None:
    try:
        expected = np.broadcast_shapes(*found)
    except ValueError:
        with pytest.raises(InputError, match="cannot be broadcast"):
            broadcast_shapes(*found)
        return
    assert broadcast_shapes(*found) == expected


@given(shapes)
def test_strides_of_dense_memory(shape: tuple[int, ...]) -> None:
    x = Array(Buffer("arena", 0), shape, contiguous_strides(shape))
    assert x.is_contiguous
    assert replace(x, strides=image_strides(shape)).is_image
    if 0 not in shape:
        assert contiguous_strides(shape) == tuple(s // 4 for s in counting(shape).strides)


WRONG: list[tuple[Callable[[Array], Any], str]] = [
    (lambda x: x.axis(3), "no axis 3"),
    (lambda x: x.axis(-4), "no axis -4"),
    (lambda x: x.permute((0, 1)), "no order of the axes"),
    (lambda x: x.permute((0, 1, 1)), "no order of the axes"),
    (lambda x: x.select(1, 3), "index 3 is out of range"),
    (lambda x: x.select(1, -4), "index -4 is out of range"),
    (lambda x: x.slice(0, slice(None, None, -1)), "cannot have step -1"),
    (lambda x: x.expand((2, 5, 4)), "cannot be expanded"),
    (lambda x: x.expand((3, 4)), "cannot be expanded"),
    (lambda x: x.expand(()), "cannot be expanded"),
    (lambda x: x.expand((-1, 2, 3, 4)), "cannot be expanded"),
    (lambda x: x.reshaped((5, 5)), "cannot have the shape"),
    (lambda x: x.reshaped((-1, -1, 2)), "cannot have the shape"),
    (lambda x: x.reshaped((-1, 7)), "cannot have the shape"),
    (lambda x: x.reshaped((0, -1)), "cannot have the shape"),
    (lambda x: replace(x, dtype="complex64").bytes, "no complex64 tensors"),
]


@pytest.mark.parametrize(("act", "match"), WRONG, ids=lambda v: v if isinstance(v, str) else "")
def test_views_that_cannot_be(act: Callable[[Array], Any], match: str) -> None:
    with pytest.raises(InputError, match=match):
        act(array_of(counting((2, 3, 4))))
