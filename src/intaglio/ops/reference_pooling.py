"""The oracle of pooling, in plain torch (docs/numerics.md, "Static quantization"). May import the oracles."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from intaglio.ops.reference_elementwise import encode

__all__ = ["Windows", "adaptive_windows", "average", "largest", "windows"]

Windows = list[list[tuple[list[int], int]]]
"""For each axis and output: the positions of the taps in the image, and how many positions count."""


def windows(
    size: Sequence[int],
    out: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    count_padding: bool = False,
) -> Windows:
    """Windows of `kernel` taps each."""
    axes: Windows = []
    for n, outputs, k, s, p, d in zip(size, out, kernel, stride, padding, dilation, strict=True):
        axis = []
        for i in range(outputs):
            places = [i * s - p + t * d for t in range(k)]
            taps = [place for place in places if 0 <= place < n]
            padded = [place for place in places if place < n + p]
            axis.append((taps, len(padded if count_padding else taps)))
        axes.append(axis)
    return axes


def adaptive_windows(size: Sequence[int], out: Sequence[int]) -> Windows:
    """Windows that divide each axis in `out` parts, which overlap where they must."""
    axes: Windows = []
    for n, outputs in zip(size, out, strict=True):
        axis = []
        for i in range(outputs):
            taps = list(range(i * n // outputs, -(-(i + 1) * n // outputs)))
            axis.append((taps, len(taps)))
        axes.append(axis)
    return axes


def _taken(x: Tensor, places: tuple[tuple[list[int], int], ...]) -> Tensor:
    """The taps of one output, `(N, C, taps)` int64."""
    for axis, (taps, _) in enumerate(places):
        x = x.index_select(axis + 2, torch.tensor(taps, dtype=torch.long))
    return x.flatten(2).to(torch.int64)


def largest(x: Tensor, axes: Windows) -> Tensor:
    """The largest of each window, 0 of one without taps."""
    outs = [torch.nn.functional.pad(_taken(x, places), (0, 1)).amax(2) for places in itertools.product(*axes)]
    return torch.stack(outs, 2).reshape(*x.shape[:2], *map(len, axes)).to(torch.uint8)


def average(
    x: Tensor, axes: Windows, zero_point: int, lower: int = 0, upper: int = 255, divisor: int = 0
) -> Tensor:
    """The average of each window; `divisor` 0 is what the window counts."""
    outs = []
    for places in itertools.product(*axes):
        counted = 1
        for _, positions in places:
            counted *= positions
        inverse = 1.0 / torch.tensor(float(divisor or max(1, counted)))
        total = (_taken(x, places) - zero_point).sum(2)
        outs.append(encode(total.float() * inverse, zero_point, lower, upper))
    return torch.stack(outs, 2).reshape(*x.shape[:2], *map(len, axes))
