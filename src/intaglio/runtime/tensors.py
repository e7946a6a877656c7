"""Plans of what stands around products in float32: lookups, softmax, arithmetic, means, unit rows.

May import planner, floats, recurrent (for indices), array and errors.
"""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from intaglio.runtime.array import Array, broadcast_shapes, contiguous_strides
from intaglio.runtime.floats import add_rows, as_rows, check_float, rows_of
from intaglio.runtime.graph import Layer, Named
from intaglio.runtime.planner import NotLowered, Planner, lower_function, lower_layer
from intaglio.runtime.recurrent import own_indices

__all__: list[str] = []

_OPERATIONS = {"add": 0, "sub": 1, "mul": 2, "div": 3}


# ---- Lookups ---------------------------------------------------------------------------------------------


@lower_layer("torch.nn.Embedding")
def _embedding_layer(planner: Planner, layer: Layer, input: Array) -> Array:
    if layer.config.get("max_norm") is not None:
        raise NotLowered("it scales its rows by their norm")
    return _look_up(planner, input, planner.tensor_of(layer, "weight"))


@lower_function("torch.nn.functional.embedding")
def _embedding(planner: Planner, input: Array, weight: Array, *rest: Any, **named: Any) -> Array:
    if named.get("max_norm") is not None or len(rest) > 1:
        raise NotLowered("it scales its rows by their norm")
    return _look_up(planner, input, weight)


def _look_up(planner: Planner, indices: Array, table: Array) -> Array:
    check_float(table)
    if table.ndim != 2 or not table.is_contiguous:
        raise NotLowered(f"its table has shape {table.shape}")
    own = own_indices(planner, indices)
    count, width = own.size, table.shape[1]
    y = planner.new((*indices.shape, width))
    tables = [(table, table.shape[0], own, count, own.dtype == "int64")]
    planner.call("embed_rows", "sum", tables=tables, rows=count, width=width, sum=y, sum_stride=width)
    return y


# ---- Softmax and unit rows -------------------------------------------------------------------------------


def _softmax(
    planner: Planner, input: Array, dim: int | None = None, dtype: Any = None, **named: Any
) -> Array:
    check_float(input)
    if dim is None or input.ndim == 0 or (dtype is not None and str(dtype) != "torch.float32"):
        raise NotLowered("it names no axis, or asks for another type")
    axis = input.axis(dim)
    x = as_rows(planner, input.swap(axis, -1))
    y = planner.new(x.shape)
    rows, cols, stride = rows_of(x) or (0, 0, 0)
    planner.call("softmax_floats", "y", x=x, x_stride=stride, rows=rows, cols=cols, y=y, y_stride=cols)
    return y.swap(axis, -1)


lower_function("torch.nn.functional.softmax", "torch.softmax", "Tensor.softmax")(_softmax)


@lower_layer("torch.nn.Softmax")
def _softmax_layer(planner: Planner, layer: Layer, x: Array) -> Array:
    return _softmax(planner, x, layer.config.get("dim"))


@lower_function("torch.nn.functional.normalize")
def _normalize(
    planner: Planner, input: Array, p: float = 2.0, dim: int = 1, eps: float = 1e-12, out: Any = None
) -> Array:
    check_float(input)
    if p != 2 or input.axis(dim) != input.ndim - 1:
        raise NotLowered("its norm is not that of the last axis by squares")
    x = as_rows(planner, input)
    rows, cols, stride = rows_of(x) or (0, 0, 0)
    y = planner.new(x.shape)
    planner.call(
        "unit_rows",
        "y",
        x=x,
        x_stride=stride,
        rows=rows,
        cols=cols,
        epsilon=eps,
        y=y,
        y_stride=cols,
    )
    return y


# ---- Means -----------------------------------------------------------------------------------------------


def _reduce(driver: str, *names: str) -> None:
    """Over one axis, the others being batches before it and columns after it."""

    @lower_function(*names)
    def lower(
        planner: Planner, input: Array, dim: Any = None, keepdim: bool = False, *, dtype: Any = None
    ) -> Array:
        check_float(input)
        dims = [dim] if isinstance(dim, int) else list(dim or ())
        if len(dims) != 1 or dtype is not None:
            raise NotLowered("it is over more than one axis")
        axis = input.axis(dims[0])
        if input.shape[axis] == 0:
            raise NotLowered("it is over nothing")
        x = planner.contiguous(input)
        batch, rows, cols = prod(x.shape[:axis]), x.shape[axis], prod(x.shape[axis + 1 :])
        y = planner.new([*x.shape[:axis], *([1] if keepdim else []), *x.shape[axis + 1 :]])
        planner.call(
            driver,
            "y",
            x=x,
            x_stride=cols,
            rows=rows,
            cols=cols,
            y=y,
            batch=batch,
            batch_stride=rows * cols,
        )
        return y


_reduce("mean_rows", "torch.mean", "Tensor.mean")
_reduce("sum_rows", "torch.sum", "Tensor.sum")


# ---- Masks -----------------------------------------------------------------------------------------------

_NOT = np.array([1] + [0] * 255, np.uint8)


def _mask(planner: Planner, x: Any) -> Array:
    if not isinstance(x, Array) or x.dtype != "bool":
        raise NotLowered("its mask is not bool")
    return x


@lower_function("operator.invert", "torch.logical_not", "Tensor.logical_not", "torch.bitwise_not")
def _invert(planner: Planner, x: Array) -> Array:
    x = planner.dense(_mask(planner, x))
    y = planner.new(x.shape, "bool", None, x.strides)
    planner.call(
        "look_up_bytes", "y", x=x, count=x.size, table=planner.constant(_NOT), y=y, permutes_bytes=False
    )
    return y


