"""The arguments of the custom configs' setters, checked. May import spelling and errors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn

from intaglio.errors import ConfigError
from intaglio.spelling import check_keys

__all__ = [
    "check_class",
    "check_name",
    "checked_dict",
    "checked_indexes",
    "checked_list",
    "checked_names",
    "read_classes",
]


def read_classes(found: Mapping[str, Any], key: str, setter: Callable[[Any, Any, Any], Any]) -> None:
    """Call `setter` for each pair of classes under `key`, by the kind of quantization."""
    held = found.get(key, {})
    if not isinstance(held, Mapping) or not all(isinstance(classes, Mapping) for classes in held.values()):
        raise ConfigError(f"{key!r} holds {held!r}: write {{'static': {{FromClass: ToClass}}}}")
    for kind, classes in held.items():
        for source, target in classes.items():
            setter(source, target, kind)


def checked_dict(kind: type[Any], value: Any, keys: Sequence[str]) -> Mapping[str, Any]:
    """`value`, if it is a dict with keys among `keys`, of which a `kind` is made."""
    if not isinstance(value, Mapping):
        raise ConfigError(f"{kind.__name__}.from_dict takes a dict, not {type(value).__name__}")
    check_keys(f"the dict of a {kind.__name__}", value, keys)
    return value


def check_name(where: str, name: Any) -> None:
    """Raise `ConfigError` unless `name` is the path of a module."""
    if not isinstance(name, str) or not name:
        raise ConfigError(f"{where} takes the path of a module as a str, not {name!r}")


def check_class(where: str, kind: Any, method: str | None = None) -> None:
    """Raise `ConfigError` unless `kind` is a class of modules, and one that has `method` if that is given."""
    if not (isinstance(kind, type) and issubclass(kind, nn.Module)):
        raise ConfigError(f"{where} takes a class of modules, not {kind!r}")
    if method is not None and not callable(getattr(kind, method, None)):
        raise ConfigError(
            f"{where}: {kind.__name__} has no {method}: give it a class method {method}(cls, module)"
        )


def checked_list(where: str, wanted: str, values: Any) -> list[Any]:
    """`values` as a list; `ConfigError` unless it is a list or a tuple."""
    if isinstance(values, (str, type)) or not isinstance(values, Sequence):
        raise ConfigError(f"{where} takes a list of {wanted}, not {values!r}: put it in []")
    return list(values)


def checked_names(where: str, names: Any) -> list[str]:
    """`names` as a list of names."""
    found = checked_list(where, "names", names)
    for name in found:
        if not isinstance(name, str) or not name:
            raise ConfigError(f"{where} takes a list of names, but it holds {name!r}")
    return found


def checked_indexes(where: str, indexes: Any) -> list[int]:
    """`indexes` as a list of numbers from 0."""
    found = checked_list(where, "indexes", indexes)
    for index in found:
        if isinstance(index, bool) or not isinstance(index, int) or index < 0:
            raise ConfigError(f"{where} takes a list of indexes from 0, but it holds {index!r}")
    return found
