"""Rounding that lets gradients through: the autograd functions of fake quantization.

Each has two forms with the same bits: kernels, for plain float32 tensors on the CPU that nothing watches,
which keep one bit a value for the backward pass; and plain torch, for other devices and for what
`torch.compile` traces. May import ops.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from intaglio.ops import fake_quantize as kernels
from intaglio.ops import reference_fake_quantize as plain
from intaglio.ops.library import is_eager

__all__ = [
    "is_for_kernels",
    "keep_gradient",
    "round_learned",
    "round_observed",
    "round_rows",
    "round_values",
    "round_weight",
]

Limits = tuple[int, int]
Clamp = tuple[float, float]
OPEN: Clamp = (-math.inf, math.inf)


def is_for_kernels(x: Tensor) -> bool:
    """Whether kernels take `x`: float32, dense, on the CPU, with nothing that watches torch's ops."""
    plain_type = type(x) is Tensor or type(x) is nn.Parameter
    return plain_type and x.dtype is torch.float32 and x.is_cpu and is_eager() and _is_dense(x)


def _is_dense(x: Tensor) -> bool:
    if x.is_contiguous():
        return True
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    return x.dim() in formats and x.is_contiguous(memory_format=formats[x.dim()])


def round_values(x: Tensor, scale: Tensor, zero_point: Tensor, limits: Limits, clamp: Clamp = OPEN) -> Tensor:
    """`x` clamped and rounded to whole steps of one scale; the gradient passes where nothing is cut off."""
    if is_for_kernels(x):
        return _apply(_KernelValues, x, float(scale), int(zero_point), limits, clamp)
    return _apply(_PlainValues, x, scale.reshape(()), zero_point.reshape(()), limits, clamp)


def round_rows(x: Tensor, scale: Tensor, zero_point: Tensor, limits: Limits, axis: int) -> Tensor:
    """As `round_values`, with a scale and a zero point for each index of `axis`."""
    if axis == 0 and is_for_kernels(x):
        return _apply(_KernelRows, x, scale, zero_point, limits)
    shape = [1] * x.dim()
    shape[axis] = -1
    return _apply(_PlainValues, x, scale.view(shape), zero_point.view(shape), limits, OPEN)


def round_observed(
    x: Tensor,
    held: tuple[Tensor, Tensor, Tensor, Tensor],
    averaging_constant: float,
    limits: Limits,
    symmetric: bool,
    eps: float,
    clamp: Clamp,
    *,
    rounds: bool,
) -> tuple[Tensor | None, bool]:
    """Move the range towards that of `x`, and round `x` by it: for kernels alone.

    `held` are `min_val`, `max_val`, `scale` and `zero_point`, which are changed in place. Gives what `x`
    becomes, None if not `rounds`, and whether all of `x` was finite.
    """
    arguments: Any = (averaging_constant, *limits, symmetric, eps, *clamp, rounds)
    if not rounds:
        return None, kernels.fake_quantize_observed(x.detach(), *held, *arguments)[2]
    made: tuple[Tensor, bool] = _KernelObserved.apply(x, held, arguments)  # type: ignore[no-untyped-call]
    return made


def round_weight(weight: Tensor, held: tuple[Tensor, Tensor, Tensor], most: int) -> tuple[Tensor, int]:
    """Round each row by its own largest magnitude: for kernels alone.

    `held` are `min_val`, `max_val` and `scale`, which are changed in place. Nothing is cut off, so that the
    gradient passes everywhere. Gives the first row that is not finite too, or -1.
    """
    made: tuple[Tensor, int] = _KernelWeight.apply(weight, held, most)  # type: ignore[no-untyped-call]
    return made


def round_learned(
    x: Tensor, scale: Tensor, zero_point: Tensor, limits: Limits, clamp: Clamp, axis: int | None, share: float
) -> Tensor:
    """As `round_values` or `round_rows`, with gradients for scale and zero point, each times `share`."""
    if axis in (None, 0) and is_for_kernels(x):
        return _apply(_KernelLearned, x, scale, zero_point, limits, clamp, axis is not None, share)
    shape = [1] * x.dim()
    if axis is not None:
        shape[axis] = -1
    return _apply(_PlainLearned, x, scale, zero_point, limits, clamp, shape, share)


def _rows_in_memory(x: Tensor) -> tuple[Tensor, list[int]]:
    """A contiguous view of a dense tensor whose rows lie in one piece each, and the way back."""
    if x.is_contiguous():
        return x, list(range(x.dim()))
    last = x.dim() - 1  # channels innermost
    return x.permute(0, *range(2, last + 1), 1), [0, last, *range(1, last)]


def keep_gradient(x: Tensor, rounded: Tensor) -> Tensor:
    """`rounded`, through which the gradient goes to `x` unchanged."""
    return _apply(_Kept, x, rounded)