def select(planner: Planner, mask: Array, a: Any, b: Any) -> Array:
    """`a` where `mask` is true, else `b`; each a tensor or a number."""
    parts = [_operand(planner, part) for part in (a, b)]
    shape = broadcast_shapes(mask.shape, *(part.shape for part in parts))

    def whole(part: Array) -> Array:
        return part if part.ndim == 0 else planner.contiguous(part.expand(shape))

    chosen = planner.contiguous(_mask(planner, mask).expand(shape))
    x, y = (whole(part) for part in parts)
    result = planner.new(shape)
    planner.call(
        "select_floats",
        "y",
        mask=chosen,
        a=x,
        a_is_one=x.ndim == 0,
        b=y,
        b_is_one=y.ndim == 0,
        count=chosen.size,
        y=result,
    )
    return result


@lower_function("Tensor.masked_fill", "torch.masked_fill")
def _masked_fill(planner: Planner, input: Array, mask: Array, value: float) -> Array:
    check_float(input)
    return select(planner, _mask(planner, mask), value, input)


@lower_function("torch.where", "Tensor.where")
def _where(planner: Planner, condition: Array, input: Any, other: Any) -> Array:
    if all(not isinstance(part, Array) for part in (input, other)):
        raise NotLowered("it chooses between numbers")
    return select(planner, _mask(planner, condition), input, other)


@lower_function("Tensor.to", "Tensor.type")
def _to(planner: Planner, x: Array, *wanted: Any, **named: Any) -> Array:
    """Between floats nothing is done; a mask becomes ones and zeros."""
    others = [part for part in (*wanted, *named.values()) if not isinstance(part, (bool, type(None)))]
    names = [part for part in others if isinstance(part, Named)]
    if len(names) != len(others) or any(n.kind == "device" and n.name != "cpu" for n in names):
        raise NotLowered("it is moved elsewhere")
    return _as_type(planner, x, next((n.name for n in names if n.kind == "dtype"), x.dtype))


@lower_function("Tensor.float")
def _float(planner: Planner, x: Array, **named: Any) -> Array:
    return _as_type(planner, x, "float32")


@lower_function("Tensor.type_as")
def _type_as(planner: Planner, x: Array, other: Array) -> Array:
    return _as_type(planner, x, "float32" if other.quant is not None else other.dtype)


def _as_type(planner: Planner, x: Array, name: str) -> Array:
    if x.quant is None and x.dtype == name:
        return x
    if x.dtype != "bool" or name != "float32":
        raise NotLowered(f"it turns {x.dtype} to {name}")
    return select(planner, x, 1.0, 0.0)


# ---- Arithmetic ------------------------------------------------------------------------------------------


def _arithmetic(operation: str, *names: str, turned: bool = False) -> None:
    @lower_function(*names)
    def lower(planner: Planner, input: Any, other: Any, **named: Any) -> Array:
        if named.get("alpha", 1) != 1 or named.get("rounding_mode") is not None:
            raise NotLowered("it multiplies or rounds as well")
        a, b = (other, input) if turned else (input, other)
        return combine(planner, operation, a, b)


_arithmetic("add", "operator.add", "operator.iadd", "torch.add", "Tensor.add", "Tensor.add_")
_arithmetic("sub", "operator.sub", "operator.isub", "torch.sub", "Tensor.sub", "Tensor.sub_")
_arithmetic("sub", "torch.rsub", "Tensor.rsub", turned=True)
_arithmetic("mul", "operator.mul", "operator.imul", "torch.mul", "Tensor.mul", "Tensor.mul_")
_arithmetic("div", "operator.truediv", "operator.itruediv", "torch.div", "Tensor.div", "Tensor.div_")


def combine(planner: Planner, operation: str, a: Any, b: Any) -> Array:
    """`a` and `b` combined element by element, broadcast; one may be a number."""
    a, b = (_operand(planner, x) for x in (a, b))
    shape = broadcast_shapes(a.shape, b.shape)
    if not shape:
        a, b = a.view((1,), (1,)), b.view((1,), (1,))
        return combine(planner, operation, a, b).view((), ())
    if operation == "add" and a.shape == b.shape:
        return add_rows(planner, a, b)
    (x, a_step, a_one), (y, b_step, b_one) = (_spread(planner, part, shape) for part in (a, b))
    result = planner.new(shape)
    cols = shape[-1]
    planner.call(
        "combine_floats",
        "y",
        op=_OPERATIONS[operation],
        a=(x, a_step, a_one),
        b=(y, b_step, b_one),
        rows=prod(shape[:-1]),
        cols=cols,
        y=result,
        y_stride=cols,
    )
    return result


def _operand(planner: Planner, x: Any) -> Array:
    if isinstance(x, (int, float)) and not isinstance(x, bool):
        return planner.constant(np.array(x, np.float32))
    if not isinstance(x, Array):
        raise NotLowered(f"one of its operands is a {type(x).__name__}")
    check_float(x)
    return x


def _spread(planner: Planner, x: Array, shape: tuple[int, ...]) -> tuple[Array, int, bool]:
    """`x` over rows of `shape`: where it lies, the stride between its rows, and whether a row is one
    value."""
    is_one = shape[-1] != 1 and (x.ndim == 0 or x.shape[-1] == 1)
    whole = (
        x.expand((*shape[:-1], 1) if is_one else shape)
        if x.ndim
        else x.view([1] * len(shape), [0] * len(shape))
    )
    if x.ndim == 0:
        whole = whole.expand((*shape[:-1], 1 if is_one else shape[-1]))
    found = rows_of(whole)
    if found is None:
        whole = planner.copy(whole, contiguous_strides(whole.shape))
        found = rows_of(whole)
    assert found is not None
    rows, _, stride = found
    return whole, 0 if rows == 1 else stride, is_one
