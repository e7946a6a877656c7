"""Traces a model into graphs, and leaves to Python what no graph can hold.

Where a module's own forward cannot be traced it is called as it is, and the modules that it calls are
traced by themselves. So a trace never fails as a whole. May import tracer, watching, examples and
module_state.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import fx, nn

from intaglio.graph_passes.examples import Call
from intaglio.graph_passes.method_calls import MethodCall
from intaglio.graph_passes.module_state import kept_state
from intaglio.graph_passes.tracer import Tracer, Treat, join_paths
from intaglio.graph_passes.watching import calls_of_children

__all__ = ["Region", "Traced", "carry_attributes", "trace_model"]


@dataclass(frozen=True)
class Region:
    """A part of the model that became a graph, and where it stands in the model."""

    path: str
    graph_module: fx.GraphModule


@dataclass
class Traced:
    """A copy of a model whose parts are graphs.

    model: the copy; a `GraphModule` if the whole could be traced.
    regions: its graphs, the outer ones first.
    alone: paths of layers that Python code calls, with what no graph can have or not in the examples.
    left: what stayed Python, by path, with the reason.
    """

    model: nn.Module
    regions: list[Region] = field(default_factory=list)
    alone: list[str] = field(default_factory=list)
    left: dict[str, str] = field(default_factory=dict)
    is_qat: bool = False


class Around(nn.Module):
    """A module that is quantized by itself, in one whose forward stays Python."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer
        self.training = layer.training

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Call it."""
        return self.layer(*args, **kwargs)


def trace_model(model: nn.Module, calls: Sequence[Call], treat: Treat, *, is_qat: bool = False) -> Traced:
    """Turn `model`, which is changed, into graphs that hold for every call like `calls`.

    `treat(module, path)` says what to do with each of its modules. For training (`is_qat`) the graphs hold in
    both modes; `model` is in eval mode all the same.
    """
    traced = Traced(model, is_qat=is_qat)
    _trace_into(traced, "", model, calls, treat)
    return traced


def _trace_into(
    traced: Traced,
    path: str,
    module: nn.Module,
    calls: Sequence[Call],
    treat: Treat,
) -> None:
    """Trace the module at `path`, and put the graph in its place."""
    treatment = treat(module, path)
    if treatment == "children":
        _trace_children(traced, path, module, calls, treat)
        return
    if treatment == "leaf":
        module = Around(module)
    tracer = Tracer(path, treat, is_qat=traced.is_qat)
    try:
        _trace_with(tracer, traced, path, module, calls, treat)
    finally:
        tracer.forget()


def _trace_with(
    tracer: Tracer, traced: Traced, path: str, module: nn.Module, calls: Sequence[Call], treat: Treat
) -> None:
    with kept_state(module):
        try:
            graph_module = tracer.graph_module(module, calls)
        except Exception as error:  # whatever a user's forward raises when it meets a stand-in
            graph_module = None
            if not isinstance(module, Around):
                traced.left[path] = tracer.reason_of(error)
    if graph_module is None and isinstance(module, Around):
        traced.alone.append(path)
        return
    if graph_module is None:
        _trace_children(traced, path, module, calls, treat)
        return
    traced.left.update(tracer.left)
    if path == "":
        traced.model = graph_module
    else:
        carry_attributes(traced.model.get_submodule(path), graph_module)
        traced.model.set_submodule(path, graph_module)
    traced.regions.append(Region(path, graph_module))
    called = {str(node.target) for node in graph_module.graph.nodes if node.op == "call_module"}
    for inner in (path for path in tracer.opaque_modules if path in called):
        part = graph_module.get_submodule(inner)
        part_calls = [tracer.calls[inner][i] for i in range(len(calls))]
        if treat(part, join_paths(path, inner)) == "apart":
            _trace_into(traced, join_paths(path, inner), part, part_calls, treat)
        else:
            _trace_children(traced, join_paths(path, inner), part, part_calls, treat)


def _trace_children(
    traced: Traced,
    path: str,
    module: nn.Module,
    calls: Sequence[Call],
    treat: Treat,
) -> None:
    """Trace the children of a module whose own forward stays Python."""
    if isinstance(module, MethodCall):
        return
    called = calls_of_children(module, calls)
    for inner, child, child_calls in called:
        _trace_into(traced, join_paths(path, inner), child, child_calls, treat)
    seen = [inner for inner, _, _ in called]
    for inner, child in module.named_modules():
        is_seen = any(inner == other or inner.startswith(f"{other}.") for other in seen)
        if inner and not is_seen and treat(child, join_paths(path, inner)) == "leaf":
            traced.alone.append(join_paths(path, inner))


def carry_attributes(source: nn.Module, target: fx.GraphModule) -> None:
    """Let the module around a graph find what it may read of the module that the graph replaces."""
    carried = {
        name: value
        for name, value in vars(source).items()
        if not name.startswith("_") and name not in vars(target) and not isinstance(value, nn.Module)
    }
    vars(target).update(carried)
    target.meta["_user_preserved_attributes"] = carried  # which a GraphModule takes along when it is copied
