"""`NumpyHost`: numpy as what computes the steps that no kernel does, where there is no torch.

What masks and positions are made of, and the tables of activations; every other step is refused by its name.
May import quantities, graph, array and errors.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from intaglio.errors import FileFormatError, InputError
from intaglio.runtime.array import ITEM_BYTES, Array, Quant
from intaglio.runtime.graph import Layer, Named, Node
from intaglio.runtime.quantities import function_table

__all__ = ["NumpyHost"]

_Values = np.ndarray[Any, Any]


class NumpyHost:
    """See the module."""

    def find(self, node: Node, layer: Layer | None) -> Callable[..., Any] | None:
        """What computes a step."""
        if layer is not None:
            return None
        name = node.target if node.kind == "method" else node.target.rpartition(".")[2]
        return _FUNCTIONS.get(name)

    def wrap(self, data: _Values, array: Array) -> _Values:
        """The values of an array that is not quantized."""
        if array.quant is not None:
            raise InputError("a quantized value is given to a step that no kernel computes")
        return data

    def unwrap(self, value: Any) -> tuple[_Values, Quant | None] | None:
        """Memory of an array."""
        if isinstance(value, (np.ndarray, np.generic)):
            return np.asarray(value), None
        return None

    def constant(self, value: Any) -> Any:
        """Names stay names."""
        return value

    def table(self, name: str, arguments: dict[str, Any], x: Quant, output: Quant) -> _Values:
        """What an activation makes of each integer, in float32."""
        function = _ACTIVATIONS.get(name)
        if function is None:
            raise FileFormatError(f"no activation is called {name[:80]!r}")
        try:
            return function_table(partial(function, **arguments), x, output)
        except TypeError:
            raise FileFormatError(f"{name} does not take {sorted(arguments)}") from None


# ---- Tensors from sizes and from one another -------------------------------------------------------------


def _dtype(dtype: Any, default: Any = np.float32) -> Any:
    if dtype is None:
        return default
    if not isinstance(dtype, Named) or dtype.name not in ITEM_BYTES or dtype.name == "bfloat16":
        raise InputError(f"numpy has no {dtype}")
    return np.dtype(dtype.name)


def _shape(sizes: tuple[Any, ...], named: dict[str, Any]) -> tuple[int, ...]:
    given = (named["size"],) if "size" in named else sizes
    listed = given[0] if len(given) == 1 and isinstance(given[0], (list, tuple)) else given
    return tuple(int(n) for n in listed)


def _filled(value: float) -> Callable[..., _Values]:
    def make(*sizes: Any, dtype: Any = None, **named: Any) -> _Values:
        return np.full(_shape(sizes, named), value, _dtype(dtype))

    return make


def _filled_like(value: float) -> Callable[..., _Values]:
    def make(x: _Values, *, dtype: Any = None, **named: Any) -> _Values:
        return np.full_like(x, value, dtype=_dtype(dtype, x.dtype))

    return make


def _full(size: Sequence[int], fill_value: float, *, dtype: Any = None, **named: Any) -> _Values:
    return np.full(tuple(size), fill_value, _dtype(dtype, np.array(fill_value).dtype))


def _arange(*ends: float, dtype: Any = None, **named: Any) -> _Values:
    is_whole = all(isinstance(end, int) for end in ends)
    return np.arange(*ends, dtype=_dtype(dtype, np.int64 if is_whole else np.float32))


def _cast(dtype: Any) -> Callable[..., _Values]:
    def cast(x: _Values, *rest: Any, **named: Any) -> _Values:
        return x.astype(dtype)

    return cast


def _to(x: _Values, *rest: Any, dtype: Any = None, **named: Any) -> _Values:
    for item in (*rest, dtype):
        if isinstance(item, Named) and item.kind == "dtype":
            return x.astype(_dtype(item))
        if isinstance(item, np.ndarray):
            return x.astype(item.dtype)
    return x


def _masked_fill(x: _Values, mask: _Values, value: Any) -> _Values:
    return np.where(mask, np.asarray(value, x.dtype), x)


def _where(condition: _Values, x: Any, y: Any) -> _Values:
    found: _Values = np.where(condition, x, y)
    given = [part.dtype for part in (x, y) if isinstance(part, np.ndarray)]
    cast: _Values = found.astype(np.result_type(*given) if given else np.float32)
    return cast


def _reduced(function: Callable[..., Any]) -> Callable[..., _Values]:
    def reduce(x: _Values, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> _Values:
        axes = tuple(dim) if isinstance(dim, (list, tuple)) else dim
        found = np.asarray(function(x, axis=axes, keepdims=keepdim))
        is_whole = x.dtype.kind in "bui"
        return found.astype(_dtype(dtype, np.int64 if is_whole else x.dtype))

    return reduce


def _cumsum(x: _Values, dim: int, *, dtype: Any = None) -> _Values:
    return np.cumsum(x, dim, dtype=_dtype(dtype, np.int64 if x.dtype.kind in "bui" else x.dtype))


def _pair(function: Callable[..., Any]) -> Callable[..., _Values]:
    """A function of two operands, of which numbers take the other's type."""

    def combine(a: Any, b: Any, **named: Any) -> _Values:
        numbers = [x for x in (a, b) if not isinstance(x, np.ndarray)]
        arrays = [x for x in (a, b) if isinstance(x, np.ndarray)]
        found = np.asarray(function(a, b))
        if found.dtype == np.float64 and all(x.dtype != np.float64 for x in arrays):
            return found.astype(np.float32)
        return (
            found.astype(arrays[0].dtype) if numbers and found.dtype.kind == arrays[0].dtype.kind else found
        )

    return combine