def _apply(function: Any, *arguments: Any) -> Tensor:
    made: Tensor = function.apply(*arguments)
    return made


# ---- Kernels -----------------------------------------------------------------------------------------------


class _Masked(torch.autograd.Function):
    """What passes the gradient where a bit is set."""

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *others: Any) -> tuple[Any, ...]:
        (mask,) = ctx.saved_tensors
        return (kernels.apply_mask(grad, mask, ctx.strides), *[None] * ctx.others)


class _KernelValues(_Masked):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: float, zero_point: int, limits: Limits, clamp: Clamp) -> Tensor:
        y, mask = kernels.fake_quantize_values(x, scale, zero_point, *limits, *clamp)
        ctx.save_for_backward(mask)
        ctx.strides, ctx.others = x.stride(), 4
        return y


class _KernelObserved(_Masked):
    @staticmethod
    def forward(ctx: Any, x: Tensor, held: Any, arguments: Any) -> tuple[Tensor | None, bool]:
        y, mask, is_finite = kernels.fake_quantize_observed(x, *held, *arguments)
        ctx.save_for_backward(mask)
        ctx.strides, ctx.others = x.stride(), 2
        return y, is_finite


class _KernelRows(_Masked):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, zero_point: Tensor, limits: Limits) -> Tensor:
        rows, back = _rows_in_memory(x)
        y, mask = kernels.fake_quantize_rows(rows, scale, zero_point, *limits)
        ctx.save_for_backward(mask)
        ctx.strides, ctx.others = x.stride(), 3
        return y.permute(back)


class _KernelWeight(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, held: Any, most: int) -> tuple[Tensor, int]:
        rows, back = _rows_in_memory(weight)
        low, high, scale = held
        y, row = kernels.fake_quantize_weight(rows, low, high, scale, most)
        return y.permute(back), row

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *others: Any) -> tuple[Any, ...]:
        return grad, None, None


class _KernelLearned(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        scale: Tensor,
        zero_point: Tensor,
        limits: Limits,
        clamp: Clamp,
        by_rows: bool,
        share: float,
    ) -> Tensor:
        rows, back = _rows_in_memory(x) if by_rows else (x, None)
        ctx.save_for_backward(rows, scale, zero_point)
        ctx.settings, ctx.share, ctx.back = (*limits, *clamp, by_rows), share, back
        if back is not None:
            y, _ = kernels.fake_quantize_rows(rows, scale, zero_point.round().to(torch.int32), *limits)
            return y.permute(back)
        return kernels.fake_quantize_values(x, float(scale), round(float(zero_point)), *limits, *clamp)[0]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        x, scale, zero_point = ctx.saved_tensors
        back = ctx.back
        if back is not None:
            grad = grad.permute(sorted(range(x.dim()), key=back.__getitem__))
        found = kernels.learned_gradients(grad, x, scale, zero_point.round().to(torch.int32), *ctx.settings)
        grad_x = found[0] if back is None else found[0].permute(back)
        return (grad_x, *_shared(found[1:], ctx.share, ctx.needs_input_grad[1:3]), None, None, None, None)


# ---- Plain torch -------------------------------------------------------------------------------------------


class _PlainValues(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, scale: Tensor, zero_point: Tensor, limits: Limits, clamp: Clamp
    ) -> Tensor:
        y, inside = plain.fake_quantize(x, scale, zero_point, *limits, *clamp)
        ctx.save_for_backward(inside)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        (inside,) = ctx.saved_tensors
        return torch.where(inside, grad, 0.0), None, None, None, None


class _PlainLearned(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        scale: Tensor,
        zero_point: Tensor,
        limits: Limits,
        clamp: Clamp,
        shape: list[int],
        share: float,
    ) -> Tensor:
        ctx.save_for_backward(x, scale, zero_point)
        ctx.limits, ctx.clamp, ctx.shape, ctx.share = limits, clamp, shape, share
        return plain.fake_quantize(x, scale.view(shape), zero_point.round().view(shape), *limits, *clamp)[0]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        x, scale, zero_point = ctx.saved_tensors
        found = plain.learned_gradients(
            grad, x, scale.view(ctx.shape), zero_point.round().view(ctx.shape), *ctx.limits, *ctx.clamp
        )
        axes = [axis for axis in range(x.dim()) if ctx.shape[axis] == 1]
        sums = [part.sum(axes).reshape(scale.shape) if axes else part for part in found[1:]]
        return (found[0], *_shared(sums, ctx.share, ctx.needs_input_grad[1:3]), None, None, None, None)


class _Kept(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, rounded: Tensor) -> Tensor:
        return rounded.view_as(rounded)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        return grad, None


def _shared(gradients: Any, share: float, needed: Any) -> list[Tensor | None]:
    return [g * share if wanted else None for g, wanted in zip(gradients, needed, strict=True)]
