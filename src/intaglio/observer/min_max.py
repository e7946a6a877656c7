"""Observers of the smallest and the largest value: of all data or averaged, per tensor or per channel.

Values that are NaN or infinite are passed over, with a warning that names the layer. May import observing,
qparams and errors.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from intaglio.errors import InputError
from intaglio.observer.observing import UniformQuantizationObserverBase
from intaglio.qparams import INT8, UINT8, QuantizedType

__all__ = [
    "MinMaxObserver",
    "MovingAverageMinMaxObserver",
    "MovingAveragePerChannelMinMaxObserver",
    "PerChannelMinMaxObserver",
]

NOT_FINITE = "saw values that are NaN or infinite, which it passed over: mend the data or the layer before"


class MinMaxObserver(UniformQuantizationObserverBase):
    """The smallest and the largest value seen, over the whole tensor.

    Arguments as in `UniformQuantizationObserverBase`. `min_val` and `max_val`, `()` float32, are inf and -inf
    until something is seen; empty tensors count for nothing.

    >>> observer = MinMaxObserver()
    >>> _ = observer(torch.tensor([-1.0, 2.0]))
    >>> [float(limit) for limit in observer.range()]
    [-1.0, 2.0]
    """

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """Widen the range to that of `x`; gives back `x`."""
        found = self._range(x)
        if found is not None:
            self.min_val.copy_(torch.minimum(self.min_val, found[0]))
            self.max_val.copy_(torch.maximum(self.max_val, found[1]))
        return x

    def _range(self, x: Tensor) -> tuple[Tensor, Tensor] | None:
        """The finite extremes of `x`, or None if there are none."""
        if x.numel() == 0:
            return None
        values = x.detach().float()
        low, high = torch.aminmax(values)
        if not math.isfinite(float(high) - float(low)):
            self.warn(NOT_FINITE)
            values = values[torch.isfinite(values)]
            if values.numel() == 0:
                return None
            low, high = torch.aminmax(values)
        return low, high


class MovingAverageMinMaxObserver(MinMaxObserver):
    """The moving average of each tensor's smallest and largest value.

    `min_val += averaging_constant * (min(x) - min_val)`, the first tensor's own to begin with; `max_val`
    likewise. Further arguments as in `UniformQuantizationObserverBase`.
    """

    def __init__(
        self,
        averaging_constant: float = 0.01,
        dtype: torch.dtype | str | QuantizedType = UINT8,
        qscheme: torch.qscheme | str | None = None,
        reduce_range: bool = False,
        quant_min: int | None = None,
        quant_max: int | None = None,
        eps: float = 0.0,
        is_dynamic: bool = False,
        factory_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(dtype, qscheme, reduce_range, quant_min, quant_max, factory_kwargs, eps, is_dynamic)
        self.averaging_constant = averaging_constant

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """Move the range towards that of `x`; gives back `x`."""
        found = self._range(x)
        if found is not None:
            seen = self.has_seen_data
            for held, value in ((self.min_val, found[0]), (self.max_val, found[1])):
                held.copy_(held + self.averaging_constant * (value - held) if seen else value)
        return x


class PerChannelMinMaxObserver(UniformQuantizationObserverBase):
    """The smallest and the largest value of each index of axis `ch_axis`; `dtype` is int8 by default.

    `min_val` and `max_val` are `(0,)` until something is seen, then `(C,)` float32. Further arguments as in
    `UniformQuantizationObserverBase`. Raises `InputError` for an axis that the tensor does not have.
    """

    per_channel = True

    def __init__(
        self,
        ch_axis: int = 0,
        dtype: torch.dtype | str | QuantizedType = INT8,
        qscheme: torch.qscheme | str | None = None,
        reduce_range: bool = False,
        quant_min: int | None = None,
        quant_max: int | None = None,
        factory_kwargs: Mapping[str, Any] | None = None,
        eps: float = 0.0,
        is_dynamic: bool = False,
    ) -> None:
        super().__init__(dtype, qscheme, reduce_range, quant_min, quant_max, factory_kwargs, eps, is_dynamic)
        self.ch_axis = ch_axis

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """Widen each channel's range to that of `x`; gives back `x`."""
        low, high = self._range(self._rows(x))
        if self.min_val.numel():
            low, high = torch.minimum(self.min_val, low), torch.maximum(self.max_val, high)
        self._hold(low, high)
        return x

    def _hold(self, low: Tensor, high: Tensor) -> None:
        """Hold this range, in the same buffers once there are any: DistributedDataParallel knows them."""
        if self.min_val.shape == low.shape:
            self.min_val.copy_(low)
            self.max_val.copy_(high)
        else:
            self.min_val, self.max_val = low, high

    def _rows(self, x: Tensor) -> Tensor:
        """`x` as `(C, everything else)` float32."""
        if not -x.dim() <= self.ch_axis < x.dim():
            raise InputError(
                f"{self.where()}: ch_axis {self.ch_axis} is not an axis of a tensor of shape {tuple(x.shape)}"
            )
        rows = x.detach().float().movedim(self.ch_axis, 0)
        rows = rows.flatten(1) if x.dim() > 1 else rows[:, None]
        if self.min_val.numel() not in (0, len(rows)):
            raise InputError(
                f"{self.where()}: {len(rows)} channels on axis {self.ch_axis} of a tensor of shape "
                f"{tuple(x.shape)}, but {self.min_val.numel()} before: one observer is for one tensor"
            )
        return rows

    def _range(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """The finite extremes of each row; those of a row without a finite value are inf and -inf."""
        if rows.shape[1] == 0:
            return torch.zeros(len(rows)), torch.zeros(len(rows))
        low, high = torch.aminmax(rows, dim=1)
        if not bool(torch.isfinite(low).all() and torch.isfinite(high).all()):
            self.warn(NOT_FINITE)
            finite = torch.isfinite(rows)
            low = torch.where(finite, rows, torch.inf).amin(1)
            high = torch.where(finite, rows, -torch.inf).amax(1)
        return low, high


class MovingAveragePerChannelMinMaxObserver(PerChannelMinMaxObserver):
    """The moving average of the smallest and the largest value of each index of axis `ch_axis`."""

    def __init__(
        self,
        averaging_constant: float = 0.01,
        ch_axis: int = 0,
        dtype: torch.dtype | str | QuantizedType = INT8,
        qscheme: torch.qscheme | str | None = None,
        reduce_range: bool = False,
        quant_min: int | None = None,
        quant_max: int | None = None,
        eps: float = 0.0,
        is_dynamic: bool = False,
        factory_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(
            ch_axis, dtype, qscheme, reduce_range, quant_min, quant_max, factory_kwargs, eps, is_dynamic
        )
        self.averaging_constant = averaging_constant

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """Move each channel's range towards that of `x`; gives back `x`."""
        low, high = self._range(self._rows(x))
        if self.min_val.numel():
            low, high = self._moved(self.min_val, low), self._moved(self.max_val, high)
        self._hold(low, high)
        return x

    def _moved(self, held: Tensor, value: Tensor) -> Tensor:
        moved = held + self.averaging_constant * (value - held)
        return torch.where(torch.isfinite(value), torch.where(torch.isfinite(held), moved, value), held)
