"""Per-channel ranges of weights by least squared error: cutting off a row's rare extremes may be worth it.

May import observing, min_max, qparams and errors.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from intaglio.observer.min_max import PerChannelMinMaxObserver
from intaglio.qparams import SMALLEST_RANGE, UINT4, QuantizedType

__all__ = ["PerChannelMSEObserver"]


class PerChannelMSEObserver(PerChannelMinMaxObserver):
    """For each index of axis `ch_axis`, the range that is represented with the least squared error.

    With few levels, cutting off a row's rare extremes costs less than the coarser step that reaching them
    would need. The best of several symmetric cuts is the start; then, in turn, integers are chosen for the
    range and the range is refitted to the integers by least squares, neither of which can raise the error.
    Symmetric (int8), so many cuts are tried, some beyond the extremes, that rows of few values, as those of a
    depthwise convolution, fall onto a grid that suits them: EfficientNet-Lite0's weights alone leave its
    logits an SQNR of 20.1 dB by their extremes and of 23 dB by this.

    >>> observer = PerChannelMSEObserver(dtype=UINT4)
    >>> _ = observer(torch.cat([torch.linspace(0.0, 1.0, 1000), torch.tensor([2.0])])[None])
    >>> bool(observer.range()[1] < 1.95)
    True
    """

    CUTS = (1.0, 0.94, 0.88, 0.81, 0.75, 0.69, 0.63, 0.56, 0.5)
    REFITS = 10
    SYMMETRIC_REFITS = 2
    WIDEST, NARROWEST = 1.02, (0.8, 0.4)
    FINE_CUTS, COARSE_CUTS, FEW_VALUES = 221, 56, 256
    ROWS_AT_ONCE = 4096
    VALUES_AT_ONCE = 1 << 14

    def __init__(
        self,
        ch_axis: int = 0,
        dtype: torch.dtype | str | QuantizedType = UINT4,
        qscheme: torch.qscheme | str | None = None,
        reduce_range: bool = False,
        quant_min: int | None = None,
        quant_max: int | None = None,
        factory_kwargs: Mapping[str, Any] | None = None,
        eps: float = 0.0,
        is_dynamic: bool = False,
    ) -> None:
        super().__init__(
            ch_axis, dtype, qscheme, reduce_range, quant_min, quant_max, factory_kwargs, eps, is_dynamic
        )

    def _range(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        low, high = super()._range(rows)
        if rows.numel() == 0:
            return low, high
        rows = torch.where(torch.isfinite(rows), rows, 0.0)
        seen = low <= high
        fit = self._fit_symmetric if self.symmetric else self._fit
        # Symmetric: blocks that stay in the cache while every cut is tried on them.
        count = max(1, self.VALUES_AT_ONCE // rows.shape[1]) if self.symmetric else self.ROWS_AT_ONCE
        blocks = [slice(at, at + count) for at in range(0, len(rows), count)]
        fitted = [fit(rows[b], low[b], high[b]) for b in blocks]
        lows, highs = (torch.cat(limits) for limits in zip(*fitted, strict=True))
        return torch.where(seen, lows, low), torch.where(seen, highs, high)

    def _fit_symmetric(self, rows: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """As `_fit`, with zero point 0: the scale alone, of many, and then its refits."""
        reach = torch.maximum(-low, high)
        rows = rows / reach.clamp(min=SMALLEST_RANGE)[:, None]
        low_code, high_code = self.quant_min, self.quant_max
        most = min(-low_code, high_code) if low_code < 0 else (high_code - low_code) // 2
        least = torch.full((len(rows), 1), torch.inf)
        scale = torch.full_like(least, 1.0 / most)
        few = rows.shape[1] <= self.FEW_VALUES
        count = self.FINE_CUTS if few else self.COARSE_CUTS
        codes, error = torch.empty_like(rows), torch.empty_like(rows)
        for cut in torch.linspace(self.WIDEST, self.NARROWEST[most < 64], count).tolist():
            torch.mul(rows, most / cut, out=codes).round_().clamp_(-most, most)
            found = torch.sub(codes.mul_(cut / most), rows, out=error).square_().sum(1, keepdim=True)
            better = found < least
            least = torch.where(better, found, least)
            scale = torch.where(better, cut / most, scale)
        for _ in range(self.SYMMETRIC_REFITS):
            codes = (rows / scale).round_().clamp_(-most, most)
            squares = codes.square().sum(1, keepdim=True)
            refit = (codes * rows).sum(1, keepdim=True) / squares.clamp(min=1)
            scale = torch.where(squares > 0, refit, scale)
        limit = scale[:, 0] * most * reach
        return -limit, limit

    def _fit(self, rows: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """The range of each row of `(N, D)`, from its extremes `(N,)`."""
        levels = self.quant_max - self.quant_min
        middle, reach = low / 2 + high / 2, high / 2 - low / 2
        # In units of the row's own range, -1..1, so that squares neither overflow nor vanish.
        rows = (rows - middle[:, None]) / reach.clamp(min=SMALLEST_RANGE)[:, None]
        scale, offset = self._best_cut(rows, levels)
        mean = rows.mean(1, keepdim=True)
        for _ in range(self.REFITS):
            codes = _nearest(rows, scale, offset, levels)
            center = codes.mean(1, keepdim=True)
            codes -= center
            spread = codes.square().sum(1, keepdim=True)
            fits = spread > 0
            slope = (codes * (rows - mean)).sum(1, keepdim=True) / torch.where(fits, spread, 1.0)
            scale = torch.where(fits, slope, scale)
            offset = torch.where(fits, mean - slope * center, offset)
        limits = (offset[:, 0], (offset + levels * scale)[:, 0])
        constant = reach == 0  # kept to the bit: a padding row of zeros stays zeros
        largest = torch.finfo(torch.float32).max
        fitted = [(limit * reach + middle).clamp(-largest, largest) for limit in limits]
        return torch.where(constant, low, fitted[0]), torch.where(constant, high, fitted[1])

    def _best_cut(self, rows: Tensor, levels: int) -> tuple[Tensor, Tensor]:
        """Scale and offset, `(N, 1)`, of the cut of `(N, D)` rows over -1..1 that has the least error."""
        least = torch.full((len(rows), 1), torch.inf)
        scale = offset = torch.zeros_like(least)
        for cut in self.CUTS:
            step, start = 2 * cut / levels, -cut
            error = (_nearest(rows, step, start, levels) * step + start - rows).square_().sum(1, True)
            better = error < least
            least = torch.where(better, error, least)
            scale = torch.where(better, step, scale)
            offset = torch.where(better, start, offset)
        return scale, offset


def _nearest(rows: Tensor, scale: Tensor | float, offset: Tensor | float, levels: int) -> Tensor:
    return ((rows - offset) / scale).round_().clamp_(0, levels)
