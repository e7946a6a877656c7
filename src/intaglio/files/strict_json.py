"""JSON from files that nobody vouches for: parsed within limits, read field by field with its type checked.

`parse_json` refuses what Python's parser would take in silence: repeated keys, NaN and infinity, integers
beyond 64 bits, deep nesting, and texts whose objects would fill the memory. `Fields` reads one object.
May import errors.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from intaglio.errors import FileFormatError

__all__ = ["Fields", "non_negative", "parse_json"]

MAX_DEPTH = 48
MAX_VALUES = 2_000_000
"""Most commas and opening brackets in a text; each may become an object of about a hundred bytes."""

_T = TypeVar("_T")


def parse_json(text: str, what: str) -> Any:
    """The value of a JSON text; `FileFormatError`, naming `what`, if it is not plain, small JSON."""
    if sum(text.count(mark) for mark in ",[{") > MAX_VALUES:
        raise FileFormatError(f"{what} has more than {MAX_VALUES} values: it is damaged or hostile")
    try:
        value = json.loads(
            text,
            object_pairs_hook=_object_without_repeats,
            parse_constant=_refuse_constant,
            parse_int=_parse_int,
            parse_float=_parse_float,
        )
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise FileFormatError(f"{what} is not valid JSON: {reason}") from None
    _check_depth(value, what)
    return value


def _object_without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice[:80]!r} is repeated")
    return found


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON value")


def _parse_int(digits: str) -> int:
    if len(digits) > 20 or abs(int(digits)) >= 2**63:
        raise ValueError(f"the integer {digits[:24]} does not fit 64 bits")
    return int(digits)


def _parse_float(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"the number {digits[:24]} is not finite")
    return value


def _check_depth(value: Any, what: str) -> None:
    level, depth = [value], 0
    while level:
        depth += 1
        if depth > MAX_DEPTH:
            raise FileFormatError(f"{what} is nested deeper than {MAX_DEPTH} levels")
        level = [item for parent in level for item in _items(parent)]


def _items(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        yield from value.values()
    elif isinstance(value, list):
        yield from value


class Fields:
    """One JSON object, read field by field; every wrong type is a `FileFormatError` that names the field.

    `what` says where the object stands, for messages. Fields that are not asked for are ignored, so that a
    newer minor version may add some.
    """

    def __init__(self, value: Any, what: str) -> None:
        if not isinstance(value, dict):
            raise FileFormatError(f"{what} must be a JSON object, not {_kind(value)}")
        self.value: dict[str, Any] = value
        self.what = what

    def text(self, name: str) -> str:
        """A string."""
        return self._get(name, str, "a string")

    def optional_text(self, name: str) -> str | None:
        """A string, or None where the field is absent or null."""
        return None if self.value.get(name) is None else self.text(name)

    def flag(self, name: str, default: bool) -> bool:
        """True or false, or `default` where the field is absent."""
        return self._get(name, bool, "true or false") if name in self.value else default

    def array(self, name: str) -> list[Any]:
        """A list of anything, empty where the field is absent."""
        return self._get(name, list, "an array") if name in self.value else []

    def mapping(self, name: str) -> dict[str, Any]:
        """An object with any values, empty where the field is absent."""
        return self._get(name, dict, "an object") if name in self.value else {}

    def texts(self, name: str) -> dict[str, str]:
        """An object whose values are strings, empty where the field is absent."""
        found = self.mapping(name)
        for key, value in found.items():
            if not isinstance(value, str):
                raise FileFormatError(f"{self.what}: {name}[{key[:80]!r}] must be a string")
        return found

    def each(self, name: str, read: Callable[[Fields], _T]) -> tuple[_T, ...]:
        """`read` of each object of a list."""
        items = enumerate(self.array(name))
        return tuple(read(Fields(item, f"{self.what}: {name}[{index}]")) for index, item in items)

    def integers(self, name: str) -> tuple[int, ...]:
        """A list of integers that are not negative."""
        return non_negative(self.array(name), f"{self.what}: {name!r}")

    def _get(self, name: str, kind: type[_T], expected: str) -> _T:
        if name not in self.value:
            raise FileFormatError(f"{self.what} lacks {name!r}")
        value = self.value[name]
        if type(value) is not kind:
            raise FileFormatError(f"{self.what}: {name!r} must be {expected}, not {_kind(value)}")
        return value


def non_negative(values: Any, what: str) -> tuple[int, ...]:
    """`values` as integers that are not negative; `FileFormatError` if they are something else."""
    if not isinstance(values, list) or any(type(v) is not int or v < 0 for v in values):
        raise FileFormatError(f"{what} must be a list of integers that are not negative")
    return tuple(values)


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "an array", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")
