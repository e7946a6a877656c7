"""Names that a model's own code looks up, replaced while it is traced.

A stand-in for a tensor must not say that it is one: torch's C++ code would take it at its word, and crash. So
it is `isinstance` that answers otherwise, and only where the code of the modules' own packages asks. May
import nothing from the package.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

__all__ = ["PatchedNames", "classes_of", "is_users", "package_of"]

_NOT_USERS = ("torch", "builtins", "intaglio")
_OWN_MODELS = "intaglio.demo"
_Self = TypeVar("_Self", bound="PatchedNames")


def package_of(name: str) -> str:
    """The package to which the Python module `name` belongs."""
    return _OWN_MODELS if name.startswith(_OWN_MODELS) else name.partition(".")[0]


def is_users(name: str) -> bool:
    """Whether the Python module `name` is neither torch's, Python's built-in one nor the library's own."""
    return package_of(name) not in _NOT_USERS


def classes_of(module: nn.Module, *, inside: bool = True) -> list[type]:
    """The classes of `module`, and of what is `inside`, and their bases, without torch's and Python's."""
    kinds = (kind for part in (module.modules() if inside else [module]) for kind in type(part).__mro__)
    return [kind for kind in dict.fromkeys(kinds) if is_users(kind.__module__)]


class PatchedNames:
    """While it is entered, `isinstance` and `torch.is_tensor` ask `is_instance` in the code of `module`."""

    def __init__(self, module: nn.Module) -> None:
        self._classes = classes_of(module)
        self._undo: list[Callable[[], None]] = []

    def is_instance(self, value: Any, kinds: Any) -> bool:
        """What the code of the module is told when it asks `isinstance(value, kinds)`."""
        raise NotImplementedError

    def __enter__(self: _Self) -> _Self:
        for space in self._namespaces():
            if "isinstance" not in space:
                self._set(space, "isinstance", self.is_instance)
        self._set(vars(torch), "is_tensor", lambda value: self.is_instance(value, Tensor))
        return self

    def __exit__(self, *error: object) -> None:
        for undo in reversed(self._undo):
            undo()
        self._undo.clear()

    def _namespaces(self, filename: str = "") -> Iterator[dict[str, Any]]:
        """The globals of the modules' own packages, and those of the file of that name."""
        packages = {package_of(kind.__module__) for kind in self._classes}
        for name, module in list(sys.modules.items()):
            if not isinstance(module, types.ModuleType):
                continue
            inside = any(name == package or name.startswith(package + ".") for package in packages)
            if inside or (filename and _shares_package(module, filename)):
                yield vars(module)

    def _set(self, space: dict[str, Any], name: str, value: Any) -> None:
        had = name in space
        before = space.get(name)
        space[name] = value

        def undo() -> None:
            if had:
                space[name] = before
            else:
                del space[name]

        self._undo.append(undo)


def _shares_package(module: types.ModuleType, filename: str) -> bool:
    """Whether `module` is the file, or the package that gives out what the file defines."""
    found = getattr(module, "__file__", None)
    if not found:
        return False
    return bool(
        found == filename
        or (found.endswith("__init__.py") and filename.startswith(found[: -len("__init__.py")]))
    )
