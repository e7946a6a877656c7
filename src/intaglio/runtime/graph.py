"""The graphs that plans are made of: steps over numbered values, and the layers that they call.

A graph comes from a recipe's JSON or straight from a model; the steps are those of files.recorded_graph, with
their arguments decoded. What a value of torch's own is (a dtype, a device) stands here by its name. May
import files and errors.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from intaglio.errors import FileFormatError
from intaglio.files.recorded_graph import RegionGraph, Step

__all__ = [
    "Graph",
    "Layer",
    "Made",
    "Named",
    "Node",
    "Value",
    "decode_arguments",
    "decode_region",
    "decode_steps",
    "make_objects",
    "map_values",
]


@dataclass(frozen=True)
class Value:
    """The result of an earlier step, or an input: its number."""

    number: int


@dataclass(frozen=True)
class Named:
    """A constant of torch by its name: a dtype, device, layout or memory format."""

    kind: str
    name: str

    def __str__(self) -> str:
        return f"torch.{self.name}"


@dataclass(frozen=True)
class Made:
    """An object of a class of the user's that holds results: made anew of its arguments in each call."""

    make: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]

    def attribute(self, name: str) -> Any:
        """What it will have under a name."""
        return inspect.signature(self.make).bind(*self.args, **self.kwargs).arguments[name]


@dataclass(frozen=True)
class Node:
    """A step with its arguments decoded; `function` is what a step of Python code calls."""

    kind: str
    target: str
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    function: Callable[..., Any] | None = None


@dataclass(frozen=True)
class Graph:
    """Inputs by name, of which those in `defaults` may be left out; steps, and what they return."""

    inputs: tuple[str, ...]  # the rest of the arguments is one input, its name with a star or two
    nodes: tuple[Node, ...]
    output: Any
    defaults: Mapping[str, Any] = field(default_factory=dict)


_Array = np.ndarray[Any, Any]


class Layer:
    """A layer that a graph calls: its kind and configuration, and its plain tensors as numpy arrays.

    `kind` is that of a quantized module, or the class's name of a layer of torch (`torch.nn.GELU`). `graph`
    is what a layer computes that is a graph itself, over layers below its path.
    """

    def __init__(self, path: str, kind: str, config: Mapping[str, Any], arrays: Mapping[str, _Array]) -> None:
        self.path, self.kind, self.config = path, kind, config
        self._arrays = arrays
        self._made: dict[str, Any] = {}

    def array(self, name: str, shape: Sequence[int] | None = None, dtype: str = "float32") -> _Array:
        """A plain tensor; `FileFormatError` if there is none of that name, or it has another shape or type.

        Without `shape` any will do.
        """
        found = self._arrays.get(name)
        if found is None:
            raise FileFormatError(f"module {self.where()} lacks its tensor {name!r}")
        found = np.ascontiguousarray(found) if found.ndim else found
        if shape is not None and (found.shape != tuple(shape) or found.dtype.name != dtype):
            raise FileFormatError(
                f"module {self.where()}: {name} must be {tuple(shape)} {dtype}, the file has {found.shape} "
                f"{found.dtype.name}"
            )
        return found

    def count(self, name: str, least: int = 1) -> int:
        """A number of the configuration; `FileFormatError` if it is none, or less than `least`."""
        value = self.config.get(name)
        if type(value) is not int or value < least:
            raise FileFormatError(f"module {self.where()}: {name} is {value!r:.60}, not at least {least}")
        return value

    def has(self, name: str) -> bool:
        """Whether it has a plain tensor of that name."""
        return name in self._arrays

    def made(self, key: str, make: Callable[[], Any]) -> Any:
        """What `make` gives, made once: packed weights, for all plans."""
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

    def packed(self, name: str, make: Callable[[], _Array]) -> _Array:
        """A packed weight by the name that the quantized module has for it."""
        found: _Array = self.made(name, make)
        return found

    def part(self, name: str, kind: str, config: Mapping[str, Any]) -> Layer:
        """A layer that this one is made of, whose tensors have `name` before theirs."""
        prefix = f"{name}."
        arrays = {k[len(prefix) :]: v for k, v in self._arrays.items() if k.startswith(prefix)}
        made: Layer = self.made(f"part {name}", lambda: Layer(f"{self.path}.{name}", kind, config, arrays))
        return made

    def where(self) -> str:
        """How errors name it."""
        return f"'{self.path}' ({self.kind})" if self.path else self.kind


