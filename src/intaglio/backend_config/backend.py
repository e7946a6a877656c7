"""`BackendConfig`: which patterns are quantized, and with which types.

Legacy names and dicts. It can only narrow what the rules can do: a pattern that no rule knows stays float.
May import admission, pattern_config, spelling and errors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import nn

from intaglio.backend_config.admission import Request, patterns_of, why_not_admitted
from intaglio.backend_config.pattern_config import BackendPatternConfig, Pattern, pattern_name
from intaglio.errors import ConfigError
from intaglio.qconfig import QConfigAny
from intaglio.spelling import check_keys

__all__ = ["BackendConfig", "as_backend_config"]

KEYS = ("name", "configs")


class BackendConfig:
    """Which patterns are quantized, and with which types: a `BackendPatternConfig` for each.

    Each setter gives the config back, so that calls chain, and raises `ConfigError` for what is of the wrong
    kind.

    >>> from intaglio.backend_config import DTypeConfig
    >>> linear = BackendPatternConfig(nn.Linear).add_dtype_config(DTypeConfig("uint8", "uint8", "int8"))
    >>> config = BackendConfig("mine").set_backend_pattern_config(linear)
    >>> config.why_refused(nn.Conv2d(3, 4, 1), intaglio.get_default_qconfig())
    "the backend config 'mine' has no pattern Conv2d"
    """

    def __init__(self, name: str = "") -> None:
        self._patterns: dict[Pattern, BackendPatternConfig] = {}
        self.set_name(name)

    def set_name(self, name: str) -> BackendConfig:
        """The name by which messages call this config."""
        if not isinstance(name, str):
            raise ConfigError(f"the name of a BackendConfig is a str, not {name!r}")
        self.name = name
        return self

    def set_backend_pattern_config(self, config: BackendPatternConfig) -> BackendConfig:
        """Set what holds for one pattern, instead of what held before."""
        if not isinstance(config, BackendPatternConfig):
            kind = type(config)
            raise ConfigError(
                f"an intaglio.BackendPatternConfig is wanted, not {kind.__module__}.{kind.__name__}: make "
                "one of its pattern and types"
            )
        if config.pattern is None:
            raise ConfigError("a BackendPatternConfig has no pattern: call its set_pattern first")
        if config.fuser_method is not None and not isinstance(config.pattern, tuple):
            raise ConfigError(
                f"the pattern {pattern_name(config.pattern)} has a fuser method, but is one op: use a "
                "tuple of the ops that are fused"
            )
        self._patterns[config.pattern] = config
        return self

    def set_backend_pattern_configs(self, configs: Iterable[BackendPatternConfig]) -> BackendConfig:
        """Set what holds for several patterns."""
        for config in configs:
            self.set_backend_pattern_config(config)
        return self

    @property
    def configs(self) -> list[BackendPatternConfig]:
        """What is set, in order."""
        return list(self._patterns.values())

    def why_refused(self, module: nn.Module | Pattern, qconfig: QConfigAny) -> str | None:
        """Why this backend does not quantize a module or a pattern as `qconfig` says; None if it does.

        A `FusedModule` is the pattern of its parts' classes; a subclass that keeps its base's forward is its
        base. A qconfig of None asks for nothing, so nothing is refused.

        >>> from intaglio.backend_config import get_native_backend_config
        >>> config = get_native_backend_config()
        >>> config.why_refused((nn.Linear, nn.ReLU), intaglio.get_default_qconfig())
        >>> config.why_refused(nn.Conv2d(3, 4, 1), intaglio.float16_static_qconfig)
        "the backend config 'native' has no types for Conv2d as its qconfig asks: activation is float16, not \
uint8; activation is float16, not int8"
        """
        if qconfig is None:
            return None
        patterns = patterns_of(module)
        config = next((self._patterns[found] for found in patterns if found in self._patterns), None)
        if config is None:
            return f"the backend config {self.name!r} has no pattern {pattern_name(patterns[0])}"
        request = Request.of(patterns[0], qconfig)
        reasons: dict[str, None] = {}
        for dtype_config in config.dtype_configs:
            reason = why_not_admitted(dtype_config, request)
            if reason is None:
                return None
            reasons[reason] = None
        return (
            f"the backend config {self.name!r} has no types for {pattern_name(patterns[0])} as its qconfig "
            f"asks: {'; '.join(reasons) or 'its pattern has no dtype config'}"
        )

    def fuser_methods(self) -> dict[tuple[type[nn.Module], ...], Callable[..., nn.Module]]:
        """The functions that fuse, by the classes of what they fuse: an `additional_fuser_method_mapping`.

        Patterns that hold functions are left out: by the time that ops are fused, functions are modules.

        >>> config = BackendPatternConfig((nn.Linear, nn.ReLU)).set_fuser_method(intaglio.nn.FusedModule)
        >>> BackendConfig().set_backend_pattern_config(config).fuser_methods()[nn.Linear, nn.ReLU].__name__
        'FusedModule'
        """
        return {
            config.pattern: config.fuser_method
            for config in self.configs
            if config.fuser_method is not None
            and isinstance(config.pattern, tuple)
            and all(isinstance(part, type) and issubclass(part, nn.Module) for part in config.pattern)
        }

    @classmethod
    def from_dict(cls, backend_config_dict: Mapping[str, Any]) -> BackendConfig:
        """The config that `to_dict` wrote: a name, and pattern configs or their dicts.

        >>> BackendConfig.from_dict({"name": "mine", "configs": [{"pattern": nn.Linear}]}).name
        'mine'
        """
        if not isinstance(backend_config_dict, Mapping):
            kind = type(backend_config_dict).__name__
            raise ConfigError(f"BackendConfig.from_dict takes a dict, not {kind}")
        check_keys("the dict of a BackendConfig", backend_config_dict, KEYS)
        found = backend_config_dict.get("configs", ())
        return cls(backend_config_dict.get("name", "")).set_backend_pattern_configs(
            BackendPatternConfig.from_dict(item) if isinstance(item, Mapping) else item for item in found
        )

    def to_dict(self) -> dict[str, Any]:
        """The name and the dict of each pattern's config."""
        return {"name": self.name, "configs": [config.to_dict() for config in self.configs]}

    def __repr__(self) -> str:
        return f"BackendConfig({self.name!r}, {len(self._patterns)} patterns)"


def as_backend_config(value: BackendConfig | Mapping[str, Any] | None) -> BackendConfig | None:
    """The config that a user passed, as it is, as a dict, or None; `ConfigError` for anything else.

    >>> as_backend_config({"name": "mine"}).name
    'mine'
    """
    if value is None or isinstance(value, BackendConfig):
        return value
    if not isinstance(value, Mapping):
        raise ConfigError(
            f"a BackendConfig is wanted, not {type(value).__module__}.{type(value).__name__}: pass "
            "intaglio.backend_config.get_native_backend_config(), or an intaglio.BackendConfig of your own"
        )
    return BackendConfig.from_dict(value)
