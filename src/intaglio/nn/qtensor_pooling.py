"""Pooling and interpolation of torch on a `QTensor`: the parameters stay, the windows are torch's.

Importing this module registers them. May import ops, qtensor and errors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from intaglio.ops.pooling import adaptive_avg_pool, adaptive_max_pool, avg_pool, max_pool
from intaglio.ops.resize import resize
from intaglio.qtensor import QTensor, refuse, register_function

__all__: list[str] = []

_Size = int | Sequence[int]


def _per_axis(value: _Size, axes: int) -> tuple[int, ...]:
    if isinstance(value, int):
        return (value,) * axes
    return tuple(value) * axes if len(value) == 1 else tuple(value)


def _pooled(name: str, q: QTensor, axes: int, pool: Callable[[Tensor], Tensor]) -> QTensor:
    """`pool` of the integers, of images that may have no batch."""
    if q.qparams.axis is not None or q.data.dtype is not torch.uint8:
        refuse(name, (q,))
    data = pool(q.data.unsqueeze(0)).squeeze(0) if q.dim() == axes + 1 else pool(q.data)
    return QTensor(data, q.qparams, q.source)


# ---- The largest ---------------------------------------------------------------------------------------


def _register_max(axes: int, *functions: Any) -> None:
    name = f"max_pool{axes}d"

    @register_function(*functions)
    def run(
        input: QTensor,
        kernel_size: _Size,
        stride: _Size | None = None,
        padding: _Size = 0,
        dilation: _Size = 1,
        ceil_mode: bool = False,
        return_indices: bool = False,
    ) -> QTensor:
        if return_indices:
            refuse(name, (input,), "with return_indices has no quantized form")
        kernel = _per_axis(kernel_size, axes)
        step = kernel if stride is None or stride == [] else _per_axis(stride, axes)
        more = (_per_axis(padding, axes), _per_axis(dilation, axes), ceil_mode)
        return _pooled(name, input, axes, lambda x: max_pool(x, kernel, step, *more))


_register_max(1, torch.max_pool1d, F.max_pool1d)
_register_max(2, torch.max_pool2d, F.max_pool2d)
_register_max(3, torch.max_pool3d, F.max_pool3d)


def _register_adaptive_max(axes: int, *functions: Any) -> None:
    name = f"adaptive_max_pool{axes}d"

    @register_function(*functions)
    def run(input: QTensor, output_size: _Size, return_indices: bool = False) -> QTensor:
        if return_indices:
            refuse(name, (input,), "with return_indices has no quantized form")
        size = _per_axis(output_size, axes)
        return _pooled(name, input, axes, lambda x: adaptive_max_pool(x, size))


_register_adaptive_max(1, F.adaptive_max_pool1d)
_register_adaptive_max(2, F.adaptive_max_pool2d)
_register_adaptive_max(3, F.adaptive_max_pool3d)


# ---- The average ---------------------------------------------------------------------------------------


def _register_average(axes: int, *functions: Any) -> None:
    @register_function(*functions)
    def run(
        input: QTensor,
        kernel_size: _Size,
        stride: _Size | None = None,
        padding: _Size = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> QTensor:
        kernel = _per_axis(kernel_size, axes)
        step = kernel if stride is None or stride == [] else _per_axis(stride, axes)
        windows = (kernel, step, _per_axis(padding, axes))
        lower, upper = input.qparams.limits()

        def pool(x: Tensor) -> Tensor:
            return avg_pool(
                x,
                *windows,
                ceil_mode,
                count_include_pad,
                divisor_override,
                zero_point=input.qparams.scalars[1],
                lower=lower,
                upper=upper,
            )

        return _pooled(f"avg_pool{axes}d", input, axes, pool)


_register_average(1, torch.avg_pool1d, F.avg_pool1d)
_register_average(2, F.avg_pool2d)
_register_average(3, F.avg_pool3d)


def _register_adaptive_average(axes: int, *functions: Any) -> None:
    @register_function(*functions)
    def run(input: QTensor, output_size: _Size) -> QTensor:
        size = _per_axis(output_size, axes)
        lower, upper = input.qparams.limits()

        def pool(x: Tensor) -> Tensor:
            return adaptive_avg_pool(x, size, zero_point=input.qparams.scalars[1], lower=lower, upper=upper)

        return _pooled(f"adaptive_avg_pool{axes}d", input, axes, pool)


_register_adaptive_average(1, torch.adaptive_avg_pool1d, F.adaptive_avg_pool1d)
_register_adaptive_average(2, F.adaptive_avg_pool2d)
_register_adaptive_average(3, F.adaptive_avg_pool3d)


# ---- Interpolation -------------------------------------------------------------------------------------

_MODES = {
    "nearest": "nearest",
    "nearest-exact": "nearest-exact",
    "linear": "linear",
    "bilinear": "linear",
    "trilinear": "linear",
}


@register_function(F.interpolate)
def _interpolate(
    input: QTensor,
    size: int | Sequence[int] | None = None,
    scale_factor: float | Sequence[float] | None = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> QTensor:
    axes = input.dim() - 2
    if mode == "area":
        return _interpolate_area(input, size, scale_factor)
    if (
        mode not in _MODES
        or antialias
        or input.qparams.axis is not None
        or input.data.dtype is not torch.uint8
    ):
        refuse(
            "interpolate", (input,), f"with mode {mode!r}{' and antialias' * antialias} has no quantized form"
        )
    sizes, factors = None, None
    if size is not None:
        sizes = _per_axis(size, axes)
    elif scale_factor is not None:
        factors = (
            (float(scale_factor),) * axes if isinstance(scale_factor, (int, float)) else tuple(scale_factor)
        )
        if recompute_scale_factor:
            sizes = tuple(int(n * f) for n, f in zip(input.shape[2:], factors, strict=True))
            factors = None
    lower, upper = input.qparams.limits()
    data = resize(input.data, sizes, factors, _MODES[mode], bool(align_corners), lower, upper)
    return QTensor(data, input.qparams, input.source)


def _interpolate_area(q: QTensor, size: Any, scale_factor: Any) -> QTensor:
    """Area interpolation is adaptive average pooling."""
    axes = q.dim() - 2
    if size is None:
        factors = (scale_factor,) * axes if isinstance(scale_factor, (int, float)) else scale_factor
        size = [int(n * f) for n, f in zip(q.shape[2:], factors, strict=True)]
    pools: dict[int, Any] = {1: F.adaptive_avg_pool1d, 2: F.adaptive_avg_pool2d, 3: F.adaptive_avg_pool3d}
    pooled: QTensor = pools[axes](q, size)
    return pooled