_SPECIAL_FLOATS = {"inf": math.inf, "-inf": -math.inf, "nan": math.nan}
_NAMED = ("dtype", "device", "layout", "memory_format")


def _decode(value: Any, what: str, count: int) -> Any:
    """A value that a recipe holds, of which at most the first `count` values are known."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, list):
        return [_decode(item, what, count) for item in value]
    if isinstance(value, dict) and len(value) == 1:
        ((kind, content),) = value.items()
        if kind in ("tuple", "slice") and isinstance(content, list):
            items = tuple(_decode(item, what, count) for item in content)
            if kind == "tuple":
                return items
            if len(items) == 3:
                return slice(*items)
        if kind == "dict" and isinstance(content, dict):
            return {key: _decode(item, what, count) for key, item in content.items()}
        if kind == "node" and type(content) is int and 0 <= content < count:
            return Value(content)
        if kind == "ellipsis" and content is True:
            return ...
        if kind == "float" and isinstance(content, str) and content in _SPECIAL_FLOATS:
            return _SPECIAL_FLOATS[content]
        if kind in _NAMED and isinstance(content, str):
            return Named(kind, content)
    raise FileFormatError(f"{what} holds {value!r:.80}, which is no value, or one from a later step")


def decode_arguments(arguments: Mapping[str, Any], what: str) -> dict[str, Any]:
    """The encoded arguments of a layer."""
    return {name: _decode(value, what, 0) for name, value in arguments.items()}


def decode_steps(inputs: Sequence[str], steps: Sequence[Step], output: Any, what: str) -> Graph:
    """The graph of a recipe's steps; `FileFormatError` for values that are none."""
    nodes = []
    for number, step in enumerate(steps, len(inputs)):
        where = f"step {number} of {what}"
        args = tuple(_decode(arg, where, number) for arg in step.args)
        kwargs = {name: _decode(arg, where, number) for name, arg in (step.kwargs or {}).items()}
        nodes.append(Node(step.kind, step.target, args, kwargs))
    count = len(inputs) + len(nodes)
    return Graph(tuple(inputs), tuple(nodes), _decode(output, f"the output of {what}", count))


def decode_region(region: RegionGraph, what: str) -> Graph:
    """The graph of a recipe's region."""
    names = [p.name for p in region.inputs]
    graph = decode_steps(names, region.steps, region.output, what)
    defaults = {p.name: _decode(p.default, what, 0) for p in region.inputs if p.has_default}
    return replace(graph, defaults=defaults)


def map_values(value: Any, change: Callable[[Any], Any]) -> Any:
    """`value` with `change` made to its leaves: what is no list, tuple, dictionary or slice."""
    if isinstance(value, dict):
        return {key: map_values(item, change) for key, item in value.items()}
    if isinstance(value, slice):
        return slice(*(map_values(item, change) for item in (value.start, value.stop, value.step)))
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)._make(map_values(item, change) for item in value)  # type: ignore[attr-defined]
    if isinstance(value, (list, tuple)):
        return type(value)(map_values(item, change) for item in value)
    if isinstance(value, Made):
        return Made(value.make, map_values(value.args, change), map_values(value.kwargs, change))
    return change(value)


def make_objects(value: Any) -> Any:
    """`value` with every `Made` in it called."""
    if isinstance(value, Made):
        return value.make(*make_objects(value.args), **make_objects(value.kwargs))
    if isinstance(value, dict):
        return {key: make_objects(item) for key, item in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*map(make_objects, value))
    return type(value)(map(make_objects, value)) if isinstance(value, (list, tuple)) else value
