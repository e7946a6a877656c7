"""`FakeQuantizeBase`: an observer that rounds, with two switches.

May import straight_through, observer and qparams.
"""

from __future__ import annotations

import torch
from torch import Tensor

from intaglio.fake_quantize.straight_through import OPEN, Clamp
from intaglio.observer import ObserverBase
from intaglio.qparams import UINT8, QuantizedType

__all__ = ["ROUNDED_BY", "FakeQuantizeBase"]

ROUNDED_BY = "rounded_by"
"""Attribute of a tensor: the fake quantizer that rounded it, whose parameters an average of it will have."""


class FakeQuantizeBase(ObserverBase):
    """Every fake quantizer: an observer with two switches, `fake_quant_enabled` and `observer_enabled`.

    Both are `(1,) uint8` buffers, so that checkpoints hold them. A subclass defines `forward`, and `choose`
    or in the legacy manner `calculate_qparams`.
    """

    fake_quant_enabled: Tensor
    observer_enabled: Tensor

    def __init__(self, dtype: torch.dtype | str | QuantizedType = UINT8, is_dynamic: bool = False) -> None:
        super().__init__(dtype, is_dynamic)
        self.register_buffer("fake_quant_enabled", torch.ones(1, dtype=torch.uint8))
        self.register_buffer("observer_enabled", torch.ones(1, dtype=torch.uint8))

    def enable_fake_quant(self, enabled: bool = True) -> None:
        """Round, or do not."""
        self.fake_quant_enabled.fill_(bool(enabled))

    def disable_fake_quant(self) -> None:
        """Give values back as they are."""
        self.enable_fake_quant(False)

    def enable_observer(self, enabled: bool = True) -> None:
        """Let the range follow the values, or hold it."""
        self.observer_enabled.fill_(bool(enabled))

    def disable_observer(self) -> None:
        """Hold the range."""
        self.enable_observer(False)

    def rounded(self, x: Tensor, clamp: Clamp = OPEN) -> Tensor:
        """`forward(clamp(x))`, where that can be had at once."""
        low, high = clamp
        y: Tensor = self(x if clamp == OPEN else torch.clamp(x, low, high))
        return y
