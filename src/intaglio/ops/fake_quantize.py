"""Fake quantization of training: float32 onto the quantized grid, where gradients pass, and ranges that move.

The arithmetic is `reference_fake_quantize`, bit for bit, on every instruction set and number of threads. A
mask is uint8 with a bit for each value in memory order, value `i` at bit `i % 8` of byte `i // 8`, set where
the gradient passes. Tensors are float32 on the CPU and dense: no gaps and no overlaps, in any order of axes.
Autograd sees nothing of these calls; its functions are built on them. May import errors and _core.
"""

from __future__ import annotations

import torch
from torch import Tensor

from intaglio import _core
from intaglio.errors import InputError

__all__ = [
    "apply_mask",
    "fake_quantize_observed",
    "fake_quantize_rows",
    "fake_quantize_values",
    "fake_quantize_weight",
    "learned_gradients",
]

MOST_STEPS = 255
"""The largest `most` of `fake_quantize_weight`: the inverse of the smallest scale must fit float32, and no
rounded value may leave `-most .. most`."""

_float32, _int32, _uint8 = torch.float32, torch.int32, torch.uint8
_empty = torch.empty
_empty_like = torch.empty_like
_threads = torch.get_num_threads


def _like(op: str, x: Tensor) -> Tensor:
    """An uninitialized tensor with the strides of `x`, which must be float32, on the CPU and dense."""
    if x.dtype is not _float32 or not x.is_cpu:
        raise InputError(
            f"{op} takes a float32 tensor on the CPU, not one of {x.dtype} on {x.device}: use the functions "
            "of reference_fake_quantize for others"
        )
    y = _empty_like(x)
    if not x.is_contiguous() and y.stride() != x.stride():
        raise InputError(
            f"{op} takes a tensor without gaps or overlaps, not one of shape {tuple(x.shape)} and strides "
            f"{x.stride()}: pass x.contiguous()"
        )
    return y


def _check_parameter(op: str, name: str, value: Tensor, dtype: torch.dtype, count: int) -> None:
    if value.dtype is not dtype or value.numel() != count or not value.is_cpu or not value.is_contiguous():
        raise InputError(
            f"{op} takes {name} as contiguous {dtype} on the CPU with {count} values, not {value.dtype} of "
            f"shape {tuple(value.shape)} on {value.device}"
        )


def _empty_mask(count: int) -> Tensor:
    return _empty((count + 7) >> 3, dtype=_uint8)


def _sizes(op: str, w: Tensor) -> tuple[int, int]:
    """Rows along axis 0, and the values of a row, of a contiguous tensor."""
    if w.dim() == 0 or not w.is_contiguous():
        raise InputError(
            f"{op} takes a contiguous tensor with rows along axis 0, not one of shape {tuple(w.shape)} and "
            f"strides {w.stride()}: pass it as .contiguous()"
        )
    rows = w.shape[0]
    return rows, w.numel() // rows if rows else 0


# ---- Activations ---------------------------------------------------------------------------------------


def fake_quantize_values(
    x: Tensor,
    scale: float,
    zero_point: int,
    quant_min: int,
    quant_max: int,
    low: float = -torch.inf,
    high: float = torch.inf,
) -> tuple[Tensor, Tensor]:
    """The rounded values, with the strides of `x`, and the mask of where the gradient passes.

    As `reference_fake_quantize.fake_quantize`, in one pass over memory. `InputError` for a tensor that is not
    float32, on the CPU and dense.

    >>> y, mask = fake_quantize_values(torch.tensor([0.26, -1.0, 40.0]), 0.1, 3, 0, 255)
    >>> [round(v, 2) for v in y.tolist()], bin(int(mask))
    ([0.3, -0.3, 25.2], '0b1')
    """
    y = _like("fake_quantize_values", x)
    count = x.numel()
    mask = _empty_mask(count)
    _core.fake_quantize_values(
        x.data_ptr(),
        count,
        scale,
        zero_point,
        quant_min,
        quant_max,
        low,
        high,
        y.data_ptr(),
        mask.data_ptr(),
        _threads(),
    )
    return y, mask


