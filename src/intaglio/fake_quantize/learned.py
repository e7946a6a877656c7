"""`LearnedFakeQuantize`: step sizes that are trained with the weights (LSQ).

May import rounding, straight_through, observer, qparams and errors.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from intaglio.fake_quantize.rounding import FakeQuantize
from intaglio.fake_quantize.straight_through import OPEN, Clamp, round_learned
from intaglio.observer import HistogramObserver, PerChannelMSEObserver
from intaglio.qparams import SMALLEST_RANGE, QParams, QuantizedType

__all__ = ["LearnedFakeQuantize"]


class LearnedFakeQuantize(FakeQuantize):
    """Rounds by a scale that gradients move: learned step size quantization.

    The scale starts where it represents the first tensor with the least squared error, and is trained from
    there; its gradient counts `1 / sqrt(values per scale * quant_max)`, so that it moves as a weight does.
    At 4 bits and fewer this is worth points of accuracy. The scales are parameters: make the optimizer after
    `prepare_qat`.

    Source: Esser et al., "Learned Step Size Quantization", arXiv:1902.08153; for `learn_zero_point` Bhalgat
    et al., "LSQ+", arXiv:2004.09576.

    Parameters
    ----------
    observer : an observer class or factory, optional
        What finds the first scale: of least squared error by default.
    quant_min, quant_max : int, optional
        Limits of the integers: -8 and 7 for 4 bits.
    dtype : {'int8', 'uint8'}
    ch_axis : int, optional
        The axis whose every index has a scale of its own; 0 for weights. One scale for all by default.
    learn_zero_point : bool
        Train the zero point of an affine scheme too.

    Examples
    --------
    >>> four_bits = LearnedFakeQuantize(dtype="int8", quant_min=-8, quant_max=7, ch_axis=0)
    >>> len(four_bits(torch.linspace(-1.0, 1.0, 100)[None]).unique())
    15
    """

    scale: nn.Parameter

    def __init__(
        self,
        observer: Callable[..., Any] | None = None,
        quant_min: int | None = None,
        quant_max: int | None = None,
        *,
        dtype: torch.dtype | str | QuantizedType = "int8",
        ch_axis: int | None = None,
        learn_zero_point: bool = False,
        **observer_kwargs: Any,
    ) -> None:
        per_channel: dict[str, Any] = {} if ch_axis is None else {"ch_axis": ch_axis}
        if observer is None:
            observer = HistogramObserver if ch_axis is None else PerChannelMSEObserver
            if ch_axis is not None:
                observer_kwargs = {"qscheme": "per_channel_symmetric"} | observer_kwargs
        super().__init__(observer, quant_min, quant_max, dtype=dtype, **per_channel, **observer_kwargs)
        del self.scale
        self.scale = nn.Parameter(torch.ones(1))
        self.learn_zero_point = learn_zero_point
        if learn_zero_point:
            del self.zero_point
            self.zero_point = nn.Parameter(torch.zeros(1))
        self.register_buffer("initialized", torch.zeros(1, dtype=torch.uint8))
        self.is_fresh = ch_axis is None
        """Whether other ranks have yet to agree on where the scale starts; that of weights they see alike."""

    initialized: Tensor

    @property
    def has_range(self) -> bool:
        """Whether the scale has started."""
        return bool(self.initialized)

    def begin(self, channels: int) -> None:
        """Have a scale for each of `channels`, before an optimizer asks for the parameters."""
        for name in ("scale", "zero_point"):
            held = getattr(self, name)
            if held.shape != (channels,) and self.ch_axis is not None:
                fresh = held.detach().new_full((channels,), 1.0 if name == "scale" else 0.0)
                setattr(self, name, nn.Parameter(fresh) if isinstance(held, nn.Parameter) else fresh)

    def _looks(self) -> bool:
        return bool(self.observer_enabled) and not self.has_range

    def _moves(self) -> bool:
        return False

    def _rounded(self, x: Tensor, clamp: Clamp) -> Tensor:
        if torch.compiler.is_compiling():
            if not self.training:
                return torch.where(
                    self.fake_quant_enabled == 1, self._round(x, clamp), torch.clamp(x, *clamp)
                )
            made: Tensor = self._rounded_by_hand(x, clamp)
            return made
        if self.ch_axis is not None:  # a weight, or it would be an odd one
            self._check_finite(x)
        return super()._rounded(x, clamp)

    def _take(self, qparams: QParams | None) -> None:
        if qparams is None:
            return
        self.begin(qparams.scale.numel())
        with torch.no_grad():
            self.scale.copy_(qparams.scale.reshape(-1))
            self.zero_point.copy_(qparams.zero_point.reshape(-1))
            self.initialized.fill_(1)

    def accept(self) -> None:
        """Go on from the scale as it is: all ranks have it."""
        self.initialized.fill_(1)
        self.is_fresh = False

    def _observe(self, x: Tensor, clamp: Clamp) -> None:
        observer = self.observer
        observer.name = self.name
        observer(x if clamp == OPEN else torch.clamp(x, *clamp))
        if getattr(observer, "has_seen_data", True):
            self._take(observer.choose())
            forget = getattr(observer, "reset_min_max_vals", None)
            if forget is not None:
                forget()  # it has done its work, and a histogram is large

    def _positive_scale(self) -> Tensor:
        return self.scale.abs().clamp(min=SMALLEST_RANGE)

    def _round(self, x: Tensor, clamp: Clamp) -> Tensor:
        low, high = self.limits
        scales = 1 if self.ch_axis is None else max(1, self.scale.numel())
        share = (max(1, x.numel() // scales) * max(1, high)) ** -0.5
        zero_point = self.zero_point
        if self.learn_zero_point:
            zero_point = zero_point.clamp(low, high)
        return round_learned(x, self._positive_scale(), zero_point, (low, high), clamp, self.ch_axis, share)

    def choose(self) -> QParams:
        """The parameters as they are now; `ConfigError` if nothing was seen."""
        if not self.has_range:
            self.observer.name = self.name
            return self.observer.choose()
        low, high = self.limits
        scale = self._positive_scale().detach().clone()
        zero_point = self.zero_point.detach().clamp(low, high).round().to(torch.int32)
        if self.ch_axis is None:
            scale, zero_point = scale.reshape(()), zero_point.reshape(())
        return QParams(scale, zero_point, self.dtype, self.ch_axis, low, high)

    def calculate_qparams(self) -> tuple[Tensor, Tensor]:
        """Scale and zero point as they are now."""
        qparams = self.choose()
        return qparams.scale.reshape(-1), qparams.zero_point.reshape(-1)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        value = state_dict.get(prefix + "scale")
        if isinstance(value, Tensor) and self.ch_axis is not None:
            self.begin(value.numel())
        super()._load_from_state_dict(state_dict, prefix, *args)
