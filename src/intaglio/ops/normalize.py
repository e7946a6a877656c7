"""Normalization and softmax of quantized activations, uint8 to uint8, from exact sums of the integers.

The zero point of the input cancels out, and its scale counts only beside epsilon (docs/numerics.md, "Static
quantization: normalization"). A function calls its kernel directly where nothing watches torch's calls, and
its `torch.library` op elsewhere. May import layout, tables, library, errors and _core.
"""

from __future__ import annotations

from functools import lru_cache
from math import prod

import torch
from torch import Tensor

from intaglio import _core
from intaglio.errors import ConfigError, InputError
from intaglio.ops.layout import empty_image, with_channels_innermost
from intaglio.ops.library import define_op, is_direct
from intaglio.ops.tables import check_uint8

__all__ = ["MAX_VALUES", "choose_affine", "group_norm", "layer_norm", "softmax", "softmax_table"]

MAX_VALUES = 2**23
"""Most values that are normalized together: beyond it int64 could not hold their variance."""

_LARGEST = torch.finfo(torch.float32).max
_threads = torch.get_num_threads


def choose_affine(
    weight: Tensor | None, bias: Tensor | None, count: int, scale_out: float
) -> tuple[Tensor, Tensor]:
    """`weight / scale_out` and `bias / scale_out`, `(count,)` float32, of ones and zeros where there is none.

    In float64, rounded once. `ConfigError` for other shapes.
    """
    parts = []
    for name, values, default in (("weight", weight, 1.0), ("bias", bias, 0.0)):
        if values is not None and values.numel() != count:
            raise ConfigError(f"{name} must have {count} values, not the shape {tuple(values.shape)}")
        plain = torch.full((count,), default).double() if values is None else values.detach().double()
        parts.append((plain.flatten() / scale_out).clamp(-_LARGEST, _LARGEST).float().contiguous())
    return parts[0], parts[1]


def _check_affine(multiplier: Tensor, offset: Tensor) -> None:
    for values in (multiplier, offset):
        if (
            values.dtype is not torch.float32
            or not values.is_contiguous()
            or values.shape != multiplier.shape
        ):
            raise InputError(
                "multiplier and offset must be contiguous float32 of one shape: see choose_affine"
            )


# ---- Over the last axes --------------------------------------------------------------------------------


def layer_norm(
    x: Tensor,
    axes: int,
    multiplier: Tensor,
    offset: Tensor,
    epsilon: float,
    zero_point: int,
    lower: int = 0,
    upper: int = 255,
) -> Tensor:
    """Each slice along the last `axes` axes normalized, times `multiplier`, plus `offset`; contiguous.

    `multiplier` and `offset` have the slice's number of values (`choose_affine`); `epsilon` is that of the
    layer divided by the square of the input's scale. `InputError` for slices of other sizes.
    """
    if is_direct(x):
        return _layer_norm(x, axes, multiplier, offset, epsilon, zero_point, lower, upper)
    return torch.ops.intaglio.layer_norm(  # type: ignore[no-any-return]
        x, axes, multiplier, offset, epsilon, zero_point, lower, upper
    )


def _layer_norm(
    x: Tensor,
    axes: int,
    multiplier: Tensor,
    offset: Tensor,
    epsilon: float,
    zero_point: int,
    lower: int,
    upper: int,
) -> Tensor:
    """CPU kernel of `intaglio::layer_norm`."""
    check_uint8("layer_norm", x)
    _check_affine(multiplier, offset)
    cols = multiplier.numel()
    if not 1 <= axes <= x.dim() or prod(x.shape[x.dim() - axes :]) != cols:
        raise InputError(
            f"layer_norm over {axes} axes and {cols} values cannot take a tensor of shape {tuple(x.shape)}"
        )
    x = x.contiguous()
    y = torch.empty_like(x)
    if y.numel() == 0:
        return y
    try:
        _core.normalize_rows(
            x.data_ptr(),
            x.numel() // cols,
            cols,
            epsilon,
            multiplier.data_ptr(),
            offset.data_ptr(),
            zero_point,
            lower,
            upper,
            y.data_ptr(),
            _threads(),
        )
    except ValueError as error:
        raise InputError(f"layer_norm of a tensor of shape {tuple(x.shape)}: {error}") from None
    return y


def _fake_layer_norm(x: Tensor, *params: object) -> Tensor:
    return x.new_empty(x.shape)


define_op(
    "layer_norm(Tensor x, int axes, Tensor multiplier, Tensor offset, float epsilon, int zero_point, "
    "int lower, int upper) -> Tensor",
    _layer_norm,
    _fake_layer_norm,
)


# ---- Over groups of channels ---------------------------------------------------------------------------


