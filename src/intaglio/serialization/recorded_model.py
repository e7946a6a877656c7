"""A model loaded without its class: a tree of modules, and a forward that is a recorded graph.

`RecordedModel` is the root and `Part` every module whose class the file does not know; both bear that
class's name. The graph becomes Python through `torch.fx`, after every name in it has been checked. May
import allowed_functions, recorded_graph, values and errors.
"""

from __future__ import annotations

import keyword
import re
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from intaglio.errors import FileFormatError, InputError
from intaglio.serialization.allowed_functions import ATTRIBUTES, function_called, is_method_allowed
from intaglio.serialization.recorded_graph import RecordedGraph, Step, Variant
from intaglio.serialization.values import decode

__all__ = ["Part", "RecordedModel"]

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


class _GraphBuilder:
    """Builds a `torch.fx` graph from steps, each of which may name only what is allowed."""

    def __init__(self, modules: frozenset[str], tensors: frozenset[str]) -> None:
        self._modules = modules
        self._tensors = tensors
        self._graph = fx.Graph()
        self._nodes: list[fx.Node] = []

    def build(self, variant: Variant, inputs: Sequence[str]) -> fx.Graph:
        """The graph of a variant with these inputs."""
        for name in inputs:
            if not (name.isascii() and name.isidentifier()) or keyword.iskeyword(name) or name == "self":
                raise FileFormatError(f"the graph has an argument called {name[:80]!r}")
            self._nodes.append(self._graph.placeholder(name))
        for number, step in enumerate(variant.steps, len(inputs)):
            self._nodes.append(self._add(step, f"step {number} of the graph"))
        self._graph.output(decode(variant.output, "the graph's output", self._nodes))
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
            and target in ATTRIBUTES
            and len(args) == 1
            and isinstance(args[0], fx.Node)
        ):
            return self._graph.call_function(getattr, (args[0], target))
        function = function_called(target) if step.kind == "function" else None
        if function is None:
            raise FileFormatError(
                f"{what} names the {step.kind} {target[:80]!r}, which files may not name, or which torch "
                f"{torch.__version__} does not have"
            )
        return self._graph.call_function(function, args, kwargs)