def fake_quantize_observed(
    x: Tensor,
    min_val: Tensor,
    max_val: Tensor,
    scale: Tensor,
    zero_point: Tensor,
    averaging_constant: float,
    quant_min: int,
    quant_max: int,
    symmetric: bool = False,
    eps: float = 0.0,
    low: float = -torch.inf,
    high: float = torch.inf,
    quantizes: bool = True,
) -> tuple[Tensor | None, Tensor | None, bool]:
    """Moves a range by what `x` holds, chooses its parameters, and rounds `x` with them, in one call.

    Gives what `fake_quantize_values` does, or None twice unless `quantizes`, and whether the extremes of
    `clamp(x, low, high)` were finite; where they were not the range has not moved. `min_val`, `max_val` and
    `scale`, float32, and `zero_point`, int32, have one value each and change in place: the range as
    `moved_range` of the reference, the parameters as `qparams.choose_qparams`, whose symmetric form narrows
    `quant_min` and `quant_max`, with scales of at least `eps`. A range that never saw anything leaves the
    parameters as they are. `InputError` for what is not dense, on the CPU, or of these dtypes.
    """
    op = "fake_quantize_observed"
    if not (
        min_val.dtype is max_val.dtype is scale.dtype is _float32
        and zero_point.dtype is _int32
        and min_val.numel() == max_val.numel() == scale.numel() == zero_point.numel() == 1
        and min_val.is_cpu
        and max_val.is_cpu
        and scale.is_cpu
        and zero_point.is_cpu
    ):
        for name, value in (("min_val", min_val), ("max_val", max_val), ("scale", scale)):
            _check_parameter(op, name, value, _float32, 1)
        _check_parameter(op, "zero_point", zero_point, _int32, 1)
    count = x.numel()
    y = mask = None
    if quantizes:
        y, mask = _like(op, x), _empty_mask(count)
    elif not x.is_contiguous() or x.dtype is not _float32 or not x.is_cpu:
        _like(op, x)
    is_finite = _core.fake_quantize_observed(
        x.data_ptr(),
        count,
        min_val.data_ptr(),
        max_val.data_ptr(),
        scale.data_ptr(),
        zero_point.data_ptr(),
        averaging_constant,
        quant_min,
        quant_max,
        symmetric,
        eps,
        low,
        high,
        0 if y is None else y.data_ptr(),
        0 if mask is None else mask.data_ptr(),
        _threads(),
    )
    return y, mask, is_finite


# ---- Weights -------------------------------------------------------------------------------------------


def fake_quantize_weight(
    w: Tensor, min_val: Tensor, max_val: Tensor, scale: Tensor, most: int
) -> tuple[Tensor, int]:
    """Each row of axis 0 on its own symmetric grid of `-most .. most`, and the first row that is not finite.

    The row is -1 where all are finite; one that is not has any values. `min_val`, `max_val` and `scale`,
    `(R,)` float32, are written: the row's extremes and `symmetric_scale` of its largest magnitude. Nothing is
    clipped, so that the whole gradient passes. `InputError` for a `w` that is not contiguous float32 on the
    CPU, for other sizes, and for a `most` that is not in 1 .. 255.

    >>> one = torch.empty(1)
    >>> fake_quantize_weight(torch.tensor([[1.0, -0.3, 0.25]]), one, one.clone(), one.clone(), 2)
    (tensor([[ 1.0000, -0.5000,  0.0000]]), -1)
    """
    op = "fake_quantize_weight"
    rows, cols = _sizes(op, w)
    if not 1 <= most <= MOST_STEPS:
        raise InputError(f"{op} takes a most of 1 to {MOST_STEPS}, not {most}")
    for name, value in (("min_val", min_val), ("max_val", max_val), ("scale", scale)):
        _check_parameter(op, name, value, _float32, rows)
    y = _like(op, w)
    bad_row = _core.fake_quantize_weight(
        w.data_ptr(),
        rows,
        cols,
        most,
        min_val.data_ptr(),
        max_val.data_ptr(),
        scale.data_ptr(),
        y.data_ptr(),
        _threads(),
    )
    return y, bad_row


def fake_quantize_rows(
    w: Tensor, scale: Tensor, zero_point: Tensor, quant_min: int, quant_max: int
) -> tuple[Tensor, Tensor]:
    """Each row of axis 0 rounded with its own parameters, and the mask of the whole tensor.

    `scale` and `zero_point` are `(R,)`, float32 and int32. `InputError` for a `w` that is not contiguous
    float32 on the CPU, and for parameters of other sizes.
    """
    op = "fake_quantize_rows"
    rows, cols = _sizes(op, w)
    _check_parameter(op, "scale", scale, _float32, rows)
    _check_parameter(op, "zero_point", zero_point, _int32, rows)
    y = _like(op, w)
    mask = _empty_mask(rows * cols)
    _core.fake_quantize_rows(
        w.data_ptr(),
        rows,
        cols,
        scale.data_ptr(),
        zero_point.data_ptr(),
        quant_min,
        quant_max,
        y.data_ptr(),
        mask.data_ptr(),
        _threads(),
    )
    return y, mask


