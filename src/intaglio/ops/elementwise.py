"""Elementwise arithmetic on quantized activations: sums, products, scalars, concatenation.

Tensors are uint8 with one scale and zero point each (docs/numerics.md, "Static quantization"). A function
calls its kernel directly where nothing watches torch's calls, and its `torch.library` op elsewhere.
The functions of `tables` can be had from here too. May import static_calls, layout, tables, library,
qtensor, qparams, errors and _core.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import prod

import torch
from torch import Tensor

from intaglio import _core
from intaglio.errors import InputError
from intaglio.ops.layout import dense_pair, empty_image, has_channels_innermost, with_channels_innermost
from intaglio.ops.library import define_op, is_direct
from intaglio.ops.static_calls import PairCall
from intaglio.ops.tables import check_uint8, lookup, requantization_table, requantize
from intaglio.qparams import QParams
from intaglio.qtensor import QTensor

__all__ = [
    "add",
    "add_scalar",
    "concatenate",
    "lookup",
    "mul",
    "mul_scalar",
    "plan_pair",
    "requantization_table",
    "requantize",
]

_ADD, _MUL = 0, 1
_NEITHER, _A, _B = 0, 1, 2
_MOST_STEPS = 2**40
"""Of a scalar's multiples of the scale: integers of int64 hold them with room to spare."""
_threads = torch.get_num_threads


# ---- Sums and products ---------------------------------------------------------------------------------


def add(
    a: Tensor,
    b: Tensor,
    scale_a: float,
    zero_point_a: int,
    scale_b: float,
    zero_point_b: int,
    scale: float,
    zero_point: int,
    lower: int = 0,
    upper: int = 255,
) -> Tensor:
    """The quantized sum of uint8 `a` and `b`, broadcast to each other; `lower` and `upper` clamp it.

    `encode(fma(float(a - zero_point_a), scale_a / scale, float(b - zero_point_b) * (scale_b / scale)))`.
    """
    params = (scale_a, zero_point_a, scale_b, zero_point_b, scale, zero_point, lower, upper)
    if is_direct(a, b):
        return _combine(_ADD, a, b, *params)
    return torch.ops.intaglio.add_quantized(a, b, *params)  # type: ignore[no-any-return]


def mul(
    a: Tensor,
    b: Tensor,
    scale_a: float,
    zero_point_a: int,
    scale_b: float,
    zero_point_b: int,
    scale: float,
    zero_point: int,
    lower: int = 0,
    upper: int = 255,
) -> Tensor:
    """The quantized product of uint8 `a` and `b`, broadcast to each other; `lower` and `upper` clamp it.

    `encode(float((a - zero_point_a) * (b - zero_point_b)) * (scale_a * scale_b / scale))`.
    """
    params = (scale_a, zero_point_a, scale_b, zero_point_b, scale, zero_point, lower, upper)
    if is_direct(a, b):
        return _combine(_MUL, a, b, *params)
    return torch.ops.intaglio.mul_quantized(a, b, *params)  # type: ignore[no-any-return]


def plan_pair(
    function: Callable[..., Tensor], a: Tensor, b: Tensor, parameters: Sequence[float]
) -> PairCall | None:
    """The call that `add` or `mul` makes for tensors just like these, if it is a plain one, or None."""
    op = {add: _ADD, mul: _MUL}.get(function)
    if op is None or a.shape != b.shape or a.stride() != b.stride():
        return None
    return PairCall(op, a, parameters) if torch.empty_like(a).stride() == a.stride() else None


