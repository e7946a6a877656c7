"""Small steps that every pass takes: names for new modules, values of nodes, what has no effect.

May import tracer, traced_values, in_place.
"""

from __future__ import annotations

from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, fx, nn

from intaglio.graph_passes.in_place import changes_its_input
from intaglio.graph_passes.traced_values import CHECKS
from intaglio.graph_passes.tracer import SCOPE, VALUES

__all__ = [
    "add_module",
    "carry_meta",
    "constant_of",
    "drop_dead_nodes",
    "is_check",
    "is_constant",
    "is_in_place",
    "module_of",
    "scope_of",
    "shape_of",
    "value_of",
]

_CHECKS = (*CHECKS, torch._assert)


def module_of(gm: fx.GraphModule, node: Any) -> nn.Module | None:
    """The module that `node` calls, or None."""
    if not isinstance(node, fx.Node) or node.op != "call_module":
        return None
    return gm.get_submodule(str(node.target))


def value_of(node: Any) -> Any:
    """A node's value in the first example call, tensors without data; anything else is itself."""
    if not isinstance(node, fx.Node):
        return fx.node.map_aggregate(node, lambda x: value_of(x) if isinstance(x, fx.Node) else x)
    values = node.meta.get(VALUES, ())
    return values[0] if values else None


def shape_of(node: fx.Node) -> tuple[int, ...]:
    """The shape of the tensor that a node gives in the first example call."""
    value = value_of(node)
    return tuple(value.shape) if isinstance(value, Tensor) else ()


def scope_of(node: fx.Node) -> str:
    """The path of the module in whose forward a node stands."""
    return str(node.meta.get(SCOPE, ""))


def carry_meta(source: fx.Node, target: fx.Node) -> fx.Node:
    """Let `target` have what is known of `source`, in whose place it stands."""
    target.meta.update(source.meta)
    return target


def constant_of(gm: fx.GraphModule, node: Any) -> Tensor | None:
    """The tensor of the model that `node` reads, or None."""
    if not isinstance(node, fx.Node) or node.op != "get_attr":
        return None
    found = attrgetter(str(node.target))(gm)
    return found if isinstance(found, Tensor) else None


def is_constant(node: Any) -> bool:
    """Whether a node reads a tensor of the model."""
    return isinstance(node, fx.Node) and node.op == "get_attr"


def add_module(gm: fx.GraphModule, scope: str, name: str, module: nn.Module) -> str:
    """Put `module` into the model, in the module at `scope`, under `name` or `name_1` ...; gives its path."""
    module.train(gm.training)
    prefix = f"{scope}." if scope else ""
    parent = _parent(gm, scope)
    if parent is None:
        parent, prefix = gm, scope.replace(".", "_") + "_" if scope else ""
        name, prefix = prefix + name, ""
    number, taken = 0, name
    while hasattr(parent, taken):
        number += 1
        taken = f"{name}_{number}"
    parent.add_module(taken, module)
    return prefix + taken


def _parent(gm: fx.GraphModule, scope: str) -> nn.Module | None:
    """The plain container at `scope`, made if nothing stands there; None if what stands there is a layer."""
    found: nn.Module = gm
    for name in filter(None, scope.split(".")):
        child = found._modules.get(name)
        if child is None:
            if hasattr(found, name):
                return None
            child = nn.Module()
            child.train(gm.training)
            found.add_module(name, child)
        elif type(child) is not nn.Module:
            return None
        found = child
    return found


def drop_dead_nodes(gm: fx.GraphModule) -> None:
    """Take out what nothing uses, and the modules and tensors that nothing names."""
    for node in reversed(list(gm.graph.nodes)):
        if node.op in ("placeholder", "output") or node.users or _has_effect(gm, node):
            continue
        gm.graph.erase_node(node)
    gm.delete_all_unused_submodules()
    _drop_unread_tensors(gm)
    gm.recompile()


def _drop_unread_tensors(gm: fx.GraphModule) -> None:
    """Let the module and the plain containers in it hold no tensor that no node reads."""
    called = {str(node.target) for node in gm.graph.nodes if node.op == "call_module"}
    read = {str(node.target) for node in gm.graph.nodes if node.op == "get_attr"}
    for path, part in gm.named_modules():
        if part is not gm and (type(part) is not nn.Module or path in called):
            continue
        for held in (part._parameters, part._buffers):
            for name in [name for name in held if (f"{path}.{name}" if path else name) not in read]:
                del held[name]


def _has_effect(gm: fx.GraphModule, node: fx.Node) -> bool:
    if node.op == "call_module":
        module = gm.get_submodule(str(node.target))
        return not type(module).__module__.startswith(("torch.nn", "intaglio."))
    if node.op == "call_function":
        return is_check(node) or changes_its_input(node)
    return node.op == "call_method" and changes_its_input(node)


def is_in_place(gm: fx.GraphModule, node: fx.Node) -> bool:
    """Whether a node changes the tensor that it takes first."""
    if node.op == "call_module":
        return bool(getattr(gm.get_submodule(str(node.target)), "inplace", False))
    return changes_its_input(node)


def is_check(node: fx.Node) -> bool:
    """Whether a node only checks that a call is like the example."""
    return node.op == "call_function" and node.target in _CHECKS
