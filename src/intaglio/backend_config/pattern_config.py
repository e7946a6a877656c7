"""`BackendPatternConfig`: what a backend can do with one op, or with ops in a row.

Legacy names and dicts. May import dtype_config, spelling and errors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from enum import Enum
from typing import Any

from torch import nn

from intaglio.backend_config.dtype_config import DTypeConfig
from intaglio.errors import ConfigError
from intaglio.spelling import check_keys

__all__ = ["BackendPatternConfig", "ObservationType", "Pattern", "checked_pattern", "pattern_name"]

Pattern = Any
"""A module class, a function, the name of a method, or a tuple of these, the first first."""

ModuleClass = type[nn.Module] | None


class ObservationType(Enum):
    """Where the parameters of an op's output come from."""

    OUTPUT_USE_DIFFERENT_OBSERVER_AS_INPUT = 0
    OUTPUT_SHARE_OBSERVER_WITH_INPUT = 1
    INPUT_OUTPUT_NOT_OBSERVED = 2


MODULES = {
    "root_module": "root_module",
    "qat_module": "qat_module",
    "reference_quantized_module": "reference_quantized_module_for_root",
    "fused_module": "fused_module",
}
"""Attributes that are module classes or None, and their keys in dicts."""

KEYS = ("pattern", "observation_type", "dtype_configs", *MODULES.values(), "fuser_method")


class BackendPatternConfig:
    """What a backend can do with a pattern: a module class, a function, a method's name, or a tuple of these.

    Each setter gives the config back, so that calls chain, and raises `ConfigError` for what is of the wrong
    kind. Of the modules, only the pattern's own decide how it is quantized: the rules know the rest.

    >>> types = DTypeConfig("uint8", "uint8", "int8")
    >>> config = BackendPatternConfig((nn.Linear, nn.ReLU)).add_dtype_config(types)
    >>> config.observation_type.name
    'OUTPUT_USE_DIFFERENT_OBSERVER_AS_INPUT'
    """

    def __init__(self, pattern: Pattern | None = None) -> None:
        self.pattern: Pattern | None = None if pattern is None else checked_pattern(pattern)
        self.observation_type = ObservationType.OUTPUT_USE_DIFFERENT_OBSERVER_AS_INPUT
        self.dtype_configs: list[DTypeConfig] = []
        self.root_module: ModuleClass = None
        self.qat_module: ModuleClass = None
        self.reference_quantized_module: ModuleClass = None
        self.fused_module: ModuleClass = None
        self.fuser_method: Callable[..., nn.Module] | None = None

    def set_pattern(self, pattern: Pattern) -> BackendPatternConfig:
        """What this config is for.

        >>> BackendPatternConfig().set_pattern(nn.Linear).pattern.__name__
        'Linear'
        """
        self.pattern = checked_pattern(pattern)
        return self

    def set_observation_type(self, observation_type: ObservationType) -> BackendPatternConfig:
        """Where the parameters of the output come from."""
        if not isinstance(observation_type, ObservationType):
            raise ConfigError(f"set_observation_type takes an ObservationType, not {observation_type!r}")
        self.observation_type = observation_type
        return self

    def add_dtype_config(self, dtype_config: DTypeConfig) -> BackendPatternConfig:
        """One more choice of types; a qconfig must fit one of them."""
        self.dtype_configs.append(_checked_dtype_config(dtype_config))
        return self

    def set_dtype_configs(self, dtype_configs: Iterable[DTypeConfig]) -> BackendPatternConfig:
        """All choices of types, instead of those set before."""
        self.dtype_configs = [_checked_dtype_config(found) for found in dtype_configs]
        return self

    def set_root_module(self, root_module: ModuleClass) -> BackendPatternConfig:
        """The class of the pattern's layer with weights; kept and written, but the rules know it."""
        self.root_module = _checked_class("set_root_module", root_module)
        return self

    def set_qat_module(self, qat_module: ModuleClass) -> BackendPatternConfig:
        """The class that trains in the pattern's place; kept and written, but the rules know it."""
        self.qat_module = _checked_class("set_qat_module", qat_module)
        return self

    def set_reference_quantized_module(self, reference_quantized_module: ModuleClass) -> BackendPatternConfig:
        """The class of the quantized reference; kept and written, but the rules know it."""
        self.reference_quantized_module = _checked_class(
            "set_reference_quantized_module", reference_quantized_module
        )
        return self

    def set_fused_module(self, fused_module: ModuleClass) -> BackendPatternConfig:
        """The class that the pattern is fused to; kept and written: what fuses is the fuser method."""
        self.fused_module = _checked_class("set_fused_module", fused_module)
        return self

    def set_fuser_method(self, fuser_method: Callable[..., nn.Module] | None) -> BackendPatternConfig:
        """The function that fuses modules of the pattern: `fuser_method(is_qat, *modules)`, the first first.

        >>> from intaglio.nn import FusedModule
        >>> config = BackendPatternConfig((nn.Linear, nn.ReLU))
        >>> _ = config.set_fuser_method(lambda is_qat, linear, relu: FusedModule(linear, relu))
        """
        if fuser_method is not None and not callable(fuser_method):
            raise ConfigError(f"set_fuser_method takes a function (is_qat, *modules), not {fuser_method!r}")
        self.fuser_method = fuser_method
        return self

    @classmethod
    def from_dict(cls, backend_pattern_config_dict: Mapping[str, Any]) -> BackendPatternConfig:
        """The config that `to_dict` wrote; its dtype configs may be dicts in turn.

        >>> types = {"weight_dtype": "int8"}
        >>> config = BackendPatternConfig.from_dict({"pattern": nn.Linear, "dtype_configs": [types]})
        >>> config.dtype_configs[0].weight_dtype.name
        'int8'
        """
        found = backend_pattern_config_dict
        if not isinstance(found, Mapping):
            raise ConfigError(f"BackendPatternConfig.from_dict takes a dict, not {type(found).__name__}")
        check_keys("the dict of a BackendPatternConfig", found, KEYS)
        config = cls(found.get("pattern"))
        if "observation_type" in found:
            config.set_observation_type(found["observation_type"])
        for item in found.get("dtype_configs", ()):
            config.add_dtype_config(DTypeConfig.from_dict(item) if isinstance(item, Mapping) else item)
        for attribute, key in MODULES.items():
            getattr(config, f"set_{attribute}")(found.get(key))
        return config.set_fuser_method(found.get("fuser_method"))

    def to_dict(self) -> dict[str, Any]:
        """What is set, by the legacy's keys."""
        held: dict[str, Any] = {
            "pattern": self.pattern,
            "observation_type": self.observation_type,
            "dtype_configs": [config.to_dict() for config in self.dtype_configs],
            **{key: getattr(self, attribute) for attribute, key in MODULES.items()},
            "fuser_method": self.fuser_method,
        }
        return {key: value for key, value in held.items() if value is not None}

    def __repr__(self) -> str:
        held = {key: value for key, value in vars(self).items() if value not in (None, [])}
        return f"BackendPatternConfig({held})"


