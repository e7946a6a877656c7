"""Observers that look for no range: fixed parameters, placeholders and recorders.

May import observing, qparams and errors.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from intaglio.errors import ConfigError
from intaglio.observer.observing import ObserverBase
from intaglio.qparams import FLOAT16, UINT8, PerRow, PerTensor, QParams, QuantizedType, parse_stored_dtype

__all__ = [
    "FixedQParamsObserver",
    "NoopObserver",
    "PlaceholderObserver",
    "RecordingObserver",
    "ReuseInputObserver",
]


class FixedQParamsObserver(ObserverBase):
    """Parameters known beforehand, for ops whose outputs lie in a known range, as those of sigmoid do.

    Raises `ConfigError` for a scale that is not positive and finite, or a zero point out of the limits.

    >>> observer = FixedQParamsObserver(1 / 256, 0)
    >>> float(observer.choose().scale), observer.choose().dtype.name
    (0.00390625, 'uint8')
    """

    scale: Tensor
    zero_point: Tensor

    def __init__(
        self,
        scale: float,
        zero_point: int,
        dtype: torch.dtype | str | QuantizedType = UINT8,
        qscheme: torch.qscheme | str | None = None,
        quant_min: int | None = None,
        quant_max: int | None = None,
        is_dynamic: bool = False,
    ) -> None:
        super().__init__(dtype, is_dynamic)
        self.qscheme = getattr(torch, "per_tensor_affine", None) if qscheme is None else qscheme
        self.quant_min = self.dtype.quant_min if quant_min is None else quant_min
        self.quant_max = self.dtype.quant_max if quant_max is None else quant_max
        if not 0.0 < float(scale) < float("inf"):
            raise ConfigError(f"FixedQParamsObserver: scale {scale} must be positive and finite")
        if not self.quant_min <= int(zero_point) <= self.quant_max:
            raise ConfigError(
                f"FixedQParamsObserver: zero_point {zero_point} is not in {self.quant_min}..{self.quant_max}"
            )
        self.register_buffer("scale", torch.tensor([float(scale)]))
        self.register_buffer("zero_point", torch.tensor([int(zero_point)], dtype=torch.int32))

    def choose(self) -> QParams:
        """The parameters given."""
        low, high = self.quant_min, self.quant_max
        whole = (low, high) == (self.dtype.quant_min, self.dtype.quant_max)
        limits = (None, None) if whole else (low, high)
        return QParams(self.scale.reshape(()), self.zero_point.reshape(()), self.dtype, None, *limits)


class PlaceholderObserver(ObserverBase):
    """Observes nothing: says how an activation is quantized when the model runs, or a weight stored.

    `dtype` is uint8 (dynamic, affine), float16 (stored in half precision, computed in float32) or float32
    (left as it is); `granularity` is `PerRow()`, the default, or `PerTensor()`. The other arguments are the
    legacy's and change nothing.

    >>> PlaceholderObserver.with_args(dtype="uint8", granularity=PerTensor())().dtype.name
    'uint8'
    """

    def __init__(
        self,
        dtype: torch.dtype | str | QuantizedType = UINT8,
        custom_op_name: str = "",
        compute_dtype: Any = None,
        quant_min: int | None = None,
        quant_max: int | None = None,
        qscheme: torch.qscheme | str | None = None,
        eps: float | None = None,
        is_dynamic: bool = True,
        *,
        granularity: PerRow | PerTensor | None = None,
    ) -> None:
        super().__init__(parse_stored_dtype(dtype), is_dynamic or compute_dtype is not None)
        self.granularity = PerRow() if granularity is None else granularity
        self.custom_op = custom_op_name
        self.quant_min, self.quant_max = quant_min, quant_max
        self.qscheme, self.eps = qscheme, eps

    def extra_repr(self) -> str:
        """What `print` shows."""
        return f"{self.dtype}, is_dynamic={self.is_dynamic}"


class RecordingObserver(ObserverBase):
    """Keeps a copy of every tensor it sees, for debugging: `get_tensor_value()`."""

    def __init__(self, dtype: torch.dtype | str | QuantizedType = UINT8) -> None:
        super().__init__(dtype)
        self.tensor_val: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        """Keep a copy of `x`; gives back `x`."""
        self.tensor_val.append(x.detach().clone())
        return x

    def get_tensor_value(self) -> list[Tensor]:
        """The tensors seen, the first first."""
        return self.tensor_val


class NoopObserver(ObserverBase):
    """Observes nothing and says only a dtype: float16, or float32 for what stays as it is."""

    def __init__(self, dtype: torch.dtype | str | QuantizedType = FLOAT16, custom_op_name: str = "") -> None:
        super().__init__(parse_stored_dtype(dtype))
        self.custom_op = custom_op_name


class ReuseInputObserver(ObserverBase):
    """Says that an op's output has the parameters of its input, as that of reshape has."""

    def __init__(self) -> None:
        super().__init__(UINT8)
