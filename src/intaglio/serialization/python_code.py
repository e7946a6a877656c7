"""Finds again what a file calls of the user's own code, in the float model that the user gives.

A file names functions, but it is the model's code that says which may be called: those that its forwards
name, and these in turn, as far as they belong to the packages of the model's own classes. Nothing is
imported, and no name of the file is looked up anywhere else. May import graph_passes and recorded_model.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import types
from collections.abc import Callable, Iterator
from typing import Any

from torch import nn

from intaglio.graph_passes.patched_names import classes_of, package_of
from intaglio.serialization.recorded_model import PythonCode

__all__ = ["find_method", "reachable_code"]


def reachable_code(model: nn.Module) -> PythonCode:
    """The functions and classes of results that the forwards of `model` name, by their qualified names."""
    return _Search(model).found()


def find_method(module: nn.Module, qualified_name: str) -> Callable[..., Any] | None:
    """The method of that qualified name that the user's class of `module` has, or None."""
    for kind in classes_of(module, inside=False):
        for value in vars(kind).values():
            if isinstance(value, types.FunctionType) and value.__qualname__ == qualified_name:
                return value
    return None


class _Search:
    def __init__(self, model: nn.Module) -> None:
        self._kinds = classes_of(model)
        self._packages = {package_of(kind.__module__) for kind in self._kinds}
        self._named: dict[str, list[Any]] = {}
        self._seen: set[int] = set()
        self._waiting: list[types.FunctionType] = []
        for part in model.modules():
            for value in (type(part).forward, *vars(part).values()):
                self._meet(value)
        while self._waiting:
            self._follow(self._waiting.pop())

    def found(self) -> PythonCode:
        """What was met; of two things that have one name, neither."""
        unique = {name: values[0] for name, values in self._named.items() if len(values) == 1}
        fields = {field for value in unique.values() if isinstance(value, type) for field in _fields(value)}
        return PythonCode(unique, frozenset(fields))

    def _meet(self, value: Any) -> None:
        """Keep a function or a class of results, if it is the user's; look into what wraps or holds some."""
        if id(value) in self._seen:
            return
        if isinstance(value, (staticmethod, classmethod, types.MethodType)):
            self._meet(value.__func__)
        elif isinstance(value, (property, functools.cached_property)):
            self._meet(value.fget if isinstance(value, property) else value.func)
        elif isinstance(value, functools.partial):
            self._meet(value.func)
        elif isinstance(value, (dict, list, tuple)):
            self._seen.add(id(value))
            for item in value.values() if isinstance(value, dict) else value:
                self._meet(item)
        elif isinstance(value, types.FunctionType) or _fields(value):
            self._seen.add(id(value))
            if package_of(str(value.__module__)) not in self._packages:
                return
            self._named.setdefault(f"{value.__module__}.{value.__qualname__}", []).append(value)
            if isinstance(value, types.FunctionType):
                self._waiting.append(value)
                self._meet(inspect.unwrap(value))

    def _follow(self, function: types.FunctionType) -> None:
        """Meet whatever the code of `function` names."""
        names = set(_names_in(function.__code__))
        cells = [cell.cell_contents for cell in function.__closure__ or () if _is_filled(cell)]
        values = [*cells, *(function.__globals__[name] for name in names if name in function.__globals__)]
        for owner in (*self._kinds, *filter(self._is_own_space, values)):
            values += [vars(owner)[name] for name in names if name in vars(owner)]
        for value in values:
            self._meet(value)

    def _is_own_space(self, value: Any) -> bool:
        """Whether `value` is a module or a class of the user's packages."""
        if isinstance(value, types.ModuleType):
            return package_of(value.__name__) in self._packages
        return isinstance(value, type) and package_of(value.__module__) in self._packages


def _names_in(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names_in(constant)


def _fields(value: Any) -> tuple[str, ...]:
    """The names of the fields of a dataclass or a named tuple; none for anything else."""
    if not isinstance(value, type):
        return ()
    if dataclasses.is_dataclass(value):
        return tuple(field.name for field in dataclasses.fields(value))
    named = getattr(value, "_fields", ())
    return tuple(named) if issubclass(value, tuple) else ()


def _is_filled(cell: types.CellType) -> bool:
    try:
        _ = cell.cell_contents
    except ValueError:
        return False
    return True