def checked_pattern(pattern: Pattern) -> Pattern:
    """`pattern`, a tuple of one being that one; `ConfigError` if it is none."""
    parts = pattern if isinstance(pattern, tuple) else (pattern,)
    for part in parts or (None,):
        if isinstance(part, tuple):
            raise ConfigError(
                f"the pattern {pattern_name(pattern)} is nested, as the legacy's reversed patterns were: "
                "write a flat tuple, the first op first"
            )
        if isinstance(part, nn.Module):
            name = type(part).__name__
            raise ConfigError(f"a pattern holds a {name} that is made already: pass the class, {name}")
        if not callable(part) and not isinstance(part, str):
            raise ConfigError(
                f"{part!r} is no pattern: use a module class, a function, the name of a method, or a tuple"
            )
    return parts[0] if len(parts) == 1 else pattern


def pattern_name(pattern: Pattern) -> str:
    """A pattern in a message: `Conv2d + ReLU`."""
    parts = pattern if isinstance(pattern, tuple) else (pattern,)
    names = (
        f"({pattern_name(p)})" if isinstance(p, tuple) else getattr(p, "__name__", str(p)) for p in parts
    )
    return " + ".join(names)


def _checked_dtype_config(config: DTypeConfig) -> DTypeConfig:
    if not isinstance(config, DTypeConfig):
        kind = type(config)
        raise ConfigError(
            f"an intaglio.DTypeConfig is wanted, not {kind.__module__}.{kind.__name__}: make one of its types"
        )
    return config


def _checked_class(setter: str, kind: ModuleClass) -> ModuleClass:
    if kind is not None and not (isinstance(kind, type) and issubclass(kind, nn.Module)):
        raise ConfigError(f"{setter} takes a class of modules, not {kind!r}")
    return kind
