"""Calls of the static kernels with everything fixed but the data: what a module does again and again.

A module meets the same shapes with the same parameters call after call; working out sizes and arguments takes
longer than a small kernel, so it is done once for each shape. May import requantization, layout, errors and
_core.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor

from intaglio import _core
from intaglio.errors import InputError
from intaglio.ops.layout import empty_image, with_channels_innermost
from intaglio.ops.requantization import Requantization

__all__ = ["ConvCall", "LinearCall", "PairCall"]

_AXES = 3
_empty = torch.empty
_threads = torch.get_num_threads
_uint8 = torch.uint8
_empty_strided = torch.empty_strided
_run_conv: Any = _core.conv_static
_run_linear: Any = _core.linear_static
_combine_pairs: Any = _core.combine_pairs


class ConvCall:
    """A convolution of one shape of input: uint8 `(N, C, *size)` to `(N, O, *output_size)`.

    A residual is uint8 of the output's shape; `residual_multiplier` is its scale over the output's.
    """

    __slots__ = ("_after", "_before", "_kept", "output_shape", "output_strides", "shape", "strides")

    def __init__(
        self,
        shape: Sequence[int],
        zero_point_in: int,
        packed: Tensor,
        requantization: Requantization,
        output_size: Sequence[int],
        *,
        residual_zero_point: int = 0,
        residual_multiplier: float = 0.0,
    ) -> None:
        self.shape = torch.Size(shape)
        self.strides = empty_image(tuple(shape), _uint8).stride()
        batch, channels, *size = shape
        lead = (1,) * (_AXES - len(size))
        outputs = len(requantization.multiplier)
        self._kept = (packed, requantization)  # whose addresses the arguments are
        self._before = (
            *(batch, channels, *lead, *size, zero_point_in, packed.data_ptr(), *lead, *output_size, outputs),
            *_requantize_arguments(requantization),
        )
        self._after = (residual_zero_point, residual_multiplier)
        self.output_shape = (batch, outputs, *output_size)
        self.output_strides = empty_image(self.output_shape, _uint8).stride()

    def __call__(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """Convolve; the caller has compared the shapes."""
        if x.stride() != self.strides:
            x = with_channels_innermost(x)
        y = _empty_strided(self.output_shape, self.output_strides, dtype=_uint8)
        added = 0
        if residual is not None:
            _check_residual(residual, y)
            residual = with_channels_innermost(residual)
            added = residual.data_ptr()
        _run_conv(x.data_ptr(), *self._before, added, *self._after, y.data_ptr(), _threads())
        return y


class LinearCall:
    """A Linear of one shape of input: uint8 `(..., K)` to `(..., N)`; the residual as of `ConvCall`."""

    __slots__ = ("_after", "_before", "_kept", "output_shape", "shape")

    def __init__(
        self,
        shape: Sequence[int],
        zero_point_in: int,
        packed: Tensor,
        requantization: Requantization,
        *,
        residual_zero_point: int = 0,
        residual_multiplier: float = 0.0,
    ) -> None:
        self.shape = torch.Size(shape)
        *sizes, k = shape
        outputs = len(requantization.multiplier)
        self._kept = (packed, requantization)  # whose addresses the arguments are
        self._before = (
            *(prod(sizes), k, zero_point_in, packed.data_ptr(), outputs),
            *_requantize_arguments(requantization),
        )
        self._after = (residual_zero_point, residual_multiplier)
        self.output_shape = (*sizes, outputs)

    def __call__(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """Multiply; the caller has compared the shapes."""
        if not x.is_contiguous():
            x = x.contiguous()
        y = _empty(self.output_shape, dtype=_uint8)
        added = 0
        if residual is not None:
            _check_residual(residual, y)
            residual = residual.contiguous()
            added = residual.data_ptr()
        _run_linear(x.data_ptr(), *self._before, added, *self._after, y.data_ptr(), _threads())
        return y


class PairCall:
    """The sum or the product of two uint8 tensors of one shape that lie in memory alike, without gaps.

    `op` is that of `_core.combine_pairs`; `parameters` are its scales, zero points and limits.
    """

    __slots__ = ("_after", "_op", "shape", "strides")

    def __init__(self, op: int, like: Tensor, parameters: Sequence[float]) -> None:
        self.shape, self.strides = like.shape, like.stride()
        self._op = op
        self._after = (1, like.numel(), 1, 0, False, *parameters)

    def fits(self, a: Tensor, b: Tensor) -> bool:
        """Whether these are of its shape and lie so."""
        return (
            a.shape == b.shape == self.shape
            and a.stride() == b.stride() == self.strides
            and a.dtype is b.dtype is _uint8
        )

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        """Combine; the caller has asked whether they fit."""
        y = _empty_strided(self.shape, self.strides, dtype=_uint8)
        _combine_pairs(self._op, a.data_ptr(), b.data_ptr(), *self._after, y.data_ptr(), _threads())
        return y


def _requantize_arguments(r: Requantization) -> tuple[int, ...]:
    return (r.multiplier.data_ptr(), r.offset.data_ptr(), r.zero_point, r.lower, r.upper)


def _check_residual(residual: Tensor, y: Tensor) -> None:
    if residual.shape != y.shape or residual.dtype != _uint8:
        raise InputError(
            f"the residual is added to a uint8 output of shape {tuple(y.shape)}: it cannot be "
            f"{residual.dtype} of shape {tuple(residual.shape)}"
        )
