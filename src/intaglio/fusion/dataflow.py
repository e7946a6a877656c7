"""Which module's output goes where: found by tracing a model, or by watching it run on example inputs.

Tracing needs no data and sees every use of a value, but not through control flow that depends on data; a
run sees everything that its inputs lead through. May import nn and errors.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.overrides import TorchFunctionMode

from intaglio.nn.copying import share_tensors
from intaglio.nn.fused import BATCH_NORMS, activation_kind, kind_of, layer_kind
from intaglio.nn.padded_conv import PADDINGS

__all__ = ["Call", "Dataflow", "is_part", "trace_dataflow", "watch_dataflow"]


@dataclass(frozen=True)
class Call:
    """One call of the module at `path`: the value it took, None if not just one, and the value it gave."""

    path: str
    taken: int | None
    given: int


@dataclass
class Dataflow:
    """Calls of modules that could be fused, how often each value is used, and what could not be seen.

    untraced: why modules at these paths could not be traced.
    read: paths of modules whose parameters are read from outside.
    """

    calls: list[Call] = field(default_factory=list)
    uses: Counter[int] = field(default_factory=Counter)
    untraced: dict[str, str] = field(default_factory=dict)
    read: set[str] = field(default_factory=set)

    def links(self) -> dict[str, str]:
        """The module that takes all that another gives, and nothing else: `{path: path}`."""
        makers = {call.given: call.path for call in self.calls}
        takers = {call.taken: call.path for call in self.calls if call.taken is not None}
        followers: dict[str, set[str | None]] = {}
        leaders: dict[str, set[str | None]] = {}
        for call in self.calls:
            alone = self.uses[call.given] == 1
            followers.setdefault(call.path, set()).add(takers.get(call.given) if alone else None)
            leaders.setdefault(call.path, set()).add(None if call.taken is None else makers.get(call.taken))
        found: dict[str, str] = {}
        for path, after in followers.items():
            following = next(iter(after)) if len(after) == 1 else None
            if following is not None and leaders[following] == {path}:
                found[path] = following
        return found


def is_part(module: nn.Module) -> bool:
    """Whether the module could be part of a fused one."""
    if type(module) in PADDINGS:
        return True
    return bool(layer_kind(module) or activation_kind(module) or kind_of(module, BATCH_NORMS))


# ---- tracing --------------------------------------------------------------------------------------------


def trace_dataflow(model: nn.Module, passing: tuple[type[nn.Module], ...] = (nn.Identity,)) -> Dataflow:
    """The dataflow of `model` as `torch.fx` traces it; what cannot be traced is looked into by itself.

    A module with data-dependent control flow is opaque, and the modules in it are traced one by one, but
    for plain `nn.Sequential`s: its forward may run their parts one at a time. Modules of the types `passing`
    count as if they were not there.
    """
    if isinstance(model, fx.GraphModule):  # which says itself what goes where
        known = Dataflow()
        _read_graph(model.graph, "", known, {n for n in model.graph.nodes if _passes(n, model, passing)})
        return known
    memo: dict[int, Any] = {}
    share_tensors(model, memo, attributes=True)
    skeleton = copy.deepcopy(model, memo)  # tracing may leave proxies in attributes
    flow, roots = Dataflow(), [("", skeleton)]
    while roots:
        path, root = roots.pop()
        tracer = _Tracer()
        try:
            graph = tracer.trace(root)
        except Exception as error:  # anything that a user's forward may raise
            flow.untraced[path] = _shortly(error)
            roots += _parts_of(path, root)
        else:
            _read_graph(graph, path, flow, {n for n in graph.nodes if _passes(n, root, passing)})
            for inner, reason in tracer.opaque.items():
                flow.untraced[_join(path, inner)] = reason
                roots += _parts_of(_join(path, inner), root.get_submodule(inner))
    return flow


class _Tracer(fx.Tracer):
    """Takes modules that cannot be traced as they are, and those that may be fused."""

    def __init__(self) -> None:
        super().__init__()
        self.opaque: dict[str, str] = {}

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return is_part(m) or super().is_leaf_module(m, module_qualified_name)

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        before = len(self.graph.nodes)
        try:
            return super().call_module(m, forward, args, kwargs)
        except Exception as error:  # as above
            for node in list(self.graph.nodes)[before:][::-1]:
                self.graph.erase_node(node)
            path = self.path_of_module(m)
            self.opaque[path] = _shortly(error)
            return self.create_proxy("call_module", path, args, kwargs)


def _passes(node: fx.Node, root: nn.Module, passing: tuple[type[nn.Module], ...]) -> bool:
    lone = node.op == "call_module" and len(node.args) == 1 and not node.kwargs
    if not lone or not isinstance(node.args[0], fx.Node):
        return False
    return type(root.get_submodule(str(node.target))) in passing


def _read_graph(graph: fx.Graph, prefix: str, flow: Dataflow, passing: set[fx.Node]) -> None:
    numbers: dict[Any, int] = {}
    for number, node in enumerate(graph.nodes, start=len(flow.uses)):
        numbers[node] = numbers[node.args[0]] if node in passing else number
        flow.uses[number] = 0
    for node in graph.nodes:
        if node.op == "get_attr":
            flow.read.add(_join(prefix, str(node.target).rpartition(".")[0]))
        elif node.op == "call_module" and node not in passing:
            lone = len(node.args) == 1 and not node.kwargs and isinstance(node.args[0], fx.Node)
            taken = numbers[node.args[0]] if lone else None
            flow.calls.append(Call(_join(prefix, str(node.target)), taken, numbers[node]))
        flow.uses[numbers[node]] += sum(user not in passing for user in node.users)


def _parts_of(path: str, module: nn.Module) -> list[tuple[str, nn.Module]]:
    found = []
    for name, child in module.named_children():
        if type(child) in (nn.Sequential, nn.ModuleList, nn.ModuleDict):
            found += _parts_of(_join(path, name), child)
        elif not is_part(child):
            found.append((_join(path, name), child))
    return found


def _join(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix and name else prefix or name


def _shortly(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    return f"{type(error).__name__}: {text.splitlines()[0]}"


# ---- watching -------------------------------------------------------------------------------------------


@torch.no_grad()
def watch_dataflow(model: nn.Module, example_inputs: tuple[Any, ...]) -> Dataflow:
    """The dataflow of `model` in one run on `example_inputs`, whatever its forward does."""
    flow, watcher = Dataflow(), _Watcher()
    handles = []
    for path, module in model.named_modules():
        if is_part(module):
            handles.append(module.register_forward_pre_hook(watcher.entering, with_kwargs=True))
            handles.append(module.register_forward_hook(watcher.leaving(path, flow), with_kwargs=True))
    try:
        with torch.random.fork_rng(devices=[]), watcher:
            watcher.use(_tensors_in(model(*example_inputs)))
    finally:
        for handle in handles:
            handle.remove()
    flow.uses = watcher.uses
    return flow


class _Watcher(TorchFunctionMode):
    """Numbers the values that modules give, and counts their uses by others."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers: dict[int, int] = {}
        self.uses: Counter[int] = Counter()
        self.alive: list[Any] = []  # so that no other tensor gets the id of one that was seen
        self.inside = 0

    def use(self, tensors: Iterable[Tensor]) -> None:
        self.uses.update(self.numbers[id(t)] for t in tensors if id(t) in self.numbers)

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        found = func(*args, **(kwargs or {}))
        if not self.inside and (getattr(func, "__name__", "") != "__get__" or isinstance(found, Tensor)):
            self.use(_tensors_in((args, kwargs)))
        return found

    def entering(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        if not self.inside:
            self.use(_tensors_in((args, kwargs)))
        self.inside += 1

    def leaving(self, path: str, flow: Dataflow) -> Callable[..., None]:
        def leave(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            self.inside -= 1
            if self.inside:
                return
            lone = len(args) == 1 and not kwargs and isinstance(args[0], Tensor)
            taken = self.numbers.get(id(args[0])) if lone else None
            number = len(self.alive)
            self.alive.append((args, output))
            if isinstance(output, Tensor):
                self.numbers[id(output)] = number  # of an in-place op, the input's id has a new value
            flow.calls.append(Call(path, taken, number))

        return leave


def _tensors_in(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors_in(item)
    elif isinstance(value, dict):
        yield from _tensors_in(list(value.values()))
