"""`FakeQuantize`: what a quantized value would be, in float, while a model trains.

A fake quantizer is an observer that also rounds: `forward` looks at a tensor and gives it back as integers
would represent it; gradients pass straight through wherever nothing is cut off. `convert` takes its
parameters as they are, so that what was trained is what runs. May import straight_through, observer, ops,
qparams and errors.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from intaglio.errors import ConfigError, TrainingError
from intaglio.fake_quantize.dynamic import round_table_rows
from intaglio.fake_quantize.straight_through import (
    OPEN,
    Clamp,
    is_for_kernels,
    keep_gradient,
    round_observed,
    round_rows,
    round_values,
    round_weight,
)
from intaglio.fake_quantize.switchable import ROUNDED_BY, FakeQuantizeBase
from intaglio.observer import (
    MovingAverageMinMaxObserver,
    MovingAveragePerChannelMinMaxObserver,
    ObserverBase,
    PerChannelMinMaxObserver,
    UniformQuantizationObserverBase,
)
from intaglio.observer.min_max import NOT_FINITE
from intaglio.ops.reference_fake_quantize import moved_range, range_parameters, symmetric_scale
from intaglio.qparams import (
    QParams,
)
from intaglio.untraced import untraced

__all__ = ["FakeQuantize"]


class FakeQuantize(FakeQuantizeBase):
    """Rounds values to the integers of the range that an observer found.

    `y = (clamp(round(x / scale) + zero_point, quant_min, quant_max) - zero_point) * scale`. In training mode
    the observer sees each tensor first. In eval mode nothing is changed, except that data which comes before
    any other, or while fake quantization is disabled, is observed: so a prepared model can be calibrated in
    eval mode. NaN stays NaN and moves no range.

    Parameters
    ----------
    observer : an observer class or factory
        `MovingAverageMinMaxObserver` by default; with `averaging_constant=1` it finds each tensor's range.
    quant_min, quant_max : int, optional
        Limits of the integers, where narrower than those of the observer's dtype: -8 and 7 give 4 bits.
    is_dynamic : bool
        Values get a range of their own for each row, when they come.
    observer_kwargs
        Arguments of the observer.

    Attributes
    ----------
    scale, zero_point : Tensor
        `(1,)`, or one for each channel; float32 and int32 buffers.

    Examples
    --------
    >>> rounded = FakeQuantize(dtype="uint8")(torch.tensor([0.0, 0.3, 2.55]))
    >>> [round(value, 4) for value in rounded.tolist()]
    [0.0, 0.3, 2.55]
    """

    scale: Tensor
    zero_point: Tensor

    def __init__(
        self,
        observer: Callable[..., Any] = MovingAverageMinMaxObserver,
        quant_min: int | None = None,
        quant_max: int | None = None,
        is_dynamic: bool = False,
        **observer_kwargs: Any,
    ) -> None:
        limits = {"quant_min": quant_min, "quant_max": quant_max}
        given = {name: limit for name, limit in limits.items() if limit is not None}
        held = observer(**observer_kwargs, **given)
        if not isinstance(held, ObserverBase):
            raise ConfigError(f"FakeQuantize takes an observer, not {type(held).__name__}")
        super().__init__(held.dtype, is_dynamic)
        self.activation_post_process = held
        self._recipe = (observer, observer_kwargs | given)
        self.ch_axis: int | None = getattr(held, "ch_axis", None)
        self.register_buffer("scale", torch.ones(1))
        self.register_buffer("zero_point", torch.zeros(1, dtype=torch.int32))
        self._take(None)

    @property
    def observer(self) -> ObserverBase:
        """What finds the range."""
        held = self.activation_post_process
        assert isinstance(held, ObserverBase)
        return held

    def new_observer(self) -> ObserverBase:
        """An observer as this one has, that has seen nothing."""
        observer, arguments = self._recipe
        made: ObserverBase = observer(**arguments)
        return made

    @property
    def is_per_channel(self) -> bool:
        """Whether each index of `ch_axis` has parameters of its own."""
        return self.ch_axis is not None

    @property
    def qscheme(self) -> Any:
        """The observer's scheme."""
        return getattr(self.observer, "qscheme", None)

    @property
    def rounds_rows(self) -> bool:
        """Whether each row is rounded by itself, as a table of embeddings is: no parameters are held."""
        return "float_qparams" in str(self.qscheme)

    @property
    def limits(self) -> tuple[int, int]:
        """The smallest and the largest integer, by reach alike in a symmetric scheme."""
        observer = self.observer
        low = getattr(observer, "quant_min", None)
        high = getattr(observer, "quant_max", None)
        low = self.dtype.quant_min if low is None else low
        high = self.dtype.quant_max if high is None else high
        if not getattr(observer, "symmetric", False):
            return low, high
        reach = min(-low, high) if low < 0 else (high - low) // 2
        middle = 0 if low < 0 else high - reach
        return middle - reach, middle + reach

    @property
    def quant_min(self) -> int:
        """The smallest integer."""
        return self.limits[0]

    @property
    def quant_max(self) -> int:
        """The largest integer."""
        return self.limits[1]

    def forward(self, x: Tensor) -> Tensor:
        """Observe and round `x`, of any shape and float dtype, as far as both are enabled."""
        return self.rounded(x)

    def rounded(self, x: Tensor, clamp: Clamp = OPEN) -> Tensor:
        """`forward(clamp(x))` in one pass: an activation that only clamps costs nothing beside rounding."""
        if x.dtype is not torch.float32:
            return self._rounded(x.float(), clamp).to(x.dtype)
        y = self._rounded(x, clamp)
        if y is not x and not torch.compiler.is_compiling():
            vars(y)[ROUNDED_BY] = self
        return y

    def round_again(self, x: Tensor) -> Tensor:
        """`x` rounded by the parameters as they are, observing nothing; as it is where nothing is rounded."""
        if not self._rounds() or not self.has_range or x.dtype is not torch.float32:
            return x
        y = self._round(x, OPEN)
        vars(y)[ROUNDED_BY] = self
        return y

    def _rounded(self, x: Tensor, clamp: Clamp) -> Tensor:
        if self.rounds_rows:
            return keep_gradient(x, round_table_rows(x.detach(), self.dtype)) if self._rounds() else x
        if torch.compiler.is_compiling():
            return self._traced(x, clamp)
        looks, rounds = self._looks(), self._rounds()
        if looks and x.numel() and self._moves() and is_for_kernels(x):
            if self.ch_axis is None:
                return self._moved_by_kernel(x, clamp, rounds)
            if self.is_own_range and self.ch_axis == 0:
                return self._own_by_kernel(x, rounds)
        if looks:
            self._observe(x.detach(), clamp)
        if not rounds or not self.has_range:
            return x if clamp == OPEN else torch.clamp(x, *clamp)
        return self._round(x, clamp)

    @property
    def is_repeatable(self) -> bool:
        """Whether rounding a tensor twice gives the same twice, and leaves this as it is."""
        return self.is_own_range or not self._looks()

    @property
    def follows_data(self) -> bool:
        """Whether training moves the range with the data that comes: each rank has its own."""
        return self._moves() and not self.is_own_range and bool(self.observer_enabled)

    def take_range(self) -> None:
        """Round by what the observer holds now."""
        if self.has_range:
            self._take(self.observer.choose())

    # ---- When ----------------------------------------------------------------------------------------------

    @property
    def has_range(self) -> bool:
        """Whether anything was seen to take a range from."""
        observer = self.observer
        return observer.has_seen_data if isinstance(observer, UniformQuantizationObserverBase) else True

    def _rounds(self) -> bool:
        return bool(self.fake_quant_enabled)

    def _looks(self) -> bool:
        if not bool(self.observer_enabled):
            return False
        return self.training or self.is_own_range or not self._rounds() or not self.has_range

    def _moves(self) -> bool:
        """Whether the range is a moving average, and nothing but."""
        return type(self.observer) in (MovingAverageMinMaxObserver, MovingAveragePerChannelMinMaxObserver)

    @property
    def is_own_range(self) -> bool:
        """Whether the range is that of the last tensor alone: a weight's, there whenever it is asked for."""
        return self._moves() and getattr(self.observer, "averaging_constant", 0.0) == 1.0

    # ---- Kernels -------------------------------------------------------------------------------------------

    def _moved_by_kernel(self, x: Tensor, clamp: Clamp, rounds: bool) -> Tensor:
        observer = self.observer
        assert isinstance(observer, MovingAverageMinMaxObserver)
        held = (observer.min_val, observer.max_val, self.scale, self.zero_point)
        y, is_finite = round_observed(
            x,
            held,
            observer.averaging_constant,
            (observer.quant_min, observer.quant_max),
            observer.symmetric,
            observer.eps,
            clamp,
            rounds=rounds,
        )
        if not is_finite:
            self.warn(NOT_FINITE)
        if y is not None:
            return y
        return x if clamp == OPEN else torch.clamp(x, *clamp)

    def _own_by_kernel(self, x: Tensor, rounds: bool) -> Tensor:
        observer = self.observer
        assert isinstance(observer, PerChannelMinMaxObserver)
        if not observer.symmetric or observer.eps > 0.0:
            self._observe(x.detach(), OPEN)
            return self._round(x, OPEN) if rounds else x
        self._hold(len(x))
        y, row = round_weight(x, (observer.min_val, observer.max_val, self.scale), self.limits[1])
        if row >= 0:
            raise self._not_finite(row)
        return y if rounds else x

    def _hold(self, channels: int) -> None:
        """Have buffers for this many channels; those that fit stay the same tensors."""
        observer = self.observer
        assert isinstance(observer, PerChannelMinMaxObserver)
        for owner, name, value in (
            (observer, "min_val", torch.inf),
            (observer, "max_val", -torch.inf),
            (self, "scale", 1.0),
            (self, "zero_point", 0),
        ):
            buffer = owner._buffers[name]
            assert buffer is not None
            if buffer.shape != (channels,):
                owner._buffers[name] = buffer.new_full((channels,), value)

    def _check_finite(self, weight: Tensor) -> None:
        """Raise `TrainingError`, naming the channel, for a weight that holds NaN or infinity."""
        if weight.numel() and not all(math.isfinite(float(end)) for end in torch.aminmax(weight.detach())):
            finite = torch.isfinite(weight.detach())
            channels = (
                finite.movedim(self.ch_axis or 0, 0).flatten(1) if weight.dim() > 1 else finite[:, None]
            )
            raise self._not_finite(int((~channels.all(1)).nonzero()[0]))

    def _not_finite(self, row: int) -> TrainingError:
        return TrainingError(
            f"'{self.name}': channel {row} of the weight holds NaN or infinity: the last step went wrong. Go "
            "back to the last checkpoint; lower the learning rate, clip the gradients, or, if the loss is "
            "scaled, let torch.amp.GradScaler leave out steps that overflow (intaglio.check_training names "
            "the gradients that are not finite before a step does harm)"
        )

    # ---- Plain torch ---------------------------------------------------------------------------------------

    def _traced(self, x: Tensor, clamp: Clamp) -> Tensor:
        """As `_rounded`, with no branch on a buffer: for `torch.compile`."""
        plain = x if clamp == OPEN else torch.clamp(x, *clamp)
        observer = self.observer
        if self._moves() and isinstance(observer, UniformQuantizationObserverBase):
            self._move_traced(x.detach(), clamp, observer)
            seen = (observer.min_val <= observer.max_val).all()
        elif self.training:
            made: Tensor = self._rounded_by_hand(x, clamp)
            return made
        else:
            seen = torch.ones((), dtype=torch.bool, device=x.device)
        rounds = (self.fake_quant_enabled == 1) & seen
        return torch.where(rounds, self._round(x, clamp), plain)

    @untraced
    def _rounded_by_hand(self, x: Tensor, clamp: Clamp) -> Tensor:
        return self._rounded(x, clamp)

    def _move_traced(self, x: Tensor, clamp: Clamp, observer: Any) -> None:
        constant = observer.averaging_constant
        looks = self.observer_enabled == 1
        if not self.training and not self.is_own_range:
            looks = looks & ((self.fake_quant_enabled == 0) | (observer.min_val > observer.max_val).any())
        if self.ch_axis is None:
            found = moved_range(x, observer.min_val, observer.max_val, constant, *clamp)
            for held, value in zip((observer.min_val, observer.max_val), found, strict=True):
                held.copy_(torch.where(looks.reshape(()), value, held))
        else:
            if observer.min_val.numel() == 0:
                self._hold(x.shape[self.ch_axis])
            rows = x.movedim(self.ch_axis, 0).flatten(1)
            ends = torch.aminmax(rows, dim=1)
            for held, value in ((observer.min_val, ends.min), (observer.max_val, ends.max)):
                unseen = torch.isinf(held)
                moved = torch.where(unseen, value, held + constant * (value - held))
                held.copy_(torch.where(looks, moved, held))
        scale, zero_point = self._traced_parameters(observer)
        self.scale.copy_(scale)
        self.zero_point.copy_(zero_point)

    def _traced_parameters(self, observer: UniformQuantizationObserverBase) -> tuple[Tensor, Tensor]:
        if observer.symmetric:
            low, high = self.limits
            reach = torch.maximum(-observer.min_val.clamp(max=0.0), observer.max_val.clamp(min=0.0))
            scale = symmetric_scale(
                torch.where(torch.isinf(reach), 1.0, reach), (high - low) // 2, observer.eps
            )
            return scale, torch.full_like(self.zero_point, (low + high) // 2)
        return range_parameters(observer.min_val, observer.max_val, *self.limits, observer.eps)

    def _observe(self, x: Tensor, clamp: Clamp) -> None:
        """Show `x` to the observer and take its parameters."""
        observer = self.observer
        observer.name = self.name
        if self.is_own_range:
            self._check_finite(x)
        observer(x if clamp == OPEN else torch.clamp(x, *clamp))
        if self.has_range:
            self._take(observer.choose())

    def _take(self, qparams: QParams | None) -> None:
        """Round by these parameters from now on, without new buffers where the old ones fit."""
        if qparams is None:
            observer = self.observer
            if isinstance(observer, UniformQuantizationObserverBase):
                return
            try:
                qparams = observer.choose()
            except ConfigError:
                return
        for name, value in (("scale", qparams.scale), ("zero_point", qparams.zero_point)):
            value, held = value.detach().reshape(-1), self._buffers[name]
            assert held is not None
            if held.shape == value.shape:
                held.copy_(value)
            else:
                self._buffers[name] = value.to(held.device, held.dtype)

    def _round(self, x: Tensor, clamp: Clamp) -> Tensor:
        if self.ch_axis is None:
            return round_values(x, self.scale, self.zero_point, self.limits, clamp)
        return round_rows(x, self.scale, self.zero_point, self.limits, self.ch_axis)

    # ---- What it found -------------------------------------------------------------------------------------

    def choose(self) -> QParams:
        """The parameters by which values are rounded; `ConfigError` if nothing was seen."""
        if self.rounds_rows:
            return self.observer.choose()
        if not self.has_range:
            self.observer.name = self.name
            return self.observer.choose()  # which says what is missing
        low, high = self.limits
        whole = (low, high) == (self.dtype.quant_min, self.dtype.quant_max)
        limits = (None, None) if whole else (low, high)
        scale, zero_point = self.scale.detach().clone(), self.zero_point.detach().clone()
        if self.ch_axis is None:
            scale, zero_point = scale.reshape(()), zero_point.reshape(())
        return QParams(scale, zero_point, self.dtype, self.ch_axis, *limits)

    def calculate_qparams(self) -> tuple[Tensor, Tensor]:
        """Scale and zero point as the observer has them now."""
        return self.observer.calculate_qparams()

    def extra_repr(self) -> str:
        """What `print` shows."""
        low, high = self.limits
        axis = "" if self.ch_axis is None else f", ch_axis={self.ch_axis}"
        return (
            f"{self.dtype}, {low}..{high}{axis}, fake_quant_enabled={int(self.fake_quant_enabled)}, "
            f"observer_enabled={int(self.observer_enabled)}"
        )

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        for name in ("scale", "zero_point"):
            value, held = state_dict.get(prefix + name), self._buffers.get(name)
            if isinstance(value, Tensor) and held is not None and held.shape != value.reshape(-1).shape:
                self._buffers[name] = held.new_empty(value.reshape(-1).shape)
            if isinstance(value, Tensor) and held is not None:
                state_dict[prefix + name] = value.reshape(-1)
        super()._load_from_state_dict(state_dict, prefix, *args)
