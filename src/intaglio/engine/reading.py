"""Reads a live model as a `Model`: its graphs, and its layers with the weights that they have packed.

Nothing is copied: a program's weights are the model's. May import serialization, nn, runtime and errors.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from intaglio.errors import ConversionError, FileFormatError
from intaglio.files.recipe import GRAPH_CLASS
from intaglio.graph_passes.examples import Call, vary_sizes
from intaglio.graph_passes.tracer import Treatment
from intaglio.graph_passes.tracing import trace_model
from intaglio.nn.copying import copy_model, share_tensors
from intaglio.nn.quantized import QuantizedModule
from intaglio.runtime.graph import Graph, Layer, Named, Node, Value, decode_arguments, map_values
from intaglio.runtime.model import Layers, Model, model_of_layer, model_of_recorded, model_of_region
from intaglio.serialization.allowed_functions import name_of_function
from intaglio.serialization.known_layers import describe_layer, is_known_class, qualified_name
from intaglio.serialization.recorded_model import RecordedModel
from intaglio.serialization.tracing import record_forward
from intaglio.serialization.values import UnstorableError
from intaglio.serialization.walking import walk_modules

__all__ = ["LiveLayer", "read_model"]


class LiveLayer(Layer):
    """A layer of a model in memory."""

    def __init__(self, path: str, module: nn.Module, kind: str, config: Mapping[str, Any]) -> None:
        super().__init__(path, kind, config, {})
        self.module = module
        # As they are now: what is loaded into the model later is of no program that was compiled before.
        self._held: dict[str, Tensor | None] = {**module._parameters, **module._buffers}

    def _tensor(self, name: str) -> Tensor | None:
        """A parameter or buffer, or a plain tensor that only unpacking gives."""
        own = self._held.get(name)
        if own is not None or not isinstance(self.module, QuantizedModule):
            return own
        if name not in self.module.state_spec():
            return None
        return self.made("plain state", self.module.plain_state).get(name)  # type: ignore[no-any-return]

    def array(
        self, name: str, shape: Sequence[int] | None = None, dtype: str = "float32"
    ) -> np.ndarray[Any, Any]:
        """A plain tensor, whose shape the module has seen to, or a constant of the forward."""
        if name in self._arrays:
            return self._arrays[name]
        found = self._tensor(name)
        if found is None:
            raise FileFormatError(f"{self.where()} has no tensor {name!r}")
        array: np.ndarray[Any, Any] = found.detach().numpy()
        return array

    def has(self, name: str) -> bool:
        """Whether it has a plain tensor of that name."""
        return name in self._arrays or self._tensor(name) is not None

    def part(self, name: str, kind: str, config: Mapping[str, Any]) -> Layer:
        """The layer of a child module."""
        child = self.module.get_submodule(name)
        made: Layer = self.made(f"part {name}", lambda: LiveLayer(f"{self.path}.{name}", child, kind, config))
        return made

    def packed(self, name: str, make: Callable[[], np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
        """The module's own packed weight."""
        buffer = self._held.get(name)
        if buffer is None:
            return super().packed(name, make)
        array: np.ndarray[Any, Any] = buffer.numpy()
        return array


def read_model(model: nn.Module, example: Call | None = None) -> tuple[Model, dict[str, nn.Module]]:
    """The model, and its modules by path.

    A forward that decides by what it is given can be read along an example call. `ConversionError` where it
    cannot become a graph.
    """
    try:
        return _read(model)
    except UnstorableError as error:
        name, why = type(model).__name__, str(error)
    if example is None:
        raise ConversionError(
            f"{name} cannot be compiled as it is: {why}. Pass example_inputs, along which its "
            "forward is traced"
        )
    memo: dict[int, Any] = {}
    share_tensors(model, memo, attributes=True)
    traced = trace_model(copy_model(model, memo), vary_sizes(model, example), _treatment)
    if not isinstance(traced.model, fx.GraphModule):
        reasons = "; ".join(f"'{path}': {reason}" for path, reason in traced.left.items())
        raise ConversionError(f"{name} cannot be compiled, for not all of it can become a graph: {reasons}")
    return _read(traced.model, name)


def _treatment(module: nn.Module, path: str) -> Treatment:
    """What tracing does with a module: layers are called, all others looked into."""
    is_layer = isinstance(module, QuantizedModule) or (is_known_class(module) and not any(module.children()))
    return "leaf" if is_layer else "inside"


