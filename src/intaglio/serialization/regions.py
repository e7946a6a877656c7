"""Writes down what `convert_fx` gives: graphs as they are, and the user's code that they call by its name.

Nothing is traced again, so that the checks which tracing left in a graph stay in it. May import graph_passes,
allowed_functions, recorded_graph, recorded_model and values.
"""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx, nn

from intaglio.errors import FileFormatError
from intaglio.files.recorded_graph import Placeholder, RegionGraph, Step
from intaglio.graph_passes.patched_names import is_users
from intaglio.serialization.allowed_functions import ATTRIBUTES, is_method_allowed, name_of_function
from intaglio.serialization.recorded_model import PythonCode, build_region
from intaglio.serialization.values import UnstorableError, encode

__all__ = ["RecordedRegion", "name_of_python", "record_region", "step_of"]


@dataclass(frozen=True)
class RecordedRegion:
    """A graph as a file holds it; `python` says what of the user's own code it needs, None if nothing."""

    graph: RegionGraph
    python: str | None


def record_region(gm: fx.GraphModule) -> RecordedRegion:
    """The graph of `gm`. Raises `UnstorableError`, saying what no file can hold."""
    numbers: dict[fx.Node, int] = {}
    inputs: list[Placeholder] = []
    steps: list[Step] = []
    output: Any = None
    functions: dict[str, Callable[..., Any]] = {}
    attributes: set[str] = set()
    for node in sorted(gm.graph.nodes, key=lambda node: node.op != "placeholder"):
        if node.op == "placeholder":
            default = _encode(node.args[0], numbers, f"the default of '{node.target}'") if node.args else None
            inputs.append(Placeholder(str(node.target), bool(node.args), default))
        elif node.op == "output":
            output = _encode(node.args[0], numbers, "what it returns")
        elif node.op == "call_function" and name_of_function(node.target) is None and _is_named(node.target):
            name = name_of_python(node.target)
            functions[name] = node.target
            steps.append(Step("python", name, *_arguments(node, numbers)))
        elif _reads_other_attribute(node):
            attributes.add(str(node.args[1]))
            steps.append(Step("attribute", str(node.args[1]), _arguments(node, numbers)[0][:1]))
        else:
            steps.append(step_of(node, numbers))
            if node.op == "get_attr":
                _check_tensor(gm, str(node.target))
        numbers[node] = len(numbers)
    graph = RegionGraph(tuple(inputs), tuple(steps), output)
    _check_buildable(graph, PythonCode(functions, frozenset(attributes)))
    needed = [f"calls {name}" for name in functions] + [
        f"reads the attribute {name!r}" for name in attributes
    ]
    return RecordedRegion(graph, f"it {needed[0]}, which stayed Python" if needed else None)


def _is_named(target: Any) -> bool:
    """Whether `target` is a function or a class of results of the user's."""
    is_class = isinstance(target, type) and (dataclasses.is_dataclass(target) or hasattr(target, "_fields"))
    return (is_class or isinstance(target, types.FunctionType)) and is_users(target.__module__)


def _reads_other_attribute(node: fx.Node) -> bool:
    """Whether a step reads what only the user's own classes have."""
    if node.op != "call_function" or node.target is not getattr or len(node.args) != 2:
        return False
    name = str(node.args[1])
    return name not in ATTRIBUTES and name.isidentifier() and not name.startswith("_")


def name_of_python(function: Callable[..., Any]) -> str:
    """The name by which a file calls a function or class of the user's; `UnstorableError` if it has none."""
    name = f"{function.__module__}.{function.__qualname__}"
    if "<" in name:
        raise UnstorableError(
            f"it calls {name}, which cannot be found again: define the function at the top of its file"
        )
    return name


def step_of(node: fx.Node, numbers: Mapping[fx.Node, int]) -> Step:
    """A node that is neither an argument nor the output, as a step; `UnstorableError` if files know none."""
    target = str(node.target)
    if node.op == "get_attr":
        return Step("tensor", target)
    args, kwargs = _arguments(node, numbers)
    if node.op == "call_module":
        return Step("module", target, args, kwargs)
    if node.target is getattr:
        if len(node.args) != 2 or node.args[1] not in ATTRIBUTES:
            raise UnstorableError(f"its forward reads the attribute {node.args[1]!r} of a tensor")
        return Step("attribute", str(node.args[1]), args[:1])
    if node.op == "call_method":
        if not is_method_allowed(target):
            raise UnstorableError(f"its forward calls Tensor.{target}, which files may not name")
        return Step("method", target, args, kwargs)
    assert callable(node.target)
    name = name_of_function(node.target)
    if name is None:
        named = getattr(node.target, "__qualname__", target)
        raise UnstorableError(f"its forward calls {named}, which files may not name")
    return Step("function", name, args, kwargs)


def _arguments(node: fx.Node, numbers: Mapping[fx.Node, int]) -> tuple[list[Any], dict[str, Any]]:
    what = f"an argument of {node.name}"
    args = [_encode(arg, numbers, what) for arg in node.args]
    return args, {key: _encode(arg, numbers, what) for key, arg in node.kwargs.items()}


def _encode(value: Any, numbers: Mapping[fx.Node, int], what: str) -> Any:
    try:
        return encode(value, numbers.__getitem__)
    except UnstorableError as error:
        raise UnstorableError(f"{what} is {error}") from None


def _check_tensor(gm: fx.GraphModule, target: str) -> None:
    owner, _, name = target.rpartition(".")
    module: nn.Module = gm.get_submodule(owner)
    if not isinstance(getattr(module, name, None), Tensor) or name in vars(module):
        raise UnstorableError(f"it reads '{target}', which is no parameter and no buffer")


def _check_buildable(graph: RegionGraph, code: PythonCode) -> None:
    """Raise `UnstorableError` unless the graph can be made again of what is written down."""
    modules = frozenset(step.target for step in graph.steps if step.kind == "module")
    tensors = frozenset(step.target for step in graph.steps if step.kind == "tensor")
    try:
        build_region(graph, modules=modules, tensors=tensors, code=code)
    except FileFormatError as error:
        raise UnstorableError(str(error)) from None