def _combine(
    op: int,
    a: Tensor,
    b: Tensor,
    scale_a: float,
    zero_point_a: int,
    scale_b: float,
    zero_point_b: int,
    scale: float,
    zero_point: int,
    lower: int,
    upper: int,
) -> Tensor:
    """The sum or the product, whatever the shapes and layouts."""
    check_uint8("add and mul", a, b)
    if a.shape == b.shape:
        if a.stride() != b.stride() and a.dim() > 2 and has_channels_innermost(b):
            a = with_channels_innermost(a)
        a, y = dense_pair(a, torch.uint8)
        if b.stride() != a.stride():
            b = torch.empty_like(a).copy_(b)
        groups, rows, cols, single, shared = 1, a.numel(), 1, _NEITHER, False
    elif _squeezes(a, b):
        y, single, shared = torch.empty_like(a), _B, False
        groups, cols, height, width = a.shape
        rows = height * width
    else:
        a, b, y, groups, rows, cols, single, shared = _broadcast(a, b)
    _core.combine_pairs(
        op,
        a.data_ptr(),
        b.data_ptr(),
        groups,
        rows,
        cols,
        single,
        shared,
        scale_a,
        zero_point_a,
        scale_b,
        zero_point_b,
        scale,
        zero_point,
        lower,
        upper,
        y.data_ptr(),
        _threads(),
    )
    return y


def _squeezes(a: Tensor, b: Tensor) -> bool:
    """Whether `b` is the `(N, C, 1, 1)` of an `(N, C, H, W)` image: the commonest broadcast, found fast."""
    return (
        a.dim() == 4
        and b.shape == (*a.shape[:2], 1, 1)
        and a.is_contiguous(memory_format=torch.channels_last)
        and b.is_contiguous()
    )


def _broadcast(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor, int, int, int, int, bool]:
    """Operands as the driver takes them: `(a, b, y, groups, rows, cols, single, shared)`.

    An operand that repeats for whole rows of the other is passed as it is; any other is expanded.
    """
    shape = _broadcast_shape(a, b)
    if a.shape != shape and b.shape != shape:
        a = a.expand(shape)
    b_repeats = a.shape == shape
    whole, part = (a, b) if b_repeats else (b, a)
    innermost = whole.dim() > 2 and has_channels_innermost(whole)
    whole = whole.contiguous() if not innermost else with_channels_innermost(whole)
    part = part.reshape([1] * (len(shape) - part.dim()) + list(part.shape))
    groups, rows, cols, shared = _repeats(shape, part.shape, innermost)
    single = _B if b_repeats else _A
    if cols:
        part = part.contiguous()
    else:
        part = torch.empty_like(whole).copy_(part)
        groups, rows, cols, single = 1, whole.numel(), 1, _NEITHER
    a, b = (whole, part) if b_repeats else (part, whole)
    return a, b, torch.empty_like(whole), groups, rows, cols, single, shared


def _broadcast_shape(a: Tensor, b: Tensor) -> torch.Size:
    try:
        return torch.broadcast_shapes(a.shape, b.shape)  # type: ignore[no-untyped-call, no-any-return]
    except RuntimeError:
        raise InputError(
            f"tensors of shapes {tuple(a.shape)} and {tuple(b.shape)} cannot be broadcast to each other"
        ) from None


def _repeats(shape: Sequence[int], part: Sequence[int], innermost: bool) -> tuple[int, int, int, bool]:
    """Groups, rows and columns where `part` is one row of each group, and whether all groups share it.

    Columns are 0 where it is not.
    """
    if innermost:
        if part[1] != shape[1] or any(size != 1 for size in part[2:]) or part[0] not in (1, shape[0]):
            return 0, 0, 0, False
        return shape[0], prod(shape[2:]), shape[1], part[0] == 1
    lead = next((i for i, size in enumerate(part) if size != 1), len(part))
    if list(part[lead:]) != list(shape[lead:]):
        return 0, 0, 0, False
    return 1, prod(shape[:lead]), prod(shape[lead:]), True


def _fake_combine(a: Tensor, b: Tensor, *params: float) -> Tensor:
    if a.shape == b.shape:
        if a.stride() != b.stride() and a.dim() > 2 and has_channels_innermost(b):
            a = with_channels_innermost(a)
        return torch.empty_like(a)
    shape = _broadcast_shape(a, b)
    whole = a if a.shape == shape or b.shape != shape else b
    if whole.shape == shape and whole.dim() > 2 and has_channels_innermost(whole):
        return torch.empty_like(with_channels_innermost(whole))
    return torch.empty(shape, dtype=torch.uint8, device=a.device)