def _compared(function: Callable[..., Any]) -> Callable[..., _Values]:
    return lambda a, b: np.asarray(function(a, b))


def _clamp(x: _Values, min: Any = None, max: Any = None) -> _Values:
    found: _Values = np.clip(x, min, max).astype(x.dtype)
    return found


def _triangle(function: Callable[..., Any]) -> Callable[..., _Values]:
    return lambda x, diagonal=0: function(x, diagonal)


def _cat(tensors: Sequence[_Values], dim: int = 0) -> _Values:
    return np.concatenate(list(tensors), dim)


def _repeat(x: _Values, *sizes: Any) -> _Values:
    return np.tile(x, _shape(sizes, {}))


def _float32_of(function: Callable[..., Any]) -> Callable[..., _Values]:
    return lambda x, **named: np.asarray(function(x)).astype(np.float32)


_COMPARISONS: dict[str, Callable[..., Any]] = {
    "eq": np.equal,
    "ne": np.not_equal,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
}

_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "arange": _arange,
    "zeros": _filled(0),
    "ones": _filled(1),
    "full": _full,
    "zeros_like": _filled_like(0),
    "ones_like": _filled_like(1),
    "full_like": lambda x, fill_value, **named: _filled_like(fill_value)(x, **named),
    "new_zeros": lambda x, *sizes, **named: np.zeros(_shape(sizes, {}), _dtype(named.get("dtype"), x.dtype)),
    "new_ones": lambda x, *sizes, **named: np.ones(_shape(sizes, {}), _dtype(named.get("dtype"), x.dtype)),
    "to": _to,
    "type_as": _to,
    "float": _cast(np.float32),
    "long": _cast(np.int64),
    "int": _cast(np.int32),
    "bool": _cast(np.bool_),
    "masked_fill": _masked_fill,
    "where": _where,
    "cat": _cat,
    "concat": _cat,
    "stack": lambda tensors, dim=0: np.stack(list(tensors), dim),
    "repeat": _repeat,
    "tril": _triangle(np.tril),
    "triu": _triangle(np.triu),
    "cumsum": _cumsum,
    "sum": _reduced(np.sum),
    "any": lambda x, dim=None, keepdim=False: np.asarray(np.any(x, dim, keepdims=keepdim)),
    "all": lambda x, dim=None, keepdim=False: np.asarray(np.all(x, dim, keepdims=keepdim)),
    "amax": lambda x, dim=None, keepdim=False: np.asarray(np.max(x, dim, keepdims=keepdim)),
    "amin": lambda x, dim=None, keepdim=False: np.asarray(np.min(x, dim, keepdims=keepdim)),
    "argmax": lambda x, dim=None, keepdim=False: np.asarray(np.argmax(x, dim, keepdims=keepdim)),
    "norm": lambda x, p=2, dim=None, keepdim=False: np.asarray(
        np.linalg.norm(x, p if p != "fro" else None, dim, keepdim)
    ).astype(np.float32),
    "mean": _reduced(np.mean),
    "clamp": _clamp,
    "clip": _clamp,
    "clamp_min": lambda x, min: _clamp(x, min),
    "clamp_max": lambda x, max: _clamp(x, None, max),
    "exp": _float32_of(np.exp),
    "log": _float32_of(np.log),
    "sqrt": _float32_of(np.sqrt),
    "rsqrt": _float32_of(lambda x: 1.0 / np.sqrt(x)),
    "neg": lambda x: -x,
    "abs": np.abs,
    "invert": np.invert,
    "logical_not": np.logical_not,
    **{
        name: _pair(function)
        for name, function in {
            "add": np.add,
            "sub": np.subtract,
            "mul": np.multiply,
            "truediv": np.true_divide,
            "div": np.true_divide,
            "floordiv": np.floor_divide,
            "pow": np.power,
            "and_": np.bitwise_and,
            "or_": np.bitwise_or,
            "logical_and": np.logical_and,
            "logical_or": np.logical_or,
            "maximum": np.maximum,
            "minimum": np.minimum,
        }.items()
    },
    **{name: _compared(function) for name, function in _COMPARISONS.items()},
}


