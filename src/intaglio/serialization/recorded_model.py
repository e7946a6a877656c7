"""A model loaded without its class: a tree of modules, and a forward that is a recorded graph.

`RecordedModel` is the root and `Part` every module whose class the file does not know; both bear that
class's name. A region of a model that `convert_fx` gave is a `torch.fx.GraphModule` again. Graphs become
Python through `torch.fx`, after every name in them has been checked. May import allowed_functions,
recorded_graph, values and errors.
"""

from __future__ import annotations

import keyword
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn

from intaglio.errors import FileFormatError, InputError
from intaglio.files.recorded_graph import Placeholder, RecordedGraph, RegionGraph, Step, Variant
from intaglio.serialization.allowed_functions import ATTRIBUTES, function_called, is_method_allowed
from intaglio.serialization.values import decode

__all__ = ["Part", "PythonCode", "RecordedModel", "build_region"]

_PATH = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_ /+:@-]*(\.[A-Za-z0-9_][A-Za-z0-9_ /+:@-]*)*")


class Part(nn.Module):
    """Holds the children and tensors of a module of the user's; what it computed is in the model's graph."""

    def __init__(self, class_name: str) -> None:
        super().__init__()
        self.class_name = class_name

    def _get_name(self) -> str:
        return self.class_name.rpartition(".")[2]


class RecordedModel(Part):
    """A model whose forward is a recorded graph: for inference, with the arguments of the user's forward.

    Other batch sizes and lengths than those seen before work as far as the user's own code depends on them
    through tensors only; whatever depended on Python's control flow was refused when the file was written.
    Arguments that stood at a default other than None are fixed at it: `InputError` for another value.
    `constants` names the buffers that are the graph's alone.
    """

    def __init__(self, class_name: str, graph: RecordedGraph, constants: frozenset[str]) -> None:
        super().__init__(class_name)
        self.graph = graph
        self.constants = constants
        self._functions: dict[frozenset[str], Callable[..., Any]] = {}
        self._fixed = {a.name: decode(a.default, "a default") for a in graph.arguments if a.kind == "fixed"}

    def build(self, *, modules: frozenset[str], tensors: frozenset[str]) -> None:
        """Make the graph callable; it may call `modules` and read `tensors`, and nothing else of this model.

        Raises `FileFormatError` for a graph that names anything else.
        """
        stand_ins: dict[str, Any] = {name: nn.Identity() for name in modules}
        stand_ins |= {name: torch.empty(0) for name in tensors}
        for variant in self.graph.variants:
            graph = _GraphBuilder(modules, tensors).build(variant, self.graph.inputs_of(variant))
            try:
                function = type(fx.GraphModule(stand_ins, graph)).forward
            except Exception as error:  # a name that torch.fx cannot write as Python
                raise FileFormatError(f"the graph is no program: {type(error).__name__}: {error}") from None
            self._functions[frozenset(variant.given)] = function

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the graph on what the user's forward would take."""
        values = self._bind(args, kwargs)
        given = frozenset(a.name for a in self.graph.arguments if a.kind == "optional" and a.name in values)
        function = self._functions.get(given)
        if function is None:
            raise InputError(self._why_not(given))
        return function(self, *(values[a.name] for a in self.graph.arguments if a.name in values))

    def _bind(self, args: Sequence[Any], kwargs: dict[str, Any]) -> dict[str, Any]:
        """The tensors given, by name; optional ones that are None and fixed ones are left out."""
        arguments = self.graph.arguments
        names = {a.name for a in arguments}
        if len(args) > len(arguments) or not names.issuperset(kwargs):
            raise InputError(f"{self._get_name()} takes ({', '.join(a.name for a in arguments)})")
        values = {a.name: value for a, value in zip(arguments, args, strict=False)} | kwargs
        for argument in arguments:
            value = values.get(argument.name)
            if argument.kind == "fixed":
                self._check_fixed(argument.name, values)
            elif value is None:
                values.pop(argument.name, None)
                if argument.kind == "input":
                    raise InputError(f"{self._get_name()} needs a value for '{argument.name}', not None")
            elif argument.only_tensor and not isinstance(value, Tensor):
                raise InputError(
                    f"{self._get_name()}: '{argument.name}' must be a torch.Tensor, not "
                    f"{type(value).__name__}, as when it was recorded: for others load the file with model="
                )
        return values

    def _check_fixed(self, name: str, values: dict[str, Any]) -> None:
        expected = self._fixed[name]
        if name in values and not (type(values[name]) is type(expected) and values[name] == expected):
            raise InputError(
                f"{self._get_name()} was recorded with {name}={expected!r}: to use another value, "
                "load the file with model=, an instance of its class"
            )
        values.pop(name, None)

    def _why_not(self, given: frozenset[str]) -> str:
        with_these = f"with {', '.join(sorted(given))} given" if given else "with no optional argument given"
        reasons = [reason for names, reason in self.graph.refused if frozenset(names) == given]
        return (
            f"{self._get_name()} was not recorded {with_these}"
            + (f" ({reasons[0]})" if reasons else "")
            + ": load the file with model=, an instance of its class"
        )

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_functions": {}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        steps = [step for variant in self.graph.variants for step in variant.steps]
        self.build(
            modules=frozenset(step.target for step in steps if step.kind == "module"),
            tensors=frozenset(step.target for step in steps if step.kind == "tensor"),
        )


