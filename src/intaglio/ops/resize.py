"""Interpolation of quantized images: nearest exactly, linear between neighbouring pixels; parameters kept.

Where an output lies in the source is asked of torch itself, an axis at a time (docs/numerics.md, "Static
quantization: interpolation"). May import layout, tables, library, errors and _core.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import floor
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from intaglio import _core
from intaglio.errors import InputError
from intaglio.ops.layout import empty_image, with_channels_innermost
from intaglio.ops.library import define_op, is_direct
from intaglio.ops.tables import check_uint8

__all__ = ["MODES", "resize", "sources"]

MODES = ("nearest", "nearest-exact", "linear")
_AXES = 3
_threads = torch.get_num_threads


@lru_cache(maxsize=512)
def sources(
    size: int, out: int, factor: float | None, mode: str, align_corners: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Along one axis: positions of both neighbours of each output, `(out,)` int64, and float32 weights.

    Those of torch's interpolation in float64; the weight is the second neighbour's. `factor` is the scale
    factor where outputs are placed by it, and None where by the sizes.
    """
    ramp = torch.arange(size, dtype=torch.float64)[None, None]
    if mode != "linear":
        ramp = ramp.float()  # nearest neighbours are chosen in float32
    how: dict[str, Any] = {"mode": mode}
    if mode == "linear":
        how["align_corners"] = align_corners
    how |= {"size": out} if factor is None else {"scale_factor": factor, "recompute_scale_factor": False}
    places = F.interpolate(ramp, **how)
    places = places.flatten().double().clamp(0, size - 1)
    first = places.floor()
    second = (first + 1).clamp(max=size - 1)
    return first.long(), second.long(), (places - first).float()


def resize(
    x: Tensor,
    size: Sequence[int] | None = None,
    factors: Sequence[float] | None = None,
    mode: str = "nearest",
    align_corners: bool = False,
    lower: int = 0,
    upper: int = 255,
) -> Tensor:
    """`(N, C, *size)` uint8 interpolated to `size` or by `factors`, one of the two; channels innermost.

    `mode` is one of `MODES`, 'linear' meaning bilinear and trilinear too. `InputError` for anything else.
    """
    sizes, scales = [] if size is None else list(size), [] if factors is None else list(factors)
    if is_direct(x):
        return _resize(x, sizes, scales, mode, align_corners, lower, upper)
    return torch.ops.intaglio.resize(  # type: ignore[no-any-return]
        x, sizes, scales, mode, align_corners, lower, upper
    )


def _resized(x: Tensor, size: Sequence[int], factors: Sequence[float], mode: str) -> list[int]:
    """Sizes of the result."""
    axes = x.dim() - 2
    if mode not in MODES or not 1 <= axes <= _AXES or {len(size), len(factors)} != {0, axes}:
        raise InputError(
            f"an image of shape {tuple(x.shape)} cannot be resized to {list(size) or list(factors)} by "
            f"{mode!r}: modes are {', '.join(MODES)}, with a size or a factor for each axis"
        )
    out = list(size) or [floor(n * factor) for n, factor in zip(x.shape[2:], factors, strict=True)]
    if min(out) < 1 or min(x.shape[2:]) < 1:
        raise InputError(f"an image of shape {tuple(x.shape)} cannot be resized to {out}")
    return out


def _resize(
    x: Tensor,
    size: Sequence[int],
    factors: Sequence[float],
    mode: str,
    align_corners: bool,
    lower: int,
    upper: int,
) -> Tensor:
    """CPU kernel of `intaglio::resize`."""
    check_uint8("resize", x)
    out = _resized(x, size, factors, mode)
    x = with_channels_innermost(x)
    batch, channels = x.shape[:2]
    y = empty_image((batch, channels, *out), torch.uint8)
    if y.numel() == 0:
        return y
    sizes, places = _geometry(x.shape[2:], tuple(out), tuple(factors), mode, align_corners)
    _core.resize(
        x.data_ptr(),
        batch,
        channels,
        sizes,
        [part.data_ptr() for part in places],
        mode == "linear",
        lower,
        upper,
        y.data_ptr(),
        _threads(),
    )
    return y


@lru_cache(maxsize=512)
def _geometry(
    old: tuple[int, ...], out: tuple[int, ...], factors: tuple[float, ...], mode: str, align_corners: bool
) -> tuple[list[int], list[Tensor]]:
    """What the driver is told of three axes: sizes before and after, then neighbours and weights of each."""
    lead = _AXES - len(out)
    scales: tuple[float | None, ...] = factors or (None,) * len(out)
    places = [sources(1, 1, None, "nearest", False)] * lead + [
        sources(n, m, factor, mode, align_corners) for n, m, factor in zip(old, out, scales, strict=True)
    ]
    return [*[1] * lead, *old, *[1] * lead, *out], [part for place in places for part in place]


def _fake_resize(
    x: Tensor,
    size: Sequence[int],
    factors: Sequence[float],
    mode: str,
    align_corners: bool,
    lower: int,
    upper: int,
) -> Tensor:
    return empty_image((*x.shape[:2], *_resized(x, size, factors, mode)), torch.uint8, x.device)


define_op(
    "resize(Tensor x, int[] size, float[] factors, str mode, bool align_corners, int lower, int upper) "
    "-> Tensor",
    _resize,
    _fake_resize,
)
