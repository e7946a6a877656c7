"""Weights packed for the CPU at hand, of plain numpy arrays. May import _core."""

from __future__ import annotations

from typing import Any

import numpy as np

from intaglio import _core
from intaglio.errors import FileFormatError

__all__ = ["MAX_K", "aligned_bytes", "pack_linear", "pack_linear_static", "pack_static_conv"]

Packed = np.ndarray[Any, np.dtype[np.uint8]]
_Array = np.ndarray[Any, Any]

MAX_K = 65_793
"""Largest K whose int32 sums cannot overflow: 255 * 128 * K < 2**31."""

_ALIGNMENT = 64


def aligned_bytes(count: int) -> Packed:
    """`count` bytes that begin at a multiple of 64, as kernels want packed weights."""
    room = np.empty(count + _ALIGNMENT, np.uint8)
    start = -room.ctypes.data % _ALIGNMENT
    return room[start : start + count]


def pack_static_conv(spec: list[int], weight: _Array, *, winograd: bool = True) -> Packed:
    """A static convolution's `(out_channels, in_channels / groups, *kernel)` int8 weight."""
    weight = np.ascontiguousarray(weight)
    packed = aligned_bytes(_core.packed_static_conv_bytes(spec, weight.ctypes.data, winograd))
    _core.pack_static_conv(spec, weight.ctypes.data, winograd, packed.ctypes.data)
    return packed


def pack_linear_static(weight: _Array) -> Packed:
    """A static Linear's `(N, K)` int8 weight."""
    n = len(weight)
    return _pack(weight, np.zeros(n, np.float32), None, _core.static_panel_vectors(n))


def pack_linear(weight: _Array, scale: _Array, bias: _Array | None) -> Packed:
    """A dynamic Linear's `(N, K)` int8 weight, its `(N,)` scales and bias."""
    return _pack(weight, scale, bias, 0)


def _pack(weight: _Array, scale: _Array, bias: _Array | None, panel_vectors: int) -> Packed:
    n, k = weight.shape
    if k > MAX_K:
        raise FileFormatError(f"K = {k} exceeds {MAX_K}, beyond which int32 sums could overflow")
    weight, scale = np.ascontiguousarray(weight), np.ascontiguousarray(scale)
    bias = None if bias is None else np.ascontiguousarray(bias)
    packed = aligned_bytes(_core.packed_weight_bytes(n, k, panel_vectors))
    _core.pack_weight(
        *(weight.ctypes.data, scale.ctypes.data, 0 if bias is None else bias.ctypes.data),
        *(n, k, panel_vectors, packed.ctypes.data),
    )
    return packed
