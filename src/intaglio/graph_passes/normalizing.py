"""A graph with fewer ways to say a thing: constants worked out, nothing in place, no module called twice.

May import graphs, tracing.
"""

# ruff: noqa: SIM905 - lists of names read better as words

from __future__ import annotations

import copy
import operator
from typing import Any

import torch
from torch import Tensor, fx, nn

from intaglio.graph_passes.graphs import carry_meta, drop_dead_nodes, is_in_place, module_of, value_of
from intaglio.graph_passes.method_calls import MethodCall

__all__ = ["CHANGES_OTHERS", "fold_constants", "functionalize", "separate_calls"]

CHANGES_OTHERS = "intaglio_changes_others"
"""In the meta of a node that must stay in place: others see the change."""
_CHEAP_TO_KEEP = 1 << 24
"""Folded tensors of more values than this, of views of parameters, are made in each call instead."""


@torch.no_grad()
def fold_constants(gm: fx.GraphModule, *, is_qat: bool = False) -> None:
    """Work out what follows from the model's own tensors alone: standardized weights, tables of positions.

    For training, what follows from parameters is left to the graph: they change.
    """
    known: dict[fx.Node, Any] = {}
    for node in list(gm.graph.nodes):
        if node.op == "get_attr":
            held = operator.attrgetter(str(node.target))(gm)
            if not (is_qat and isinstance(held, nn.Parameter)):
                known[node] = held
        elif node.op in ("call_function", "call_method") and _is_foldable(gm, node, known):
            args, kwargs = fx.node.map_aggregate(
                (node.args, node.kwargs), lambda x: known.get(x, x) if isinstance(x, fx.Node) else x
            )
            function: Any = node.target
            try:
                known[node] = (
                    function(*args, **kwargs)
                    if node.op == "call_function"
                    else getattr(args[0], function)(*args[1:], **kwargs)
                )
            except Exception:  # what cannot be worked out now is left to the call
                continue
    for node, value in known.items():
        if node.op == "get_attr":
            continue
        users = [user for user in node.users if user not in known]
        if not users:
            continue
        if isinstance(value, Tensor):
            if value.numel() > _CHEAP_TO_KEEP:
                continue
            name = _fresh(gm, "folded")
            gm.register_buffer(name, value.detach().clone())
            with gm.graph.inserting_before(node):
                node.replace_all_uses_with(carry_meta(node, gm.graph.get_attr(name)))
        elif isinstance(value, (int, float)):
            for user in users:
                _write_in(user, node, value)
    drop_dead_nodes(gm)


def _write_in(user: fx.Node, node: fx.Node, value: float) -> None:
    """Let `user` have the number itself where it takes `node`."""

    def replaced(arguments: Any) -> Any:
        return fx.node.map_aggregate(arguments, lambda x: value if x is node else x)

    user.args, user.kwargs = replaced(user.args), replaced(user.kwargs)


def _is_foldable(gm: fx.GraphModule, node: fx.Node, known: dict[fx.Node, Any]) -> bool:
    inputs = node.all_input_nodes
    if not inputs or any(source not in known for source in inputs) or is_in_place(gm, node):
        return False
    name = str(getattr(node.target, "__name__", node.target))
    return not any(
        part in name for part in ("rand", "bernoulli", "multinomial", "dropout", "_assert", "check_")
    )


def _fresh(gm: fx.GraphModule, name: str) -> str:
    number = 0
    while hasattr(gm, f"{name}_{number}"):
        number += 1
    return f"{name}_{number}"


def functionalize(gm: fx.GraphModule) -> set[fx.Node]:
    """Let who reads a tensor after it was changed in place read the result.

    Gives the nodes that share memory with a tensor which is changed while others look at it: they must stay
    floats.
    """
    order = {node: number for number, node in enumerate(gm.graph.nodes)}
    held: set[fx.Node] = set()
    for node in list(gm.graph.nodes):
        if not is_in_place(gm, node) or not node.args or not isinstance(node.args[0], fx.Node):
            continue
        changed = node.args[0]
        if not isinstance(value_of(changed), Tensor):
            continue
        family = _family(changed)
        others = {other for other in family if other is not changed and other is not node}
        if any(order[user] > order[node] for other in others for user in other.users) or _is_setitem(node):
            held |= family | {node}
            node.meta[CHANGES_OTHERS] = True
            continue
        for user in list(changed.users):
            if order.get(user, -1) > order[node]:
                user.replace_input_with(changed, node)
        _make_pure(gm, node)
    return held


def _family(node: fx.Node) -> set[fx.Node]:
    """The nodes that may share memory with `node`: views of it, and what it is a view of."""
    found, waiting = {node}, [node]
    while waiting:
        at = waiting.pop()
        near = [user for user in at.users if _may_alias(user, at)]
        near += [source for source in at.all_input_nodes if _may_alias(at, source)]
        for other in near:
            if other not in found:
                found.add(other)
                waiting.append(other)
    return found


_VIEWS = frozenset(
    """
    chunk contiguous detach diagonal expand flatten float getitem imag movedim narrow permute real reshape
    select split squeeze swapaxes swapdims t to transpose unbind unflatten unsqueeze view view_as
    """.split()
)


def _may_alias(user: fx.Node, source: fx.Node) -> bool:
    if user.op not in ("call_function", "call_method") or not user.args or user.args[0] is not source:
        return False
    name = str(user.target if user.op == "call_method" else getattr(user.target, "__name__", ""))
    return name in _VIEWS


def _is_setitem(node: fx.Node) -> bool:
    return getattr(node.target, "__name__", "") == "setitem"


def _make_pure(gm: fx.GraphModule, node: fx.Node) -> None:
    """Let a node that changed its input give a tensor of its own."""
    module = module_of(gm, node)
    if module is not None:
        module = copy.copy(module)
        module.inplace = False  # type: ignore[assignment]
        gm.set_submodule(str(node.target), module)
    elif node.kwargs.get("inplace"):
        node.kwargs = {**node.kwargs, "inplace": False}
    elif node.op == "call_method":
        node.target = str(node.target).rstrip("_")
    else:
        name = getattr(node.target, "__name__", "")
        for space in (torch, torch.nn.functional, operator):
            pure = getattr(space, name.rstrip("_") if name.endswith("_") else name.removeprefix("i"), None)
            if callable(pure) and getattr(space, name, None) is node.target:
                node.target = pure
                return


def separate_calls(gm: fx.GraphModule) -> None:
    """Give each call of a module a module of its own, with the same tensors: each has ranges of its own."""
    seen: set[str] = set()
    for node in list(gm.graph.nodes):
        if node.op != "call_module":
            continue
        target = str(node.target)
        if target in seen:
            module = gm.get_submodule(target)
            if isinstance(module, MethodCall):
                continue
            parent, _, name = target.rpartition(".")
            number = 1
            while hasattr(gm.get_submodule(parent), f"{name}_{number}"):
                number += 1
            node.target = f"{parent}.{name}_{number}" if parent else f"{name}_{number}"
            gm.get_submodule(parent).add_module(f"{name}_{number}", _twin(module))
        else:
            seen.add(target)


def _twin(module: nn.Module) -> nn.Module:
    """Another module with the same parameters and buffers."""
    memo: dict[int, Any] = {}
    for part in module.modules():
        for tensor in (*part._parameters.values(), *part._buffers.values()):
            if tensor is not None:
                memo[id(tensor)] = tensor
    return copy.deepcopy(module, memo)