# ---- Gradients -----------------------------------------------------------------------------------------


def _lies_alike(grad: Tensor, strides: tuple[int, ...]) -> bool:
    """Whether the values of `grad` lie in memory as those of a dense tensor with `strides`."""
    found = grad.stride()
    return found == strides or all(
        size == 1 or a == b for size, a, b in zip(grad.shape, found, strides, strict=True)
    )


def apply_mask(grad: Tensor, mask: Tensor, like_strides: tuple[int, ...] | None = None) -> Tensor:
    """`grad` where the mask's bit is set, else 0.

    `like_strides` are those of the tensor that the mask was made of, and the result has them; a gradient that
    lies in memory in another way is copied first. Without them it must be dense and in that order already.
    `InputError` for another dtype, device or size.
    """
    count = grad.numel()
    if mask.dtype is not _uint8 or mask.numel() != (count + 7) >> 3 or not mask.is_contiguous():
        raise InputError(
            f"apply_mask takes a contiguous uint8 mask of {(count + 7) >> 3} bytes for {count} values, not "
            f"{mask.dtype} of shape {tuple(mask.shape)}"
        )
    if like_strides is None or grad.stride() == like_strides:
        grad_x = _like("apply_mask", grad)
    elif grad.dtype is not _float32 or not grad.is_cpu or len(like_strides) != grad.dim():
        raise InputError(
            f"apply_mask takes a float32 gradient on the CPU with {len(like_strides)} axes, not one of "
            f"{grad.dtype} and shape {tuple(grad.shape)} on {grad.device}"
        )
    else:
        grad_x = torch.empty_strided(grad.shape, like_strides)
        if not _lies_alike(grad, like_strides):
            grad = grad_x.copy_(grad)
    _core.apply_mask(grad.data_ptr(), mask.data_ptr(), count, grad_x.data_ptr(), _threads())
    return grad_x


def learned_gradients(
    grad: Tensor,
    x: Tensor,
    scale: Tensor,
    zero_point: Tensor,
    quant_min: int,
    quant_max: int,
    low: float = -torch.inf,
    high: float = torch.inf,
    rows: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of `x`, with its strides, of `scale` and of `zero_point`, in the shape of `scale`.

    As `learned_gradients` of the reference, the last two summed over the tensor, or over each row of axis 0
    with `rows`. Sums have one order, whatever the instruction set and the threads: float32 over lanes of
    blocks, float64 over those. `scale` is float32 and `zero_point` float32 or int32, used as they are, with
    one value for the tensor or for each row. A `grad` that lies in memory in another way than `x` is copied.
    `InputError` for an `x` that is not dense float32 on the CPU, or not contiguous with `rows`.
    """
    op = "learned_gradients"
    count, cols = _sizes(op, x) if rows else (1, x.numel())
    shift = zero_point if zero_point.dtype is _float32 else zero_point.to(_float32)
    _check_parameter(op, "scale", scale, _float32, count)
    _check_parameter(op, "zero_point", shift, _float32, count)
    if grad.shape != x.shape or grad.dtype is not _float32 or not grad.is_cpu:
        raise InputError(
            f"{op} takes a float32 gradient on the CPU of shape {tuple(x.shape)}, not {grad.dtype} of shape "
            f"{tuple(grad.shape)} on {grad.device}"
        )
    grad_x = _like(op, x)
    if not _lies_alike(grad, x.stride()):
        grad = grad_x.copy_(grad)
    grad_scale, grad_zero_point = _empty_like(scale), _empty_like(scale)
    _core.learned_gradients(
        grad.data_ptr(),
        x.data_ptr(),
        count,
        cols,
        scale.data_ptr(),
        shift.data_ptr(),
        quant_min,
        quant_max,
        low,
        high,
        grad_x.data_ptr(),
        grad_scale.data_ptr(),
        grad_zero_point.data_ptr(),
        _threads(),
    )
    return grad_x, grad_scale, grad_zero_point
