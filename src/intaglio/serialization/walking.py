"""The modules of a model, each at every path, in the order in which they stand. May import nn and errors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from torch import nn

from intaglio.errors import ConversionError
from intaglio.nn.quantized import QuantizedModule

__all__ = ["Place", "walk_modules"]


class Place(NamedTuple):
    """A module at a path, and the path at which it was met first, if it was."""

    path: str
    module: nn.Module
    same_as: str | None


def walk_modules(model: nn.Module) -> Iterator[Place]:
    """Every place of every module, parents first; quantized and repeated modules are not entered.

    Raises `ConversionError` for a module that holds itself.
    """
    return _walk("", model, {}, set())


def _walk(path: str, module: nn.Module, first: dict[int, str], above: set[int]) -> Iterator[Place]:
    if id(module) in above:
        raise ConversionError(f"module '{path}' holds itself: such a model cannot be saved")
    same_as = first.setdefault(id(module), path)
    yield Place(path, module, None if same_as == path else same_as)
    if same_as != path or isinstance(module, QuantizedModule):
        return
    for name, child in module._modules.items():
        if child is not None:
            yield from _walk(f"{path}.{name}" if path else name, child, first, above | {id(module)})
