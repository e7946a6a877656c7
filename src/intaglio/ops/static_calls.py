"""Calls of the static kernels with everything fixed but the data: what a module does again and again.

A module meets the same shapes with the same parameters call after call; working out sizes and arguments takes
longer than a small kernel, so it is done once for each shape. May import conv_static, layout and _core.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor

from intaglio import _core
from intaglio.ops.conv_static import Requantization
from intaglio.ops.layout import empty_image, with_channels_innermost

__all__ = ["ConvCall", "LinearCall"]

_AXES = 3
_empty = torch.empty
_threads = torch.get_num_threads
_uint8 = torch.uint8
_empty_strided = torch.empty_strided
_run_conv: Any = _core.conv_static
_run_linear: Any = _core.linear_static


class ConvCall:
    """`run_conv_static` for one shape of input: uint8 `(N, C, *size)` to `(N, O, *output_size)`."""

    __slots__ = ("_kept", "_middle", "output_shape", "output_strides", "shape", "strides")

    def __init__(
        self,
        shape: Sequence[int],
        zero_point_in: int,
        packed: Tensor,
        requantization: Requantization,
        output_size: Sequence[int],
    ) -> None:
        self.shape = torch.Size(shape)
        self.strides = empty_image(tuple(shape), _uint8).stride()
        batch, channels, *size = shape
        lead = (1,) * (_AXES - len(size))
        r = requantization
        self._kept = (packed, r)  # whose addresses the arguments are
        self._middle: tuple[Any, ...] = (
            *(batch, channels, *lead, *size, zero_point_in, packed.data_ptr(), *lead, *output_size),
            *(r.multiplier.data_ptr(), r.offset.data_ptr(), r.zero_point, r.lower, r.upper, 0, 0, 0.0),
        )
        self.output_shape = (batch, len(r.multiplier), *output_size)
        self.output_strides = empty_image(self.output_shape, _uint8).stride()

    def __call__(self, x: Tensor) -> Tensor:
        """Convolve; the caller has compared the shapes."""
        if x.stride() != self.strides:
            x = with_channels_innermost(x)
        y = _empty_strided(self.output_shape, self.output_strides, dtype=_uint8)
        _run_conv(x.data_ptr(), *self._middle, y.data_ptr(), _threads())
        return y


class LinearCall:
    """`run_linear_static` for one shape of input: uint8 `(..., K)` to `(..., N)`."""

    __slots__ = ("_kept", "_middle", "output_shape", "shape")

    def __init__(
        self, shape: Sequence[int], zero_point_in: int, packed: Tensor, requantization: Requantization
    ) -> None:
        self.shape = torch.Size(shape)
        *sizes, k = shape
        r = requantization
        self._kept = (packed, r)  # whose addresses the arguments are
        self._middle: tuple[Any, ...] = (
            *(prod(sizes), k, zero_point_in, packed.data_ptr()),
            *(r.multiplier.data_ptr(), r.offset.data_ptr(), r.zero_point, r.lower, r.upper, 0, 0, 0.0),
        )
        self.output_shape = (*sizes, len(r.multiplier))

    def __call__(self, x: Tensor) -> Tensor:
        """Multiply; the caller has compared the shapes."""
        if not x.is_contiguous():
            x = x.contiguous()
        y = _empty(self.output_shape, dtype=_uint8)
        _run_linear(x.data_ptr(), *self._middle, y.data_ptr(), _threads())
        return y
