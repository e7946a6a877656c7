"""Records a forward pass as a graph: `torch.fx` symbolic tracing, quantized and torch's layers being leaves.

The model that is traced is a copy that shares its tensors, so that tracing leaves no mark on the user's.
Whatever a graph could not reproduce is refused with the reason (`UnstorableError`): decisions that depend on
values, code that a file may not name, tensors changed in place that belong to no module. May import nn,
allowed_functions, traced_values, recorded_graph and values.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from intaglio.files.recorded_graph import Argument, RecordedGraph, Step, Variant
from intaglio.nn.copying import copy_model, share_tensors
from intaglio.serialization.allowed_functions import FACTORIES
from intaglio.serialization.regions import step_of
from intaglio.serialization.traced_values import CarefulProxy, ConcreteCalls, TypeQuestions, is_in_place
from intaglio.serialization.values import UnstorableError, encode

__all__ = ["record_forward"]

_MOST_CHOICES = 8


def record_forward(
    model: nn.Module, leaf_paths: frozenset[str], tensor_names: Mapping[int, str]
) -> tuple[RecordedGraph, dict[str, Tensor]]:
    """The forward of `model`, and the tensors it reads that belong to no module, by the names given to them.

    `leaf_paths` are the modules that a file can rebuild, which are called and not looked into;
    `tensor_names` names the model's parameters and buffers by their identity. Raises `UnstorableError`.
    """
    arguments = tuple(_arguments_of(model))
    constants, only_tensors = _Constants(tensor_names), set[str]()
    memo: dict[int, Any] = {}
    share_tensors(model, memo, attributes=True)
    variants, refused = [], []
    for given in _choices(arguments):
        tracer = _Tracer(leaf_paths, constants, frozenset(memo))
        try:
            variants.append(tracer.record(_copy_to_trace(model, memo), arguments, given))
            only_tensors.update(tracer.asked_for_type)
        except UnstorableError as error:
            refused.append((given, str(error)))
    if not variants:
        raise UnstorableError(refused[0][1] if refused else "its forward takes no arguments")
    arguments = tuple(replace(a, only_tensor=a.name in only_tensors) for a in arguments)
    return RecordedGraph(arguments, tuple(variants), tuple(refused)), constants.used(variants)


def _copy_to_trace(model: nn.Module, memo: Mapping[int, Any]) -> nn.Module:
    try:
        return copy_model(model, dict(memo)).eval()
    except Exception as error:  # a user's class may hold anything, and its copying raise anything
        raise UnstorableError(f"the model cannot be copied ({type(error).__name__}: {error})") from None


def _arguments_of(model: nn.Module) -> Iterator[Argument]:
    for parameter in inspect.signature(model.forward).parameters.values():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue  # recorded as empty
        if parameter.default is parameter.empty:
            yield Argument(parameter.name, "input")
        elif parameter.default is None:
            yield Argument(parameter.name, "optional")
        else:
            try:
                yield Argument(parameter.name, "fixed", encode(parameter.default))
            except UnstorableError as error:
                raise UnstorableError(f"the default of its argument '{parameter.name}' is {error}") from None


def _choices(arguments: tuple[Argument, ...]) -> Iterator[tuple[str, ...]]:
    """Every choice of optional arguments, none first; of many arguments only none, each, and all."""
    optional = [argument.name for argument in arguments if argument.kind == "optional"]
    counts = range(len(optional) + 1) if 2 ** len(optional) <= _MOST_CHOICES else (0, 1, len(optional))
    for count in counts:
        if count or any(argument.kind == "input" for argument in arguments):
            yield from itertools.combinations(optional, count)


class _Constants:
    """Tensors that forwards read though they are no module's parameter or buffer, and their names."""

    def __init__(self, tensor_names: Mapping[int, str]) -> None:
        self._names = dict(tensor_names)
        self._taken = {*tensor_names.values()}
        self._tensors: dict[str, Tensor] = {}

    def name_of(self, tensor: Tensor) -> str:
        """The name of a tensor, given now if it has none."""
        if id(tensor) not in self._names:
            number = next(i for i in itertools.count() if f"constant_{i}" not in self._taken)
            name = self._names[id(tensor)] = f"constant_{number}"
            self._taken.add(name)
            self._tensors[name] = tensor
        return self._names[id(tensor)]

    def is_constant(self, name: str) -> bool:
        """Whether `name` is that of a tensor which belongs to no module."""
        return name in self._tensors

    def used(self, variants: list[Variant]) -> dict[str, Tensor]:
        """Those that any of `variants` reads."""
        read = {step.target for variant in variants for step in variant.steps if step.kind == "tensor"}
        return {name: tensor for name, tensor in self._tensors.items() if name in read}