# ---- Activations -----------------------------------------------------------------------------------------


def _erf(x: _Values) -> _Values:
    return np.array([math.erf(float(value)) for value in x])


def _gelu(x: _Values, approximate: str = "none") -> _Values:
    wide = x.astype(np.float64)
    if approximate == "tanh":
        return np.asarray(0.5 * wide * (1 + np.tanh(math.sqrt(2 / math.pi) * (wide + 0.044715 * wide**3))))
    return np.asarray(0.5 * wide * (1 + _erf(wide / math.sqrt(2))))


def _sigmoid(x: _Values) -> _Values:
    return np.asarray(1 / (1 + np.exp(-x.astype(np.float64))))


def _softplus(x: _Values, beta: float = 1.0, threshold: float = 20.0) -> _Values:
    wide = x.astype(np.float64) * beta
    return np.asarray(np.where(wide > threshold, wide, np.log1p(np.exp(wide))) / beta)


def _elu(x: _Values, alpha: float = 1.0) -> _Values:
    return np.where(x > 0, x, alpha * np.expm1(x.astype(np.float64)))


def _threshold(x: _Values, threshold: float, value: float) -> _Values:
    return np.asarray(np.where(x > threshold, x, np.float32(value)))


_SELU_SCALE, _SELU_ALPHA = 1.0507009873554805, 1.6732632423543772

_ACTIVATIONS: dict[str, Callable[..., _Values]] = {
    "CELU": lambda x, alpha: np.where(x > 0, x, alpha * np.expm1(x.astype(np.float64) / alpha)),
    "ELU": _elu,
    "GELU": _gelu,
    "Hardshrink": lambda x, lambd: np.where(np.abs(x) > lambd, x, 0.0),
    "Hardsigmoid": lambda x: np.clip(x + np.float32(3), 0, 6) / np.float32(6),
    "Hardswish": lambda x: x * np.clip(x + np.float32(3), 0, 6) / np.float32(6),
    "LeakyReLU": lambda x, negative_slope: np.where(x > 0, x, x * np.float32(negative_slope)),
    "LogSigmoid": lambda x: -_softplus(-x),
    "Mish": lambda x: x * np.tanh(_softplus(x)),
    "RReLU": lambda x, lower, upper: np.where(x >= 0, x, x * np.float32((lower + upper) / 2)),
    "SELU": lambda x: _SELU_SCALE * _elu(x, _SELU_ALPHA),
    "SiLU": lambda x: x * _sigmoid(x),
    "Sigmoid": _sigmoid,
    "Softplus": _softplus,
    "Softshrink": lambda x, lambd: np.where(x > lambd, x - lambd, np.where(x < -lambd, x + lambd, 0.0)),
    "Softsign": lambda x: x / (1 + np.abs(x)),
    "Tanh": lambda x: np.tanh(x.astype(np.float64)),
    "Tanhshrink": lambda x: x - np.tanh(x.astype(np.float64)),
    "Threshold": _threshold,
}