_PAIR = (
    "(Tensor a, Tensor b, float scale_a, int zero_point_a, float scale_b, int zero_point_b, float scale, "
    "int zero_point, int lower, int upper) -> Tensor"
)
define_op(f"add_quantized{_PAIR}", lambda *args: _combine(_ADD, *args), _fake_combine)
define_op(f"mul_quantized{_PAIR}", lambda *args: _combine(_MUL, *args), _fake_combine)


# ---- Scalars -------------------------------------------------------------------------------------------


def add_scalar(q: QTensor, value: float) -> QTensor:
    """`q + value`, by other parameters: the integers stay, unless the zero point would leave their limits.

    As the legacy `add_scalar`, `value` counts as the nearest multiple of the scale, `steps`. The zero point
    becomes `zero_point - steps`; where that is below or above the limits, the range is widened to hold zero
    and the integers are requantized to it.
    """
    scale, zero_point = _scalars(q)
    lower, upper = q.qparams.limits()
    if not abs(value) < scale * _MOST_STEPS:
        raise InputError(f"add_scalar cannot add {value} to a QTensor of scale {scale}")
    steps = round(float(value) / scale)
    moved = zero_point - steps
    if lower <= moved <= upper:
        return QTensor(q.data, _with_scalars(q.qparams, scale, moved))
    reach = upper - moved if moved < lower else moved - lower
    wide, zero = _float32(reach / (upper - lower) * scale), lower if moved < lower else upper
    data = requantize(q.data, scale, moved, wide, zero, lower, upper)
    return QTensor(data, _with_scalars(q.qparams, wide, zero))


def mul_scalar(q: QTensor, value: float) -> QTensor:
    """`q * value`, by other parameters: the scale is multiplied, and the integers stay.

    As the legacy `mul_scalar`: a negative `value` mirrors the integers in their limits, zero gives zeros.
    """
    scale, zero_point = _scalars(q)
    lower, upper = q.qparams.limits()
    product = _float32(scale * abs(float(value)))
    if not product > 0.0:
        return QTensor(torch.full_like(q.data, lower), _with_scalars(q.qparams, 1.0, lower))
    if value > 0:
        return QTensor(q.data, _with_scalars(q.qparams, product, zero_point))
    every = torch.arange(256).clamp(lower, upper)
    mirror = (lower + upper - every).to(torch.uint8)
    return QTensor(lookup(q.data, mirror), _with_scalars(q.qparams, product, lower + upper - zero_point))


def _scalars(q: QTensor) -> tuple[float, int]:
    if q.qparams.axis is not None or q.data.dtype is not torch.uint8:
        raise InputError(
            f"a {q.qparams.dtype} QTensor of shape {tuple(q.shape)} is no activation: arithmetic takes uint8 "
            "with one scale"
        )
    return float(q.qparams.scale), int(q.qparams.zero_point)


def _with_scalars(qparams: QParams, scale: float, zero_point: int) -> QParams:
    return replace(qparams, scale=torch.tensor(scale), zero_point=torch.tensor(zero_point, dtype=torch.int32))


def _float32(value: float) -> float:
    return float(torch.tensor(value, dtype=torch.float32))


# ---- Concatenation -------------------------------------------------------------------------------------


def concatenate(
    tensors: Sequence[Tensor],
    scales: Sequence[float],
    zero_points: Sequence[int],
    dim: int,
    scale: float,
    zero_point: int,
    lower: int = 0,
    upper: int = 255,
) -> Tensor:
    """`torch.cat` of uint8 tensors along `dim`, each requantized from its own parameters.

    Images come out with their channels innermost, unless all of them are contiguous.
    """
    params = (list(scales), list(zero_points), dim, scale, zero_point, lower, upper)
    if all(is_direct(x) for x in tensors):
        return _concatenate(tensors, *params)
    return torch.ops.intaglio.concatenate(list(tensors), *params)  # type: ignore[no-any-return]