def _read(model: nn.Module, name: str = "") -> tuple[Model, dict[str, nn.Module]]:
    """The same where the forward is a graph whatever it is given; `UnstorableError` where it is none."""
    layers: dict[str, Layer] = {}
    modules: dict[str, nn.Module] = {}
    aliases: dict[str, str] = {}
    graphs: dict[str, Graph] = {}
    opaque: dict[str, str] = {}
    for path, module, same_as in walk_modules(model):
        if same_as is not None:
            aliases[path], layers[path] = same_as, layers[same_as]
            continue
        modules[path] = module
        layers[path] = _layer(path, module, opaque)
        if isinstance(module, fx.GraphModule):
            graphs[path] = read_graph(module)
    found = Layers(layers, aliases)
    name = name or type(model).__name__
    if "" in graphs:
        return model_of_region(name, found, graphs), modules
    if isinstance(model, RecordedModel):
        return model_of_recorded(model._get_name(), found, graphs, model.graph), modules
    if isinstance(model, (QuantizedModule, nn.Sequential)) and not opaque:
        return model_of_layer(name, found, graphs), modules
    leaves = frozenset(p for p in layers if p and p not in aliases and not _is_around(p, opaque))
    names = {id(t): n for n, t in itertools.chain(model.named_parameters(), model.named_buffers())}
    recorded, constants = record_forward(model, leaves, names)
    root = layers[""]
    assert isinstance(root, LiveLayer)
    for constant, tensor in constants.items():
        root._arrays = {**root._arrays, constant: tensor.detach().numpy()}
    return model_of_recorded(name, found, graphs, recorded), modules


def _is_around(path: str, opaque: Mapping[str, str]) -> bool:
    """Whether a module is one that must be looked into, or holds one."""
    return any(other == path or other.startswith(f"{path}.") for other in opaque)


def _layer(path: str, module: nn.Module, opaque: dict[str, str]) -> Layer:
    if isinstance(module, QuantizedModule):
        # No lowering knows what hooks do: torch calls such a module.
        has_hooks = any(part._forward_hooks or part._forward_pre_hooks for part in module.modules())
        kind = f"{module.kind} with hooks" if has_hooks else module.kind
        return LiveLayer(path, module, kind, module.config())
    if isinstance(module, fx.GraphModule):
        return LiveLayer(path, module, GRAPH_CLASS, {})
    config: Mapping[str, Any] = {}
    if is_known_class(module):
        try:
            config = decode_arguments(describe_layer(module), path)
        except UnstorableError as error:
            opaque[path] = str(error)
    else:
        opaque[path] = f"{type(module).__name__} is no layer that is known"
    return LiveLayer(path, module, qualified_name(module), config)


# ---- Graphs --------------------------------------------------------------------------------------------

_KINDS = {"call_module": "module", "get_attr": "tensor", "call_method": "method"}


def read_graph(gm: fx.GraphModule) -> Graph:
    """The graph of a `GraphModule`, with the functions that it calls."""
    numbers: dict[fx.Node, int] = {}
    inputs: list[str] = []
    defaults: dict[str, Any] = {}
    nodes: list[Node] = []
    output: Any = None

    def known(leaf: Any) -> Any:
        if isinstance(leaf, fx.Node):
            return Value(numbers[leaf])
        return _named(leaf)

    for node in sorted(gm.graph.nodes, key=lambda node: node.op != "placeholder"):
        args, kwargs = map_values(tuple(node.args), known), map_values(dict(node.kwargs), known)
        target = str(node.target)
        if node.op == "placeholder":
            inputs.append(target)
            if args:
                defaults[inputs[-1]] = args[0]
        elif node.op == "output":
            output = args[0]
            break
        elif node.op == "call_function" and node.target is getattr:
            nodes.append(Node("attribute", str(args[1]), args[:1]))
        elif node.op == "call_function":
            assert callable(node.target)
            name = name_of_function(node.target) or str(getattr(node.target, "__qualname__", target))
            nodes.append(Node("function", name, args, kwargs, node.target))
        else:
            nodes.append(Node(_KINDS[node.op], target, args, kwargs))
        numbers[node] = len(numbers)
    return Graph(tuple(inputs), tuple(nodes), output, defaults)


_NAMED = {torch.dtype: "dtype", torch.layout: "layout", torch.memory_format: "memory_format"}


def _named(leaf: Any) -> Any:
    """A constant of torch by its name."""
    if isinstance(leaf, torch.device):
        return Named("device", str(leaf))
    kind = _NAMED.get(type(leaf))
    return leaf if kind is None else Named(kind, str(leaf).removeprefix("torch."))
