"""What every observer is: `ObserverBase`, and `UniformQuantizationObserverBase` for those that find a range.

Also `ObserverFactory`, the recipe of an observer that a `QConfig` holds. Legacy names and meaning: a class
that a user wrote on the legacy bases works on these. May import qparams and errors.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from intaglio.errors import ConfigError
from intaglio.qparams import INT8, UINT8, QParams, QuantizedType, choose_qparams, parse_dtype

__all__ = [
    "AffineQuantizedObserverBase",
    "ObserverBase",
    "ObserverFactory",
    "ObserverWarning",
    "UniformQuantizationObserverBase",
]

MERGED = "merged"
"""Attribute of an observer: of each buffer that adds up, what ranks have merged; gone when it forgets."""

FEW_LEVELS = 16
"""A range of which the values seen reach fewer integers than this is worth a warning."""


class ObserverWarning(UserWarning):
    """What an observer saw will not quantize well, or could not be used; the message names the layer."""


class ObserverFactory:
    """Makes observers of one class with some arguments fixed; equal if class and arguments are equal.

    >>> factory = ObserverBase.with_args(dtype="int8")
    >>> factory == ObserverBase.with_args(dtype="uint8").with_args(dtype="int8")
    True
    """

    def __init__(
        self,
        observer: Callable[..., Any],
        arguments: Mapping[str, Any] | None = None,
        callables: Mapping[str, Callable[[], Any]] | None = None,
    ) -> None:
        self.observer = observer
        self.arguments = dict(arguments or {})
        self.callables = dict(callables or {})

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """A new observer; arguments given here win over those fixed before."""
        made = {name: make() for name, make in self.callables.items() if name not in kwargs}
        return self.observer(*args, **{**self.arguments, **made, **kwargs})

    def with_args(self, **kwargs: Any) -> ObserverFactory:
        """The same with more arguments fixed, or others."""
        return ObserverFactory(self.observer, {**self.arguments, **kwargs}, self.callables)

    def with_callable_args(self, **kwargs: Callable[[], Any]) -> ObserverFactory:
        """The same with arguments that are asked for anew for each observer."""
        return ObserverFactory(self.observer, self.arguments, {**self.callables, **kwargs})

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, ObserverFactory)
            and self.observer == other.observer
            and self.arguments == other.arguments
            and self.callables == other.callables
        )

    def __hash__(self) -> int:
        return hash((self.observer, frozenset(self.arguments), frozenset(self.callables)))

    def __repr__(self) -> str:
        name = getattr(self.observer, "__name__", repr(self.observer))
        shown = [f"{key}={value}" for key, value in (self.arguments | self.callables).items()]
        return f"{name}({', '.join(shown)})"


class ObserverBase(nn.Module):
    """What every observer is: `forward` looks at a tensor, `choose` gives its `QParams`.

    `with_args` makes a factory, so that a `QConfig` holds recipes and each layer gets its own observer.
    `name` is the path of the layer whose values are observed, for messages; `prepare` sets it. A subclass
    defines `choose`, or in the legacy manner `calculate_qparams`.
    """

    dtype: QuantizedType
    name: str = ""

    def __init__(self, dtype: torch.dtype | str | QuantizedType = UINT8, is_dynamic: bool = False) -> None:
        super().__init__()
        self.dtype = parse_dtype(dtype)
        self.is_dynamic = is_dynamic
        self._warned: set[str] = set()

    @classmethod
    def with_args(cls, **kwargs: Any) -> ObserverFactory:
        """A factory of this observer with some of its arguments fixed."""
        return ObserverFactory(cls, kwargs)

    @classmethod
    def with_callable_args(cls, **kwargs: Callable[[], Any]) -> ObserverFactory:
        """A factory that asks for some arguments anew for each observer."""
        return ObserverFactory(cls, None, kwargs)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        """Go to another device, but not to another dtype: in `model.half()` ranges stay float32."""

        def keep_dtype(held: Tensor) -> Tensor:
            made = fn(held)
            return made if made.dtype is held.dtype else held.to(made.device)

        return super()._apply(keep_dtype, recurse)  # type: ignore[no-untyped-call]

    def forward(self, x: Tensor) -> Tensor:
        """Look at `x`, if this observer looks at anything, and give it back."""
        return x

    def choose(self) -> QParams:
        """The parameters for what was seen; `ConfigError` if nothing was."""
        if type(self).calculate_qparams is ObserverBase.calculate_qparams:
            raise ConfigError(
                f"{self.where()} chooses no parameters: it only says how values are to be stored"
            )
        scale, zero_point = self.calculate_qparams()
        axis = getattr(self, "ch_axis", None)
        scale, zero_point = torch.as_tensor(scale).float(), torch.as_tensor(zero_point).to(torch.int32)
        if axis is None or scale.dim() == 0:
            scale, zero_point, axis = scale.reshape(()), zero_point.reshape(()), None
        low, high = getattr(self, "quant_min", None), getattr(self, "quant_max", None)
        return QParams(scale, zero_point, self.dtype, axis, low, high)

    def calculate_qparams(self) -> tuple[Tensor, Tensor]:
        """The legacy form of `choose`: scale `(C,)` float32 and zero point `(C,)` int32, `C` 1 per tensor."""
        qparams = self.choose()
        return qparams.scale.reshape(-1), qparams.zero_point.reshape(-1)

    def where(self) -> str:
        """This observer in a message: its class, and whose values it observes."""
        return f"{type(self).__name__} of '{self.name}'" if self.name else type(self).__name__

    def warn(self, message: str) -> None:
        """Warn, naming the layer; once for each message."""
        if message not in self._warned:
            self._warned.add(message)
            warnings.warn(f"{self.where()}: {message}", ObserverWarning, stacklevel=2)


class UniformQuantizationObserverBase(ObserverBase):
    """An observer that finds a range: `min_val` and `max_val`, `range()`, and from it the parameters.

    Parameters
    ----------
    dtype : {'uint8', 'int8', 'uint4'} or the torch dtype of that name, legacy ones included
    qscheme : a torch.qscheme, or its name; by default what suits `dtype`, symmetric for int8
    reduce_range : ignored: the kernels' sums are exact, so no bit need ever be given up
    quant_min, quant_max : narrower limits of the integers than those of `dtype`
    factory_kwargs : the `device` of the buffers
    eps : the smallest scale; by default any that float32 can invert
    is_dynamic : whether this only says how values are quantized as they come

    Raises `ConfigError` for limits or a scheme that make no sense.
    """

    per_channel: bool = False
    min_val: Tensor
    max_val: Tensor

    def __init__(
        self,
        dtype: torch.dtype | str | QuantizedType = UINT8,
        qscheme: torch.qscheme | str | None = None,
        reduce_range: bool = False,
        quant_min: int | None = None,
        quant_max: int | None = None,
        factory_kwargs: Mapping[str, Any] | None = None,
        eps: float = 0.0,
        is_dynamic: bool = False,
    ) -> None:
        super().__init__(dtype, is_dynamic)
        if qscheme is None:
            kind = "symmetric" if self.dtype is INT8 else "affine"
            qscheme = f"per_{'channel' if self.per_channel else 'tensor'}_{kind}"
        scheme = str(qscheme).removeprefix("torch.")
        self.qscheme = getattr(torch, scheme, scheme)
        self.symmetric = "symmetric" in scheme
        self.reduce_range = reduce_range
        self._check_scheme(scheme)
        self.quant_min, self.quant_max = self._limits(quant_min, quant_max)
        self.eps = float(eps)
        self._device = (factory_kwargs or {}).get("device")
        self.register_buffer("min_val", self._nothing(torch.inf))
        self.register_buffer("max_val", self._nothing(-torch.inf))

    def _check_scheme(self, scheme: str) -> None:
        wanted = "per_channel" if self.per_channel else "per_tensor"
        if not scheme.startswith((f"{wanted}_affine", f"{wanted}_symmetric")):
            raise ConfigError(
                f"{type(self).__name__} has the qscheme {scheme}: use torch.{wanted}_affine or "
                f"torch.{wanted}_symmetric"
            )

    def _limits(self, quant_min: int | None, quant_max: int | None) -> tuple[int, int]:
        low = self.dtype.quant_min if quant_min is None else quant_min
        high = self.dtype.quant_max if quant_max is None else quant_max
        if not (self.dtype.quant_min <= low <= 0 < high <= self.dtype.quant_max):
            raise ConfigError(
                f"{type(self).__name__}: quant_min {low} and quant_max {high} make no sense for "
                f"{self.dtype}: they must hold 0 and lie in {self.dtype.quant_min}..{self.dtype.quant_max}"
            )
        return low, high

    def _nothing(self, value: float) -> Tensor:
        """What `min_val` or `max_val` is before anything was seen."""
        return torch.full((0,) if self.per_channel else (), value, device=self._device)

    @property
    def axis(self) -> int | None:
        """The axis whose every index has parameters of its own, or None."""
        return getattr(self, "ch_axis", None)

    @property
    def has_seen_data(self) -> bool:
        """Whether there is a range to choose from."""
        return self.min_val.numel() > 0 and not bool((self.min_val > self.max_val).all())

    def reset_min_max_vals(self) -> None:
        """Forget what was seen."""
        self.min_val, self.max_val = self._nothing(torch.inf), self._nothing(-torch.inf)
        self._warned.clear()
        vars(self).pop(MERGED, None)

    def range(self) -> tuple[Tensor, Tensor]:
        """The lowest and the highest value to represent; `ConfigError` if nothing was seen."""
        if not self.has_seen_data:
            raise ConfigError(f"{self.where()} has seen no data: run the model on some first")
        unseen = self.min_val > self.max_val
        return self.min_val.masked_fill(unseen, 0.0), self.max_val.masked_fill(unseen, 0.0)

    def choose(self) -> QParams:
        """The parameters for the range seen; warns, naming the layer, of one that is degenerate."""
        if type(self).calculate_qparams is not UniformQuantizationObserverBase.calculate_qparams:
            return super().choose()
        low, high = self.range()
        if not self.per_channel:
            self._warn_of_degenerate_range()
        return self._choose(low, high)

    def _choose(self, low: Tensor, high: Tensor) -> QParams:
        whole = (self.quant_min, self.quant_max) == (self.dtype.quant_min, self.dtype.quant_max)
        try:
            return choose_qparams(
                low.float(),
                high.float(),
                self.dtype,
                symmetric=self.symmetric,
                axis=self.axis,
                quant_min=None if whole else self.quant_min,
                quant_max=None if whole else self.quant_max,
                smallest_scale=self.eps,
            )
        except ConfigError as error:
            raise ConfigError(f"{self.where()}: {error}") from error

    def _warn_of_degenerate_range(self) -> None:
        low, high = float(self.min_val), float(self.max_val)
        span = max(high, 0.0) - min(low, 0.0)
        steps = self.quant_max - self.quant_min
        if span == 0.0:
            self.warn(
                "saw nothing but zeros, so any other value will be cut to zero: calibrate on data that "
                "reaches this layer, or keep it in float"
            )
        elif (high - low) * steps < min(FEW_LEVELS, steps / 2) * span:
            self.warn(
                f"all values seen lie in {low:.6g}..{high:.6g}, so that of the integers from 0 to there only "
                "a few are used: calibrate on data that varies, or keep this layer in float"
            )

    def calculate_qparams(self) -> tuple[Tensor, Tensor]:
        """The legacy form of `choose`: scale `(C,)` float32 and zero point `(C,)`, `C` 1 per tensor.

        The zero point is int32; with `torch.per_channel_affine_float_qparams` it is float32 and zero need
        not be in the range.
        """
        if "float_qparams" not in str(self.qscheme):
            qparams = UniformQuantizationObserverBase.choose(self)
            return qparams.scale.reshape(-1), qparams.zero_point.reshape(-1)
        low, high = self.range()
        scale = (high - low) / float(self.quant_max - self.quant_min)
        scale = torch.where(scale > 0, scale, 1.0)
        return scale, -low / scale

    def _calculate_qparams(self, min_val: Tensor, max_val: Tensor) -> tuple[Tensor, Tensor]:
        """Scale and zero point of a range; what subclasses written for the legacy base call."""
        qparams = self._choose(torch.as_tensor(min_val), torch.as_tensor(max_val))
        return qparams.scale.reshape(-1), qparams.zero_point.reshape(-1)

    def extra_repr(self) -> str:
        """What `print` shows."""
        if self.per_channel:
            return f"{self.dtype}, {self.min_val.numel()} channels seen"
        return f"{self.dtype}, min_val={float(self.min_val):.6g}, max_val={float(self.max_val):.6g}"

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Buffers take the shape of what is loaded; states of every legacy version load."""
        state_dict.pop(prefix + "eps", None)  # an argument of the constructor, which legacy states repeat
        for name, nothing in (("min_val", torch.inf), ("max_val", -torch.inf)):
            # The plural is version 2 of the legacy per-channel observers.
            value = state_dict.pop(prefix + name + "s", state_dict.get(prefix + name))
            if not isinstance(value, Tensor):
                continue
            if not self.per_channel:
                value = value.reshape(()) if value.numel() else self._nothing(nothing)
            state_dict[prefix + name] = value
            setattr(self, name, self._nothing(nothing).new_empty(value.shape))
        super()._load_from_state_dict(state_dict, prefix, *args)


AffineQuantizedObserverBase = UniformQuantizationObserverBase
"""The legacy's later name of the same."""
