"""Between float32 tensors and u8 images: quantization and dequantization, in planes or channels innermost.

An image is `(N, C, *size)`; quantized ones have their channels innermost in memory. Both functions call the
kernel directly where nothing watches torch's calls, and their `torch.library` op elsewhere.
May import library, errors and _core.
"""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor

from intaglio import _core
from intaglio.errors import InputError
from intaglio.ops.library import define_op, is_direct

__all__ = [
    "dense_pair",
    "dequantize_image",
    "empty_image",
    "has_channels_innermost",
    "quantize_image",
    "with_channels_innermost",
]

_CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}
_empty = torch.empty
_empty_strided = torch.empty_strided
_threads = torch.get_num_threads


def has_channels_innermost(x: Tensor) -> bool:
    """Whether `(N, C, *size)` is dense with its channels innermost; with less than three axes, contiguous."""
    if x.dim() in _CHANNELS_LAST:
        return x.is_contiguous(memory_format=_CHANNELS_LAST[x.dim()])
    return x.is_contiguous() if x.dim() < 3 else x.movedim(1, -1).is_contiguous()


def with_channels_innermost(x: Tensor) -> Tensor:
    """`x`, or a copy of it whose channels are innermost in memory."""
    if has_channels_innermost(x):
        return x
    if x.dim() in _CHANNELS_LAST:
        return x.contiguous(memory_format=_CHANNELS_LAST[x.dim()])
    return x.contiguous() if x.dim() < 3 else x.movedim(1, -1).contiguous().movedim(-1, 1)


def empty_image(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device | None = None) -> Tensor:
    """An uninitialized tensor of `shape` whose channels are innermost in memory.

    By its strides where it can: torch takes half as long as for a memory format.
    """
    dims = len(shape)
    if dims == 4:
        _, channels, height, width = shape
        row = width * channels
        return _empty_strided(shape, (height * row, 1, row, channels), dtype=dtype, device=device)
    if dims in _CHANNELS_LAST:
        return _empty(shape, dtype=dtype, device=device, memory_format=_CHANNELS_LAST[dims])
    if dims < 3:
        return _empty(shape, dtype=dtype, device=device)
    return _empty(shape[0], *shape[2:], shape[1], dtype=dtype, device=device).movedim(-1, 1)


def _sizes(x: Tensor) -> tuple[int, int, int]:
    """Samples, channels and pixels of a sample."""
    shape = x.shape
    if len(shape) == 4:
        batch, channels, height, width = shape
        return batch, channels, height * width
    if len(shape) < 2:
        return 1, 1, x.numel()
    return shape[0], shape[1], prod(shape[2:])


# ---- Quantization --------------------------------------------------------------------------------------


def quantize_image(
    x: Tensor, scale: float, zero_point: int, lower: int = 0, upper: int = 255, plain: bool = False
) -> Tensor:
    """`clamp(round(x * (1 / scale)) + zero_point, lower, upper)` as uint8; NaN gives `lower`.

    `x` is float32 on the CPU, in planes or with its channels innermost; the result has its shape, with the
    channels innermost. With `plain` it lies in memory as `x` does, for tensors that are no images.
    `InputError` for another dtype.
    """
    if is_direct(x):
        return _quantize_image(x, scale, zero_point, lower, upper, plain)
    return torch.ops.intaglio.quantize_image(x, scale, zero_point, lower, upper, plain)  # type: ignore[no-any-return]


def _quantize_image(x: Tensor, scale: float, zero_point: int, lower: int, upper: int, plain: bool) -> Tensor:
    """CPU kernel of `intaglio::quantize_image`."""
    if x.dtype is not torch.float32:
        raise InputError(f"quantize_image takes a float32 tensor, not one of {x.dtype}: pass x.float()")
    if plain:
        x, q = dense_pair(x, torch.uint8)
        planes = False
    else:
        q = empty_image(tuple(x.shape), torch.uint8)
        planes = not has_channels_innermost(x)
        if planes:
            x = x.contiguous()
    _core.quantize_image(
        x.data_ptr(), *_sizes(x), planes, scale, zero_point, lower, upper, q.data_ptr(), _threads()
    )
    return q


def dense_pair(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """`x`, copied if it has gaps or overlaps, and a new tensor of `dtype` that lies in memory alike."""
    y = torch.empty_like(x, dtype=dtype)
    if y.stride() != x.stride():
        x = x.clone()
    return x, y


def _fake_quantize_image(
    x: Tensor, scale: float, zero_point: int, lower: int, upper: int, plain: bool
) -> Tensor:
    if plain:
        return torch.empty_like(x, dtype=torch.uint8)
    return empty_image(tuple(x.shape), torch.uint8, x.device)


define_op(
    "quantize_image(Tensor x, float scale, int zero_point, int lower, int upper, bool plain) -> Tensor",
    _quantize_image,
    _fake_quantize_image,
)


# ---- Dequantization ------------------------------------------------------------------------------------


def dequantize_image(q: Tensor, scale: float, zero_point: int, channels_last: bool = False) -> Tensor:
    """`(q - zero_point) * scale` as float32, of a uint8 tensor of any layout.

    The result is contiguous; with `channels_last` its channels are innermost in memory.
    """
    if is_direct(q):
        return _dequantize_image(q, scale, zero_point, channels_last)
    return torch.ops.intaglio.dequantize_image(q, scale, zero_point, channels_last)  # type: ignore[no-any-return]


def _dequantize_image(q: Tensor, scale: float, zero_point: int, channels_last: bool) -> Tensor:
    """CPU kernel of `intaglio::dequantize_image`."""
    if q.dtype is not torch.uint8:
        raise InputError(f"dequantize_image takes a uint8 tensor, not one of {q.dtype}")
    shape = tuple(q.shape)
    planes = False
    if channels_last:
        q, x = with_channels_innermost(q), empty_image(shape, torch.float32)
    else:
        x = _empty(shape, dtype=torch.float32)
        if not q.is_contiguous():
            planes = q.dim() > 2
            q = with_channels_innermost(q)
    _core.dequantize_image(q.data_ptr(), *_sizes(q), planes, scale, zero_point, x.data_ptr(), _threads())
    return x


def _fake_dequantize_image(q: Tensor, scale: float, zero_point: int, channels_last: bool) -> Tensor:
    if channels_last:
        return empty_image(tuple(q.shape), torch.float32, q.device)
    return torch.empty(q.shape, device=q.device)


define_op(
    "dequantize_image(Tensor q, float scale, int zero_point, bool channels_last) -> Tensor",
    _dequantize_image,
    _fake_dequantize_image,
)
