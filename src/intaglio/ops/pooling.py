"""Pooling of quantized images: the largest and the average of windows, given or adaptive.

`(N, C, *size)` uint8 in, the same with pooled sizes out, channels innermost, parameters kept. Windows have
one value for each spatial axis. A function calls its kernel directly where nothing watches torch's calls,
and its `torch.library` op elsewhere. May import layout, library, errors and _core.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from intaglio import _core
from intaglio.errors import InputError
from intaglio.ops.layout import empty_image, with_channels_innermost
from intaglio.ops.library import define_op, is_direct
from intaglio.runtime.geometry import adaptive_axes, pool_axes, pooled_size

__all__ = ["adaptive_avg_pool", "adaptive_max_pool", "avg_pool", "max_pool", "pooled_size"]

_AXES = 3
_threads = torch.get_num_threads


def _check(x: Tensor, axes: int) -> None:
    if x.dtype is not torch.uint8:
        raise InputError(f"pooling takes a uint8 tensor, the data of a QTensor, not one of {x.dtype}")
    if x.dim() != axes + 2 or not 1 <= axes <= _AXES:
        raise InputError(
            f"pooling over {axes} axes takes (N, C, *size) with {axes + 2} dimensions, not {tuple(x.shape)}"
        )


@lru_cache(maxsize=512)
def _geometry(
    size: tuple[int, ...], windows: tuple[tuple[int, ...], ...], ceil_mode: bool
) -> tuple[list[int], list[int]]:
    """Output sizes, and what the driver is told of three axes."""
    kernel, stride, padding, dilation = windows
    out = pooled_size(size, kernel, stride, padding, dilation, ceil_mode)
    return out, pool_axes(size, out, windows)


_adaptive_geometry = lru_cache(maxsize=512)(adaptive_axes)
"""The same of windows that divide the image; None keeps an axis."""


def _pool(
    x: Tensor, geometry: tuple[list[int], list[int]], average: tuple[bool, int, int, int, int] | None = None
) -> Tensor:
    """Run the driver; `average` has count_include_pad, divisor_override, zero_point, lower and upper."""
    x = with_channels_innermost(x)
    batch, channels = x.shape[:2]
    out, axes = geometry
    y = empty_image((batch, channels, *out), torch.uint8)
    if y.numel() == 0:
        return y
    count_padding, divisor, zero_point, lower, upper = average or (False, 0, 0, 0, 255)
    try:
        _core.pool(
            x.data_ptr(),
            batch,
            channels,
            axes,
            average is not None,
            count_padding,
            divisor,
            zero_point,
            lower,
            upper,
            y.data_ptr(),
            _threads(),
        )
    except ValueError as error:
        raise InputError(f"pooling an image of shape {tuple(x.shape)}: {error}") from None
    return y


# ---- Given windows -------------------------------------------------------------------------------------


def max_pool(
    x: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    ceil_mode: bool = False,
) -> Tensor:
    """The largest integer of each window; padding counts for nothing."""
    if is_direct(x):
        return _max_pool(x, kernel, stride, padding, dilation, ceil_mode)
    return torch.ops.intaglio.max_pool(  # type: ignore[no-any-return]
        x, list(kernel), list(stride), list(padding), list(dilation), ceil_mode
    )


def _max_pool(
    x: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    ceil_mode: bool,
) -> Tensor:
    """CPU kernel of `intaglio::max_pool`."""
    _check(x, len(kernel))
    windows = (tuple(kernel), tuple(stride), tuple(padding), tuple(dilation))
    return _pool(x, _geometry(x.shape[2:], windows, ceil_mode))


def _fake_max_pool(
    x: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    ceil_mode: bool,
) -> Tensor:
    out = pooled_size(x.shape[2:], kernel, stride, padding, dilation, ceil_mode)
    return empty_image((*x.shape[:2], *out), torch.uint8, x.device)


define_op(
    "max_pool(Tensor x, int[] kernel, int[] stride, int[] padding, int[] dilation, bool ceil_mode) -> Tensor",
    _max_pool,
    _fake_max_pool,
)


def avg_pool(
    x: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
    *,
    zero_point: int,
    lower: int = 0,
    upper: int = 255,
) -> Tensor:
    """The average of each window: `encode(float(sum - taps * zero_point) * (1 / divisor))`.

    Padding is zero, that is, the zero point. `InputError` for windows of more than 8421504 values.
    """
    divisor = _divisor(divisor_override)
    if is_direct(x):
        return _avg_pool(
            x, kernel, stride, padding, ceil_mode, count_include_pad, divisor, zero_point, lower, upper
        )
    return torch.ops.intaglio.avg_pool(  # type: ignore[no-any-return]
        x,
        list(kernel),
        list(stride),
        list(padding),
        ceil_mode,
        count_include_pad,
        divisor,
        zero_point,
        lower,
        upper,
    )


def _divisor(override: int | None) -> int:
    if override == 0:
        raise InputError("divisor_override must not be zero")
    return override or 0


def _avg_pool(
    x: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    ceil_mode: bool,
    count_include_pad: bool,
    divisor: int,
    zero_point: int,
    lower: int,
    upper: int,
) -> Tensor:
    """CPU kernel of `intaglio::avg_pool`; a divisor of 0 is what the window counts."""
    _check(x, len(kernel))
    windows = (tuple(kernel), tuple(stride), tuple(padding), (1,) * len(kernel))
    average = (count_include_pad, divisor, zero_point, lower, upper)
    return _pool(x, _geometry(x.shape[2:], windows, ceil_mode), average)


def _fake_avg_pool(
    x: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    ceil_mode: bool,
    count_include_pad: bool,
    divisor: int,
    zero_point: int,
    lower: int,
    upper: int,
) -> Tensor:
    return _fake_max_pool(x, kernel, stride, padding, (1,) * len(kernel), ceil_mode)


define_op(
    "avg_pool(Tensor x, int[] kernel, int[] stride, int[] padding, bool ceil_mode, bool count_include_pad, "
    "int divisor, int zero_point, int lower, int upper) -> Tensor",
    _avg_pool,
    _fake_avg_pool,
)


# ---- Adaptive windows ----------------------------------------------------------------------------------


def adaptive_max_pool(x: Tensor, output_size: Sequence[int | None]) -> Tensor:
    """The largest integer of each of `output_size` windows that divide the image; None keeps an axis."""
    if is_direct(x):
        return _adaptive_max_pool(x, output_size)
    return torch.ops.intaglio.adaptive_max_pool(x, _sizes(x, output_size))  # type: ignore[no-any-return]


def adaptive_avg_pool(
    x: Tensor, output_size: Sequence[int | None], *, zero_point: int, lower: int = 0, upper: int = 255
) -> Tensor:
    """The average of each of `output_size` windows that divide the image, as `avg_pool`."""
    if is_direct(x):
        return _adaptive_avg_pool(x, output_size, zero_point, lower, upper)
    return torch.ops.intaglio.adaptive_avg_pool(  # type: ignore[no-any-return]
        x, _sizes(x, output_size), zero_point, lower, upper
    )


def _sizes(x: Tensor, output_size: Sequence[int | None]) -> list[int]:
    """Integers only; what is traced is not asked for its sizes without need."""
    return [x.shape[2 + axis] if size is None else size for axis, size in enumerate(output_size)]


def _adaptive_max_pool(x: Tensor, size: Sequence[int | None]) -> Tensor:
    """CPU kernel of `intaglio::adaptive_max_pool`."""
    _check(x, len(size))
    return _pool(x, _adaptive_geometry(x.shape[2:], tuple(size)))


def _adaptive_avg_pool(
    x: Tensor, size: Sequence[int | None], zero_point: int, lower: int, upper: int
) -> Tensor:
    """CPU kernel of `intaglio::adaptive_avg_pool`."""
    _check(x, len(size))
    return _pool(x, _adaptive_geometry(x.shape[2:], tuple(size)), (False, 0, zero_point, lower, upper))


def _fake_adaptive(x: Tensor, size: Sequence[int], *params: int) -> Tensor:
    return empty_image((*x.shape[:2], *size), torch.uint8, x.device)


define_op("adaptive_max_pool(Tensor x, int[] size) -> Tensor", _adaptive_max_pool, _fake_adaptive)
define_op(
    "adaptive_avg_pool(Tensor x, int[] size, int zero_point, int lower, int upper) -> Tensor",
    _adaptive_avg_pool,
    _fake_adaptive,
)