@dataclass(frozen=True)
class PythonCode:
    """What a graph may use of the user's own code: functions and classes, and attributes of the latter."""

    functions: Mapping[str, Callable[..., Any]] = field(default_factory=dict)
    attributes: frozenset[str] = frozenset()


def build_region(
    graph: RegionGraph, *, modules: frozenset[str], tensors: frozenset[str], code: PythonCode
) -> fx.Graph:
    """The `torch.fx` graph of a region, which may name `modules`, `tensors` and `code`, and nothing else.

    Raises `FileFormatError` for a graph that names anything else.
    """
    return _GraphBuilder(modules, tensors, code).build_region(graph)


class _GraphBuilder:
    """Builds a `torch.fx` graph from steps, each of which may name only what is allowed."""

    def __init__(
        self, modules: frozenset[str], tensors: frozenset[str], code: PythonCode | None = None
    ) -> None:
        self._modules = modules
        self._tensors = tensors
        self._code = code or PythonCode()
        self._graph = fx.Graph()
        self._nodes: list[fx.Node] = []

    def build(self, variant: Variant, inputs: Sequence[str]) -> fx.Graph:
        """The graph of a variant with these inputs."""
        for name in inputs:
            self._nodes.append(self._graph.placeholder(_checked_argument(name)))
        return self._build_steps(variant.steps, variant.output)

    def build_region(self, graph: RegionGraph) -> fx.Graph:
        """The graph of a region."""
        _check_order([p.name for p in graph.inputs])
        for placeholder in graph.inputs:
            self._nodes.append(self._placeholder(placeholder))
        return self._build_steps(graph.steps, graph.output)

    def _placeholder(self, placeholder: Placeholder) -> fx.Node:
        stars = re.match(r"\*{0,2}", placeholder.name)
        _checked_argument(placeholder.name[stars.end() if stars else 0 :])
        default = (decode(placeholder.default, "a default"),) if placeholder.has_default else ()
        if default and placeholder.name.startswith("*"):
            raise FileFormatError(f"the graph has a default for {placeholder.name[:80]!r}")
        return self._graph.create_node("placeholder", placeholder.name, default)

    def _build_steps(self, steps: Sequence[Step], output: Any) -> fx.Graph:
        for number, step in enumerate(steps, len(self._nodes)):
            self._nodes.append(self._add(step, f"step {number} of the graph"))
        self._graph.output(decode(output, "the graph's output", self._nodes))
        return self._graph

    def _add(self, step: Step, what: str) -> fx.Node:
        args = tuple(decode(arg, what, self._nodes) for arg in step.args)
        kwargs = {key: decode(value, what, self._nodes) for key, value in (step.kwargs or {}).items()}
        if not all(key.isascii() and key.isidentifier() and not keyword.iskeyword(key) for key in kwargs):
            raise FileFormatError(f"{what} has absurd arguments {[*kwargs]!r:.80}")
        target = step.target
        if step.kind == "module" and target in self._modules and _PATH.fullmatch(target):
            return self._graph.call_module(target, args, kwargs)
        if step.kind == "tensor" and target in self._tensors and _PATH.fullmatch(target):
            return self._graph.create_node("get_attr", target)
        if step.kind == "method" and is_method_allowed(target) and args and isinstance(args[0], fx.Node):
            return self._graph.call_method(target, args, kwargs)
        if (
            step.kind == "attribute"
            and (target in ATTRIBUTES or target in self._code.attributes)
            and len(args) == 1
            and isinstance(args[0], fx.Node)
        ):
            return self._graph.call_function(getattr, (args[0], target))
        function = function_called(target) if step.kind == "function" else None
        if step.kind == "python":
            function = self._code.functions.get(target)
        if function is None:
            raise FileFormatError(
                f"{what} names the {step.kind} {target[:80]!r}, which files may not name, or which torch "
                f"{torch.__version__} does not have"
            )
        return self._graph.call_function(function, args, kwargs)


def _checked_argument(name: str) -> str:
    if not (name.isascii() and name.isidentifier()) or keyword.iskeyword(name) or name == "self":
        raise FileFormatError(f"the graph has an argument called {name[:80]!r}")
    return name


def _check_order(names: Sequence[str]) -> None:
    """Refuse names that stand twice, and a `**` that is not the last."""
    plain = [name.lstrip("*") for name in names]
    starred = [name for name in names if name.startswith("*") and not name.startswith("**")]
    misplaced = any(name.startswith("**") for name in names[:-1])
    if len(set(plain)) < len(plain) or len(starred) > 1 or misplaced:
        raise FileFormatError(f"the graph has impossible arguments {names!r:.80}")
