"""Fake quantizers of one kind of observer: moving averages by the legacy's name, and fixed parameters.

May import rounding, observer and errors.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from intaglio.errors import ConfigError
from intaglio.fake_quantize.rounding import FakeQuantize
from intaglio.observer import FixedQParamsObserver, MovingAverageMinMaxObserver

__all__ = ["FixedQParamsFakeQuantize", "FusedMovingAvgObsFakeQuantize"]


class FusedMovingAvgObsFakeQuantize(FakeQuantize):
    """`FakeQuantize` with a moving average: the legacy's name for its fast one. Here both are one."""

    def __init__(
        self,
        observer: Callable[..., Any] = MovingAverageMinMaxObserver,
        quant_min: int | None = 0,
        quant_max: int | None = 255,
        is_dynamic: bool = False,
        **observer_kwargs: Any,
    ) -> None:
        super().__init__(observer, quant_min, quant_max, is_dynamic, **observer_kwargs)
        if not self._moves():
            raise ConfigError(
                "FusedMovingAvgObsFakeQuantize takes MovingAverageMinMaxObserver or its per-channel form, "
                f"not {type(self.observer).__name__}: use FakeQuantize"
            )


class FixedQParamsFakeQuantize(FakeQuantize):
    """Rounds by parameters that are known beforehand, as those of a sigmoid's output are.

    `observer` makes a `FixedQParamsObserver`. Observing has nothing to do.
    """

    def __init__(self, observer: Callable[..., Any], **observer_kwargs: Any) -> None:
        super().__init__(observer, **observer_kwargs)
        if not isinstance(self.observer, FixedQParamsObserver):
            raise ConfigError(
                f"FixedQParamsFakeQuantize takes a FixedQParamsObserver, not {type(self.observer).__name__}"
            )

    def _looks(self) -> bool:
        return False
