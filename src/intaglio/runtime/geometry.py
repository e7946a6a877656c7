"""Sizes of convolutions and pools, and the integers that tell their kernels: what torch computes of shapes.

Nothing here is a tensor. May import errors.
"""

from __future__ import annotations

from collections.abc import Sequence

from intaglio.errors import InputError

__all__ = [
    "PADDING_MODES",
    "adaptive_axes",
    "conv_integers",
    "conv_size",
    "per_axis",
    "pool_axes",
    "pooled_size",
    "transposed_size",
]

PADDING_MODES = ("zeros", "reflect", "replicate", "circular")

_AXES = 3


def per_axis(value: int | Sequence[int], axes: int) -> tuple[int, ...]:
    """A size of a window as torch takes it: one for all axes, or one each."""
    if isinstance(value, int):
        return (value,) * axes
    return tuple(value) * axes if len(value) == 1 else tuple(value)


# ---- Convolutions --------------------------------------------------------------------------------------


def conv_integers(
    channels: tuple[int, int, int],
    kernel: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
    padding: Sequence[int],
    *,
    transposed: bool = False,
    padding_mode: str = "zeros",
) -> list[int]:
    """A convolution as it crosses to the kernels: three axes, depth, height and width.

    `channels` are those of the output, of the input, and the groups.
    """
    lead = (1,) * (_AXES - len(kernel))
    none = (0,) * len(lead)
    axes = (*lead, *kernel, *lead, *stride, *lead, *dilation, *none, *padding)
    return [*channels, *axes, int(transposed), PADDING_MODES.index(padding_mode)]


def conv_size(
    size: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
    padding: Sequence[Sequence[int]],
) -> list[int] | None:
    """The output's size of a convolution; None where the input is smaller than the kernel."""
    rooms = [
        length + before + after - d * (k - 1) - 1
        for length, k, d, (before, after) in zip(size, kernel, dilation, padding, strict=True)
    ]
    if min(rooms) < 0:
        return None
    return [room // s + 1 for room, s in zip(rooms, stride, strict=True)]


def transposed_size(
    size: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
    padding: Sequence[int],
) -> list[int]:
    """The smallest output of a transposed convolution; `output_padding` is added to it."""
    return [
        (length - 1) * s - 2 * cut + d * (k - 1) + 1
        for length, s, cut, d, k in zip(size, stride, padding, dilation, kernel, strict=True)
    ]


# ---- Pools ---------------------------------------------------------------------------------------------


def pooled_size(
    size: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    ceil_mode: bool,
) -> list[int]:
    """Sizes after pooling, as torch counts them; with `ceil_mode` no window begins in the right padding.

    `InputError` for windows that cannot be, and where nothing would be left.
    """
    if any(
        len(v) != len(size) or min(v) < least
        for v, least in ((kernel, 1), (stride, 1), (padding, 0), (dilation, 1))
    ):
        raise InputError(
            f"pooling over {len(size)} axes cannot have kernel_size {tuple(kernel)}, stride {tuple(stride)}, "
            f"padding {tuple(padding)} and dilation {tuple(dilation)}"
        )
    out = []
    for n, k, s, p, d in zip(size, kernel, stride, padding, dilation, strict=True):
        reach = d * (k - 1) + 1
        if p > reach // 2:
            raise InputError(f"padding {p} is more than half of a window of {reach}")
        windows = (n + 2 * p - reach + (s - 1 if ceil_mode else 0)) // s + 1
        if ceil_mode and (windows - 1) * s >= n + p:
            windows -= 1
        if windows < 1:
            raise InputError(f"an image of size {tuple(size)} is too small for windows of {tuple(kernel)}")
        out.append(windows)
    return out


def pool_axes(
    size: Sequence[int], out: Sequence[int], windows: tuple[Sequence[int], ...] | None = None
) -> list[int]:
    """What the driver is told of three axes: sizes, output sizes, kernel, stride, padding, dilation.

    Without `windows` (the last four) they divide the image.
    """
    axes = len(size)
    lead = _AXES - axes
    ones, zeros = (1,) * lead, (0,) * lead
    kernel, stride, padding, dilation = windows or ((0,) * axes, (1,) * axes, (0,) * axes, (1,) * axes)
    return [*ones, *size, *ones, *out, *ones, *kernel, *ones, *stride, *zeros, *padding, *ones, *dilation]


def adaptive_axes(size: Sequence[int], output_size: Sequence[int | None]) -> tuple[list[int], list[int]]:
    """Output sizes of windows that divide the image, None keeping an axis, and `pool_axes` of them."""
    out = [n if m is None else m for n, m in zip(size, output_size, strict=False)]
    if len(size) != len(output_size) or min(out, default=0) < 0 or (0 in size and 0 not in out):
        raise InputError(f"an image of size {tuple(size)} cannot be pooled to {tuple(output_size)}")
    return out, pool_axes(size, out)