def group_norm(
    x: Tensor,
    groups: int,
    multiplier: Tensor,
    offset: Tensor,
    epsilon: float,
    zero_point: int,
    lower: int = 0,
    upper: int = 255,
) -> Tensor:
    """Each group of channels of each `(N, C, *size)` sample normalized; channels innermost.

    As `layer_norm`, with `(C,)` multiplier and offset. Instance normalization is that of C groups.
    """
    if is_direct(x):
        return _group_norm(x, groups, multiplier, offset, epsilon, zero_point, lower, upper)
    return torch.ops.intaglio.group_norm(  # type: ignore[no-any-return]
        x, groups, multiplier, offset, epsilon, zero_point, lower, upper
    )


def _group_norm(
    x: Tensor,
    groups: int,
    multiplier: Tensor,
    offset: Tensor,
    epsilon: float,
    zero_point: int,
    lower: int,
    upper: int,
) -> Tensor:
    """CPU kernel of `intaglio::group_norm`."""
    check_uint8("group_norm", x)
    _check_affine(multiplier, offset)
    if x.dim() < 2 or x.shape[1] != multiplier.numel() or groups < 1 or x.shape[1] % groups:
        raise InputError(
            f"group_norm of {groups} groups and {multiplier.numel()} channels cannot take a tensor of shape "
            f"{tuple(x.shape)}"
        )
    x = with_channels_innermost(x)
    y = empty_image(tuple(x.shape), torch.uint8)
    if y.numel() == 0:
        return y
    batch, channels = x.shape[:2]
    try:
        _core.normalize_groups(
            x.data_ptr(),
            batch,
            prod(x.shape[2:]),
            channels,
            groups,
            epsilon,
            multiplier.data_ptr(),
            offset.data_ptr(),
            zero_point,
            lower,
            upper,
            y.data_ptr(),
            _threads(),
        )
    except ValueError as error:
        raise InputError(f"group_norm of a tensor of shape {tuple(x.shape)}: {error}") from None
    return y


def _fake_group_norm(x: Tensor, *params: object) -> Tensor:
    return empty_image(tuple(x.shape), torch.uint8, x.device)


define_op(
    "group_norm(Tensor x, int groups, Tensor multiplier, Tensor offset, float epsilon, int zero_point, "
    "int lower, int upper) -> Tensor",
    _group_norm,
    _fake_group_norm,
)


# ---- Softmax -------------------------------------------------------------------------------------------


@lru_cache(maxsize=256)
def softmax_table(scale_in: float) -> Tensor:
    """`(256,)` int32: `round(2^23 * exp(-d * scale_in))` of each distance `d`, in float64."""
    steps = torch.arange(256, dtype=torch.float64)
    return torch.round(2.0**23 * torch.exp(-steps * scale_in)).to(torch.int32)


@lru_cache(maxsize=256)
def _planes(scale_in: float) -> Tensor:
    """`(4, 256)` uint8: the bytes of `softmax_table`, the lowest first."""
    return softmax_table(scale_in).view(torch.uint8).reshape(256, 4).t().contiguous()


def softmax(
    x: Tensor,
    scale_in: float,
    scale: float = 1 / 256,
    zero_point: int = 0,
    lower: int = 0,
    upper: int = 255,
) -> Tensor:
    """Softmax over the last axis; contiguous.

    `encode(float(t) * (1 / (sum of t * scale)))`, `t` being `softmax_table(scale_in)` at each integer's
    distance from the largest of its row; the sum is exact, the division in float64.
    """
    if is_direct(x):
        return _softmax(x, scale_in, scale, zero_point, lower, upper)
    return torch.ops.intaglio.softmax_quantized(  # type: ignore[no-any-return]
        x, scale_in, scale, zero_point, lower, upper
    )


def _softmax(x: Tensor, scale_in: float, scale: float, zero_point: int, lower: int, upper: int) -> Tensor:
    """CPU kernel of `intaglio::softmax_quantized`."""
    check_uint8("softmax", x)
    if x.dim() == 0:
        raise InputError("softmax takes a tensor with at least one axis")
    x = x.contiguous()
    y = torch.empty_like(x)
    cols, table, planes = x.shape[-1], softmax_table(scale_in), _planes(scale_in)
    if y.numel() == 0:
        return y
    _core.softmax_rows(
        x.data_ptr(),
        x.numel() // cols,
        cols,
        table.data_ptr(),
        planes.data_ptr(),
        scale,
        zero_point,
        lower,
        upper,
        y.data_ptr(),
        _threads(),
    )
    return y


def _fake_softmax(x: Tensor, *params: object) -> Tensor:
    return x.new_empty(x.shape)


define_op(
    "softmax_quantized(Tensor x, float scale_in, float scale, int zero_point, int lower, int upper) "
    "-> Tensor",
    _softmax,
    _fake_softmax,
)
