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
    UINT8,
    PerRow,
    PerTensor,
    QParams,
    QuantizedType,
    choose_qparams,
    parse_dtype,
)

__all__ = ["MinMaxObserver", "ObserverBase", "PerChannelMinMaxObserver", "PlaceholderObserver"]


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

    def choose(self) -> QParams:
        """The parameters for the range seen."""
        if self.low is None or self.high is None:
            raise ConfigError(f"{type(self).__name__} has seen no data: run the model on some first")
        return choose_qparams(self.low, self.high, self.dtype, symmetric=self.symmetric, axis=self.axis)


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