def _concatenate(
    tensors: Sequence[Tensor],
    scales: Sequence[float],
    zero_points: Sequence[int],
    dim: int,
    scale: float,
    zero_point: int,
    lower: int,
    upper: int,
) -> Tensor:
    """CPU kernel of `intaglio::concatenate`."""
    check_uint8("concatenate", *tensors)
    found = _join_channels(tensors) if dim == 1 else None
    tensors, y, rows, cols = _join(tensors, dim) if found is None else found
    tables = [
        None
        if (own, zero, lower, upper) == (scale, zero_point, 0, 255)
        else requantization_table(own, zero, scale, zero_point, lower, upper)
        for own, zero in zip(scales, zero_points, strict=True)
    ]
    _core.concatenate_rows(
        [x.data_ptr() for x in tensors],
        [0 if table is None else table.data_ptr() for table in tables],
        cols,
        rows,
        y.data_ptr(),
        _threads(),
    )
    return y


_Joined = tuple[Sequence[Tensor], Tensor, int, list[int]]
"""What a concatenation comes to: parts as they lie in memory, the result, rows, columns of each part."""


def _join_channels(tensors: Sequence[Tensor]) -> _Joined | None:
    """The commonest case, found fast: images of one size, channels innermost, along the channels."""
    if not tensors or tensors[0].dim() != 4:
        return None
    batch, _, height, width = tensors[0].shape
    cols = []
    for x in tensors:
        if not _is_channels_last(x):
            return None
        n, channels, h, w = x.shape
        if n != batch or h != height or w != width:
            return None
        cols.append(channels)
    y = empty_image((batch, sum(cols), height, width), torch.uint8)
    return tensors, y, batch * height * width, cols


def _join(tensors: Sequence[Tensor], dim: int) -> _Joined:
    """Any shapes and layouts."""
    shape, dim = _concatenated_shape(tensors, dim)
    innermost = _is_innermost(tensors)
    if innermost:
        tensors = [with_channels_innermost(x) for x in tensors]
        y = empty_image(tuple(shape), torch.uint8)
    else:
        tensors = [x.contiguous() for x in tensors]
        y = torch.empty(shape, dtype=torch.uint8)
    # Sizes in the order in which the axes lie in memory.
    order = [shape[0], *shape[2:], shape[1]] if innermost else shape
    at = dim if not innermost or dim == 0 else len(shape) - 1 if dim == 1 else dim - 1
    inner = prod(order[at + 1 :])
    return tensors, y, prod(order[:at]), [x.shape[dim] * inner for x in tensors]


def _is_innermost(tensors: Sequence[Tensor]) -> bool:
    """Whether the result has its channels innermost: not where all parts are contiguous and nothing else."""
    if tensors[0].dim() == 4 and all(_is_channels_last(x) for x in tensors):
        return True
    return tensors[0].dim() > 2 and not all(x.is_contiguous() for x in tensors)


def _is_channels_last(x: Tensor) -> bool:
    return x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)


def _concatenated_shape(tensors: Sequence[Tensor], dim: int) -> tuple[list[int], int]:
    """Shape of the result, and `dim` counted from the front."""
    if not tensors:
        raise InputError("there is nothing to concatenate")
    first = list(tensors[0].shape)
    if not -len(first) <= dim < len(first):
        raise InputError(f"there is no axis {dim} to concatenate tensors of {len(first)} dimensions along")
    dim %= len(first)
    total = 0
    for x in tensors:
        total += x.shape[dim] if x.dim() == len(first) else 0
        first[dim] = x.shape[dim] if x.dim() == len(first) else -1
        if x.shape != tuple(first):
            shapes = ", ".join(str(tuple(t.shape)) for t in tensors)
            raise InputError(f"tensors of shapes {shapes} cannot be concatenated along axis {dim}")
    first[dim] = total
    return first, dim


def _fake_concatenate(
    tensors: Sequence[Tensor],
    scales: Sequence[float],
    zero_points: Sequence[int],
    dim: int,
    scale: float,
    zero_point: int,
    lower: int,
    upper: int,
) -> Tensor:
    shape, _ = _concatenated_shape(tensors, dim)
    if not _is_innermost(tensors):
        return tensors[0].new_empty(shape)
    return empty_image(tuple(shape), torch.uint8, tensors[0].device)


define_op(
    "concatenate(Tensor[] tensors, float[] scales, int[] zero_points, int dim, float scale, int zero_point, "
    "int lower, int upper) -> Tensor",
    _concatenate,
    _fake_concatenate,
)
