"""Observers: what chooses a tensor's `QParams`.

For dynamic quantization an observer looks at a weight once (`MinMaxObserver`,
`PerChannelMinMaxObserver`) or only says how activations are to be quantized as they come
(`PlaceholderObserver`). Legacy names and meaning. May import qparams and errors.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from intaglio.errors import ConfigError
from intaglio.qparams import (
    INT8,
    SMALLEST_RANGE,
    UINT4,
    UINT8,
    PerRow,
    PerTensor,
    QParams,
    QuantizedType,
    choose_qparams,
    parse_dtype,
)

__all__ = [
    "MinMaxObserver",
    "ObserverBase",
    "PerChannelMSEObserver",
    "PerChannelMinMaxObserver",
    "PlaceholderObserver",
]


class ObserverBase(nn.Module):
    """What every observer is: `forward` looks at a tensor, `choose` gives its `QParams`.

    `with_args` makes a factory, so that a `QConfig` holds recipes and each layer gets its own observer.
    """

    dtype: QuantizedType

    @classmethod
    def with_args(cls, **kwargs: Any) -> Callable[..., ObserverBase]:
        """A factory of this observer with some of its arguments fixed."""
        return partial(cls, **kwargs)

    def choose(self) -> QParams:
        """The parameters for what was seen; `ConfigError` if nothing was."""
        raise ConfigError(f"{type(self).__name__} chooses no parameters")


class PlaceholderObserver(ObserverBase):
    """Observes nothing: says how an activation is quantized when the model runs.

    `dtype` is uint8 (dynamic, affine) or float16 (stored in half precision, computed in float32);
    `granularity` is `PerRow()`, the default, or `PerTensor()`.

    >>> PlaceholderObserver.with_args(dtype="uint8", granularity=PerTensor())().dtype.name
    'uint8'
    """

    def __init__(
        self,
        dtype: torch.dtype | str | QuantizedType = UINT8,
        *,
        granularity: PerRow | PerTensor | None = None,
        is_dynamic: bool = True,
    ) -> None:
        super().__init__()
        self.dtype = parse_dtype(dtype)
        self.granularity = PerRow() if granularity is None else granularity
        self.is_dynamic = is_dynamic

    def forward(self, x: Tensor) -> Tensor:
        """Give back `x`, unseen."""
        return x


class MinMaxObserver(ObserverBase):
    """The smallest and the largest value seen, over the whole tensor.

    `qscheme` is `torch.per_tensor_affine` or `torch.per_tensor_symmetric`, by default what suits `dtype`.
    """

    axis: int | None = None

    def __init__(
        self, dtype: torch.dtype | str | QuantizedType = UINT8, *, qscheme: torch.qscheme | None = None
    ) -> None:
        super().__init__()
        self.dtype = parse_dtype(dtype)
        self.symmetric = self.dtype is INT8 if qscheme is None else "symmetric" in str(qscheme)
        self.low: Tensor | None = None
        self.high: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Widen the range to that of `x`; gives back `x`."""
        low, high = self._range(x.detach().float())
        self.low = low if self.low is None else torch.minimum(self.low, low)
        self.high = high if self.high is None else torch.maximum(self.high, high)
        return x

    def _range(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if x.numel() == 0:
            return torch.zeros(()), torch.zeros(())
        low, high = torch.aminmax(x)
        return low, high

    def range(self) -> tuple[Tensor, Tensor]:
        """The lowest and the highest value to represent; `ConfigError` if nothing was seen."""
        if self.low is None or self.high is None:
            raise ConfigError(f"{type(self).__name__} has seen no data: run the model on some first")
        return self.low, self.high

    def choose(self) -> QParams:
        """The parameters for the range seen."""
        low, high = self.range()
        return choose_qparams(low, high, self.dtype, symmetric=self.symmetric, axis=self.axis)


class PerChannelMinMaxObserver(MinMaxObserver):
    """The smallest and the largest value of each index of axis `ch_axis`."""

    def __init__(
        self,
        dtype: torch.dtype | str | QuantizedType = INT8,
        *,
        qscheme: torch.qscheme | None = None,
        ch_axis: int = 0,
    ) -> None:
        super().__init__(dtype, qscheme=qscheme)
        self.axis: int = ch_axis

    def _range(self, x: Tensor) -> tuple[Tensor, Tensor]:
        rows = x.movedim(self.axis, 0).flatten(1) if x.dim() > 1 else x[:, None]
        if rows.shape[1] == 0:
            return torch.zeros(rows.shape[0]), torch.zeros(rows.shape[0])
        low, high = torch.aminmax(rows, dim=1)
        return low, high


class PerChannelMSEObserver(PerChannelMinMaxObserver):
    """For each index of axis `ch_axis`, the range that is represented with the least squared error.

    With few levels, cutting off a row's rare extremes costs less than the coarser step that reaching them
    would need. The best of several symmetric cuts is the start; then, in turn, integers are chosen for the
    range and the range is refitted to the integers by least squares, neither of which can raise the error.

    >>> observer = PerChannelMSEObserver(UINT4)
    >>> _ = observer(torch.cat([torch.linspace(0.0, 1.0, 1000), torch.tensor([2.0])])[None])
    >>> bool(observer.range()[1] < 1.95)
    True
    """

    CUTS = (1.0, 0.94, 0.88, 0.81, 0.75, 0.69, 0.63, 0.56, 0.5)
    REFITS = 10
    ROWS_AT_ONCE = 4096

    def __init__(
        self,
        dtype: torch.dtype | str | QuantizedType = UINT4,
        *,
        qscheme: torch.qscheme | None = None,
        ch_axis: int = 0,
    ) -> None:
        super().__init__(dtype, qscheme=qscheme, ch_axis=ch_axis)
        if self.symmetric:
            raise ConfigError("PerChannelMSEObserver chooses affine ranges: use an affine qscheme")

    def _range(self, x: Tensor) -> tuple[Tensor, Tensor]:
        low, high = super()._range(x)
        if x.numel() == 0:
            return low, high
        rows = x.movedim(self.axis, 0).flatten(1) if x.dim() > 1 else x[:, None]
        levels = self.dtype.quant_max - self.dtype.quant_min
        blocks = [slice(at, at + self.ROWS_AT_ONCE) for at in range(0, len(rows), self.ROWS_AT_ONCE)]
        fitted = [self._fit(rows[b], low[b], high[b], levels) for b in blocks]
        lows, highs = zip(*fitted, strict=True)
        return torch.cat(lows), torch.cat(highs)

    def _fit(self, rows: Tensor, low: Tensor, high: Tensor, levels: int) -> tuple[Tensor, Tensor]:
        """The range of each row of `(N, D)`, from its extremes `(N,)`."""
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
