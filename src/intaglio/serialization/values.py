"""Arguments of recorded operations and of constructors, as JSON.

JSON's own values stand for themselves; everything else is an object with one key that says what it is:

    {"node": 3}  {"tuple": [..]}  {"slice": [start, stop, step]}  {"dict": {..}}  {"ellipsis": true}
    {"float": "inf"}  {"dtype": "float32"}  {"device": "cpu"}  {"layout": "strided"}  {"memory_format": ".."}

Nothing else can be written or read: no classes, no functions. May import errors.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx

from intaglio.errors import FileFormatError

__all__ = ["UnstorableError", "decode", "encode"]

_SPECIAL_FLOATS = {"inf": math.inf, "-inf": -math.inf, "nan": math.nan}


def _constants_of(kind: type) -> dict[str, Any]:
    return {str(value)[len("torch.") :]: value for value in vars(torch).values() if isinstance(value, kind)}


_TORCH_CONSTANTS = {
    "dtype": _constants_of(torch.dtype),
    "layout": _constants_of(torch.layout),
    "memory_format": _constants_of(torch.memory_format),
    "device": {name: torch.device(name) for name in ("cpu", "meta")},
}


class UnstorableError(Exception):
    """Something of the user's model has no place in a file; the message says what and why."""


def encode(value: Any, index_of: Callable[[fx.Node], int] | None = None) -> Any:
    """`value` as JSON; `index_of` numbers the nodes of a graph. `UnstorableError` for any other type."""
    if isinstance(value, fx.Node) and index_of is not None:
        return {"node": index_of(value)}
    if isinstance(value, float):  # numpy's float64 is one too
        return float(value) if math.isfinite(value) else {"float": str(float(value))}
    if value is None or type(value) in (bool, str):
        return value
    if type(value) is int and abs(value) < 2**63:
        return value
    if value is ...:
        return {"ellipsis": True}
    if type(value) in (tuple, torch.Size, fx.immutable_collections.immutable_list, list):
        items = [encode(item, index_of) for item in value]
        return items if isinstance(value, list) else {"tuple": items}
    if isinstance(value, slice):
        return {"slice": [encode(item, index_of) for item in (value.start, value.stop, value.step)]}
    if isinstance(value, dict) and all(type(key) is str for key in value):
        return {"dict": {key: encode(item, index_of) for key, item in value.items()}}
    for kind, constants in _TORCH_CONSTANTS.items():
        for name, constant in constants.items():
            if type(value) is type(constant) and value == constant:
                return {kind: name}
    raise UnstorableError(f"a value of type {type(value).__name__} ({value!r:.60})")


def decode(value: Any, what: str, nodes: Sequence[fx.Node] = ()) -> Any:
    """The value that `encode` wrote; `FileFormatError`, naming `what`, for anything else."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, list):
        return [decode(item, what, nodes) for item in value]
    if not isinstance(value, dict) or len(value) != 1:
        raise FileFormatError(f"{what} holds {value!r:.80}, which is no value")
    ((kind, content),) = value.items()
    if kind in ("tuple", "slice") and isinstance(content, list):
        items = [decode(item, what, nodes) for item in content]
        if kind == "tuple":
            return tuple(items)
        if len(items) == 3:
            return slice(*items)
    if kind == "dict" and isinstance(content, dict):
        return {key: decode(item, what, nodes) for key, item in content.items()}
    if kind == "node" and type(content) is int and 0 <= content < len(nodes):
        return nodes[content]
    if kind == "ellipsis" and content is True:
        return ...
    if kind == "float" and isinstance(content, str) and content in _SPECIAL_FLOATS:
        return _SPECIAL_FLOATS[content]
    if isinstance(content, str) and content in _TORCH_CONSTANTS.get(kind, {}):
        return _TORCH_CONSTANTS[kind][content]
    raise FileFormatError(f"{what} holds {value!r:.80}, which is no value, or one from a later node")