class _Tracer(fx.Tracer):
    """Traces one variant, on a copy of its own: a forward may keep what it computes.

    `shared` are the identities of the tensors that the copy shares with the user's model.
    """

    def __init__(self, leaf_paths: frozenset[str], constants: _Constants, shared: frozenset[int]) -> None:
        super().__init__(autowrap_functions=tuple(getattr(torch, name) for name in FACTORIES))
        self._autowrap_search.append(torch)  # its factories take sizes, which do not say that they are traced
        self._leaf_paths = leaf_paths
        self._constants = constants
        self._shared = shared
        self._inside: list[str] = []
        self._inputs: set[str] = set()
        self.asked_for_type: set[str] = set()

    def record(self, model: nn.Module, arguments: tuple[Argument, ...], given: tuple[str, ...]) -> Variant:
        """Trace `model`, which may be spoilt, with the optional arguments `given`."""
        self._inputs = {a.name for a in arguments if a.kind == "input"}.union(given)
        before = _state_of(model)
        try:
            with ConcreteCalls(self, self._shared), TypeQuestions(self, model):
                graph = self.trace(model)
        except UnstorableError as error:
            raise UnstorableError(f"{self._where()}: {error}") from None
        except Exception as error:  # a user's forward may raise anything when it meets a proxy
            message = str(error).strip().partition("\n")[0]
            raise UnstorableError(
                f"{self._where()} cannot be traced ({type(error).__name__}: {message})"
            ) from None
        changed = _what_changed(before, _state_of(model))
        if changed:
            raise UnstorableError(f"the forward changes '{changed}', which a recorded graph would not do")
        return self._variant(graph, given)

    def _where(self) -> str:
        path = self._inside[-1] if self._inside else ""
        return f"the forward of '{path}'" if path else "the forward"

    # ---- What torch.fx asks --------------------------------------------------------------------------------

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Quantized modules and whatever a file can rebuild."""
        return module_qualified_name in self._leaf_paths

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Remember which module is being traced, for messages."""
        self._inside.append(self.path_of_module(m))
        result = super().call_module(m, forward, args, kwargs)
        self._inside.pop()
        return result

    def create_args_for_root(self, root_fn: Any, is_module: bool, concrete_args: Any = None) -> Any:
        """The call of the model, hooks and all, as a user would write it: optional arguments by name."""
        args: list[Any] = []
        kwargs: dict[str, Any] = {}
        for parameter in inspect.signature(self.root.forward).parameters.values():
            if parameter.name in self._inputs:
                value: Any = self.create_proxy("placeholder", parameter.name, (), {})
            elif parameter.kind is parameter.POSITIONAL_ONLY:
                value = parameter.default
            else:
                continue
            by_name = (
                parameter.default is not parameter.empty and parameter.kind is not parameter.POSITIONAL_ONLY
            )
            if by_name or parameter.kind is parameter.KEYWORD_ONLY:
                kwargs[parameter.name] = value
            else:
                args.append(value)

        def call(root: nn.Module) -> Any:
            return root(*args, **kwargs)

        return call, [self.root]

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, fx.Proxy]) -> Any:
        """A proxy for each parameter and buffer, under its name in the file."""
        if not isinstance(attr_val, Tensor):
            return attr_val
        name = self._constants.name_of(attr_val)
        if name not in parameter_proxy_cache:
            parameter_proxy_cache[name] = self.create_proxy("get_attr", name, (), {})
        return parameter_proxy_cache[name]

    def proxy(self, node: fx.Node) -> fx.Proxy:
        """A stand-in that is careful about what it says it is."""
        return CarefulProxy(node, self)

    def create_arg(self, a: Any) -> Any:
        """Tensors by the names that the file will have for them, without marking the model."""
        if isinstance(a, fx.Proxy):
            return a.node
        if isinstance(a, Tensor):
            return self.create_node("get_attr", self._constants.name_of(a), (), {})
        return super().create_arg(a)

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        """Refuse what a graph would not repeat: the numerics of an autocast region."""
        if torch.is_autocast_enabled("cpu"):
            raise UnstorableError("it runs under autocast, which a recorded graph would not do")
        return super().create_node(*args, **kwargs)

    # ---- From the graph to the record ----------------------------------------------------------------------

    def _variant(self, graph: fx.Graph, given: tuple[str, ...]) -> Variant:
        numbers: dict[fx.Node, int] = {}
        steps: list[Step] = []
        output: Any = None
        for node in graph.nodes:
            if node.op == "output":
                output = _encode_output(node, numbers)
                continue
            if node.op != "placeholder":
                steps.append(self._step(node, numbers))
            numbers[node] = len(numbers)
        return Variant(given, tuple(steps), output)

    def _step(self, node: fx.Node, numbers: Mapping[fx.Node, int]) -> Step:
        if node.op in ("call_function", "call_method") and node.target is not getattr:
            self._refuse_in_place_constant(node)
        return step_of(node, numbers)

    def _refuse_in_place_constant(self, node: fx.Node) -> None:
        """A tensor made while tracing would be changed again in every call, and shared by their results."""
        name = str(node.target if node.op == "call_method" else getattr(node.target, "__name__", ""))
        first = node.args[0] if node.args else None
        is_constant = (
            isinstance(first, fx.Node)
            and first.op == "get_attr"
            and self._constants.is_constant(str(first.target))
        )
        if node.kwargs.get("out") is not None or (is_constant and is_in_place(name)):
            raise UnstorableError(f"its forward changes a tensor in place that is no input ({name})")


def _encode_output(node: fx.Node, numbers: Mapping[fx.Node, int]) -> Any:
    try:
        return encode(node.args[0], numbers.__getitem__)
    except UnstorableError as error:
        raise UnstorableError(f"what the forward returns is {error}") from None


def _state_of(model: nn.Module) -> dict[str, object]:
    """Everything that modules hold, by path; objects stand for themselves, containers for their contents."""
    found: dict[str, object] = {}
    for path, module in model.named_modules():
        for held in (vars(module), module._parameters, module._buffers, module._modules):
            for name, value in held.items():
                if isinstance(value, dict) and held is vars(module) and name.startswith("_"):
                    continue  # nn.Module's own tables, which are read here one by one
                contents = list(value.values()) if isinstance(value, dict) else value
                found[f"{path}.{name}".lstrip(".")] = [*contents] if isinstance(contents, list) else contents
    return found


def _what_changed(before: Mapping[str, object], after: Mapping[str, object]) -> str | None:
    """The first name under which the two hold different objects."""
    return next(
        (n for n in sorted({*before, *after}) if not _is_same(before.get(n, ...), after.get(n, ...))), None
    )


def _is_same(a: object, b: object) -> bool:
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(x is y for x, y in zip(a, b, strict=True))
    return a is b
