"""Functions of torch that work on a `QTensor` as they are: clamps, fixed ranges, joins, padding, means.

Functions whose output has the input's parameters keep them; those whose output has one range whatever comes
give that range's (sigmoid, softmax, tanh). All others raise, for a scale must come from somewhere. Importing
this module registers them. May import ops, qtensor, qparams and errors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from intaglio.ops.elementwise import concatenate
from intaglio.ops.normalize import softmax
from intaglio.ops.pooling import adaptive_avg_pool
from intaglio.ops.tables import lookup, make_table
from intaglio.qparams import UINT8, QParams, quantize
from intaglio.qtensor import QTensor, refuse, register_function

__all__ = ["FROM_MINUS_ONE_TO_ONE", "FROM_ZERO_TO_ONE", "ValuesAndIndices"]

FROM_ZERO_TO_ONE = QParams(torch.tensor(1 / 256), torch.tensor(0, dtype=torch.int32), UINT8)
"""Of what lies in 0..1, as `torch.ao.quantization` has it."""
FROM_MINUS_ONE_TO_ONE = QParams(torch.tensor(1 / 128), torch.tensor(128, dtype=torch.int32), UINT8)
"""Of what lies in -1..1."""


# ---- Shapes --------------------------------------------------------------------------------------------


@register_function(Tensor.view)
def _view(input: QTensor, *size: Any) -> QTensor:
    """As reshape: an image lies with its channels innermost, where float code expects planes."""
    if input.qparams.axis is not None or any(isinstance(part, torch.dtype) for part in size):
        refuse("view", (input,))
    return QTensor(input.data.reshape(*size), input.qparams, input.source)


# ---- Clamps --------------------------------------------------------------------------------------------


@lru_cache(maxsize=1024)
def _integer(value: float, scale: float, zero_point: int, lower: int, upper: int) -> int:
    """What `value` is quantized to."""
    zero = torch.tensor(zero_point, dtype=torch.int32)
    parameters = QParams(torch.tensor(scale), zero, UINT8, None, lower, upper)
    return int(quantize(torch.tensor(value), parameters))


def _clamped(name: str, q: QTensor, low: Any, high: Any, inplace: bool = False) -> QTensor:
    """`q` with its integers between those of `low` and `high`; in place, so that others see it, if asked."""
    if q.qparams.axis is not None or q.data.dtype is not torch.uint8 or not _numbers(low, high):
        refuse(name, (q,))
    parameters = (*q.qparams.scalars, *q.qparams.limits())
    lower, upper = (None if end is None else _integer(float(end), *parameters) for end in (low, high))
    if lower is None and upper is None:
        return q
    if inplace:
        q.data.clamp_(lower, upper)
        return q
    return QTensor(torch.clamp(q.data, lower, upper), q.qparams, q.source)


def _numbers(*ends: Any) -> bool:
    return all(end is None or isinstance(end, (int, float)) for end in ends)


@register_function(F.relu, torch.relu, Tensor.relu)
def _relu(input: QTensor, inplace: bool = False) -> QTensor:
    return _clamped("relu", input, 0.0, None, inplace)


@register_function(torch.relu_, Tensor.relu_)
def _relu_(input: QTensor) -> QTensor:
    return _clamped("relu_", input, 0.0, None, True)


@register_function(F.relu6)
def _relu6(input: QTensor, inplace: bool = False) -> QTensor:
    return _clamped("relu6", input, 0.0, 6.0, inplace)


@register_function(F.hardtanh)
def _hardtanh(input: QTensor, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> QTensor:
    return _clamped("hardtanh", input, min_val, max_val, inplace)


@register_function(torch.clamp, torch.clip, Tensor.clamp, Tensor.clip)
def _clamp(input: QTensor, min: float | None = None, max: float | None = None) -> QTensor:
    return _clamped("clamp", input, min, max)


@register_function(torch.clamp_, Tensor.clamp_)
def _clamp_(input: QTensor, min: float | None = None, max: float | None = None) -> QTensor:
    return _clamped("clamp_", input, min, max, True)


@register_function(torch.clamp_min, Tensor.clamp_min)
def _clamp_min(input: QTensor, min: float) -> QTensor:
    return _clamped("clamp_min", input, min, None)


@register_function(torch.clamp_max, Tensor.clamp_max)
def _clamp_max(input: QTensor, max: float) -> QTensor:
    return _clamped("clamp_max", input, None, max)


# ---- Functions of one variable with a fixed range --------------------------------------------------------


@lru_cache(maxsize=1024)
def _table(function: Callable[[Tensor], Tensor], scale: float, zero_point: int, output: QParams) -> Tensor:
    """`(256,) uint8`: what `function` makes of each integer, as integers of `output`."""
    parameters = QParams(torch.tensor(scale), torch.tensor(zero_point, dtype=torch.int32), UINT8)
    return make_table(function, parameters, output)


def _looked_up(name: str, q: QTensor, function: Callable[[Tensor], Tensor], output: QParams) -> QTensor:
    if q.qparams.axis is not None or q.data.dtype is not torch.uint8:
        refuse(name, (q,))
    return QTensor(lookup(q.data, _table(function, *q.qparams.scalars, output)), output, q.source)


@register_function(F.sigmoid, torch.sigmoid, Tensor.sigmoid)
def _sigmoid(input: QTensor) -> QTensor:
    return _looked_up("sigmoid", input, torch.sigmoid, FROM_ZERO_TO_ONE)


@register_function(F.hardsigmoid)
def _hardsigmoid(input: QTensor, inplace: bool = False) -> QTensor:
    return _looked_up("hardsigmoid", input, F.hardsigmoid, FROM_ZERO_TO_ONE)


@register_function(F.tanh, torch.tanh, Tensor.tanh)
def _tanh(input: QTensor) -> QTensor:
    return _looked_up("tanh", input, torch.tanh, FROM_MINUS_ONE_TO_ONE)


@register_function(F.softmax, torch.softmax, Tensor.softmax)
def _softmax(input: QTensor, dim: int | None = None, *, dtype: Any = None, _stacklevel: int = 3) -> QTensor:
    if (
        input.qparams.axis is not None
        or input.data.dtype is not torch.uint8
        or dim is None
        or input.dim() == 0
    ):
        refuse("softmax", (input,))
    data = softmax(input.data.movedim(dim, -1), input.qparams.scalars[0]).movedim(-1, dim)
    return QTensor(data, FROM_ZERO_TO_ONE, input.source)


# ---- Joins ---------------------------------------------------------------------------------------------


def _same_parameters(name: str, tensors: Sequence[Any]) -> QTensor:
    """The first of `tensors`, all of which have its parameters; an error that names their makers if not."""
    first = next(x for x in tensors if isinstance(x, QTensor))
    for x in tensors:
        if not isinstance(x, QTensor) or x.qparams.axis is not None:
            refuse(name, (tensors,))
        if x.qparams is not first.qparams and (
            x.qparams.scalars != first.qparams.scalars or x.qparams.limits() != first.qparams.limits()
        ):
            refuse(name, (tensors,), "needs equal scales and zero points, which differ,")
    return first


@register_function(torch.cat, torch.concat, torch.concatenate)
def _cat(tensors: Sequence[QTensor], dim: int = 0, *, axis: int | None = None) -> QTensor:
    first = _same_parameters("cat", tensors)
    count = len(tensors)
    scale, zero_point = first.qparams.scalars
    data = concatenate(
        [x.data for x in tensors],
        [scale] * count,
        [zero_point] * count,
        dim if axis is None else axis,
        scale,
        zero_point,
    )
    return QTensor(data, first.qparams, first.source)


@register_function(torch.stack)
def _stack(tensors: Sequence[QTensor], dim: int = 0) -> QTensor:
    first = _same_parameters("stack", tensors)
    return QTensor(torch.stack([x.data for x in tensors], dim), first.qparams, first.source)


# ---- The largest and the smallest ------------------------------------------------------------------------


class ValuesAndIndices(NamedTuple):
    """What torch gives for `max` along an axis, and its kin."""

    values: QTensor
    indices: Tensor


def _register_order(function: Callable[..., Any], *others: Callable[..., Any]) -> None:
    """Functions of the order of values, which is that of the integers; indices are plain tensors."""
    name = function.__name__

    @register_function(function, *others)
    def run(input: QTensor, *args: Any, **kwargs: Any) -> Any:
        if input.qparams.axis is not None or any(isinstance(arg, (Tensor, QTensor)) for arg in args):
            refuse(name, (input,))
        found = function(input.data, *args, **kwargs)
        if isinstance(found, Tensor):
            is_index = found.dtype is not input.data.dtype
            return found if is_index else QTensor(found, input.qparams, input.source)
        return ValuesAndIndices(QTensor(found[0], input.qparams, input.source), found[1])


for _function in ("argmax", "argmin", "argsort", "amax", "amin", "max", "min", "sort", "topk"):
    _register_order(getattr(torch, _function), getattr(Tensor, _function))


# ---- Padding -------------------------------------------------------------------------------------------


@register_function(F.pad)
def _pad(input: QTensor, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> QTensor:
    if input.qparams.axis is not None or input.data.dtype is not torch.uint8:
        refuse("pad", (input,))
    if mode == "constant":
        filling = _integer(float(value or 0.0), *input.qparams.scalars, *input.qparams.limits())
        return QTensor(F.pad(input.data, list(pad), value=filling), input.qparams, input.source)
    data = input.data
    for place in range(len(pad) // 2):
        dim = data.dim() - 1 - place
        positions = F.pad(
            torch.arange(float(data.shape[dim]))[None, None], list(pad[2 * place : 2 * place + 2]), mode
        )
        data = data.index_select(dim, positions.flatten().long())
    return QTensor(data, input.qparams, input.source)


# ---- Means ---------------------------------------------------------------------------------------------


@register_function(torch.mean, Tensor.mean)
def _mean(
    input: QTensor, dim: int | Sequence[int] | None = None, keepdim: bool = False, *, dtype: Any = None
) -> QTensor:
    if input.qparams.axis is not None or input.data.dtype is not torch.uint8:
        refuse("mean", (input,))
    dims = [dim] if isinstance(dim, int) else dim or range(input.dim())  # an empty list means all
    reduced = sorted({d % max(1, input.dim()) for d in dims})
    kept = [d for d in range(input.dim()) if d not in reduced]
    sizes = [input.shape[d] for d in kept]
    rows = sizes[0] if sizes else 1
    # What is kept as samples and channels, what goes as the pixels.
    moved = input.data.permute(*kept, *reduced).reshape(
        rows, -1 if input.numel() else 0, _count(input, reduced)
    )
    zero_point = input.qparams.scalars[1]
    lower, upper = input.qparams.limits()
    data = adaptive_avg_pool(moved, (1,), zero_point=zero_point, lower=lower, upper=upper)
    shape = [1 if d in reduced else input.shape[d] for d in range(input.dim())] if keepdim else sizes
    return QTensor(data.reshape(shape), input.qparams, input.source)


def _count(q: QTensor, dims: Sequence[int]) -> int:
    total = 1
    for d in dims:
        total *= q.shape[d]
    return total


# ---- What does nothing after training --------------------------------------------------------------------


@register_function(
    F.dropout,
    F.dropout1d,
    F.dropout2d,
    F.dropout3d,
    F.alpha_dropout,
    F.feature_alpha_dropout,
    torch.dropout,
)
def _dropout(input: QTensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> QTensor:
    if training:
        refuse("dropout", (input,), "in training mode has no quantized form (call model.eval())")
    return input
