"""Fusion in a graph: the groups of `fusion`, rectified sums, and sums on a layer's accumulators.

May import graphs, fusion, nn and below.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

from torch import fx, nn

from intaglio.errors import ConversionError
from intaglio.fusion import FusionWarning, fuse_modules, fuse_modules_qat
from intaglio.graph_passes.graphs import (
    carry_meta,
    drop_dead_nodes,
    is_constant,
    module_of,
    shape_of,
)
from intaglio.graph_passes.tracer import VALUES
from intaglio.nn import FloatFunctional, ResidualLayer
from intaglio.nn.fused import layer_kind

__all__ = ["fuse_graph", "fuse_residuals", "is_functional", "is_summed_in"]

_SIZES = {getattr, "size", "dim", "numel"}


def fuse_graph(
    gm: fx.GraphModule,
    fusers: Mapping[Any, Callable[..., nn.Module]] | None = None,
    *,
    is_qat: bool = False,
) -> None:
    """Fuse every group that `fuse_modules` can fuse, in place, and take out what that leaves idle."""
    _ask_sizes_at_the_end(gm)
    config = {"additional_fuser_method_mapping": dict(fusers or {})}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FusionWarning)
            fuse = fuse_modules_qat if is_qat else fuse_modules
            fuse(gm, None, inplace=True, fuse_custom_config_dict=config)
    except ConversionError:
        return  # nothing to fuse
    for node in list(gm.graph.nodes):
        if type(module_of(gm, node)) is nn.Identity and node.args and isinstance(node.args[0], fx.Node):
            if module_of(gm, node.args[0]) is not None:
                node.args[0].meta[VALUES] = node.meta.get(VALUES, ())
            node.replace_all_uses_with(node.args[0])
            gm.graph.erase_node(node)
    drop_dead_nodes(gm)


def _ask_sizes_at_the_end(gm: fx.GraphModule) -> None:
    """Let what asks for the shape of a layer's output ask what comes of it, if that has the shape too."""
    for node in list(gm.graph.nodes):
        if node.op != "call_module":
            continue
        asking = [user for user in node.users if user.target in _SIZES]
        others = [user for user in node.users if user not in asking]
        if not asking or len(others) != 1 or others[0].op != "call_module":
            continue
        if shape_of(others[0]) != shape_of(node) or others[0].args[:1] != (node,) or len(others[0].args) > 1:
            continue
        for user in asking:
            if any(later < others[0] for later in (user, *user.users)):
                continue
            user.replace_input_with(node, others[0])


def is_functional(gm: fx.GraphModule, node: Any, *operations: str) -> bool:
    """Whether a node is one of these operations of a `FloatFunctional`."""
    return isinstance(module_of(gm, node), FloatFunctional) and (not operations or node.args[0] in operations)


def fuse_residuals(gm: fx.GraphModule, is_int8: Callable[[fx.Node], bool]) -> None:
    """Make `add` and a following ReLU one, and a layer's output and what is added to it one layer.

    `is_int8` says of which nodes the values will be integers: only among those a sum is made so.
    """
    for node in list(gm.graph.nodes):
        if is_functional(gm, node, "add") and is_int8(node):
            relu = next(iter(node.users)) if len(node.users) == 1 else None
            if relu is not None and type(module_of(gm, relu)) is nn.ReLU:
                node.args = ("add_relu", *node.args[1:])
                node.meta[VALUES] = relu.meta.get(VALUES, ())
                relu.replace_all_uses_with(node)
                gm.graph.erase_node(relu)
    for node in list(gm.graph.nodes):
        if is_functional(gm, node, "add", "add_relu") and is_int8(node):
            for layer, other in ((node.args[1], node.args[2]), (node.args[2], node.args[1])):
                if _can_take(gm, layer, other, node):
                    _sum_in(gm, node, layer, other)
                    break
    drop_dead_nodes(gm)


def is_summed_in(gm: fx.GraphModule, node: fx.Node) -> bool:
    """Whether a sum can be made on the accumulators of a layer."""
    if not is_functional(gm, node, "add", "add_relu"):
        return False
    x, y = node.args[1:]
    return _can_take(gm, x, y, node) or _can_take(gm, y, x, node)


def _can_take(gm: fx.GraphModule, layer: Any, other: Any, node: fx.Node) -> bool:
    """Whether the sum can be made by the layer: its output goes nowhere else, and both have one shape."""
    module = module_of(gm, layer)
    if module is None or layer_kind(module) is None or "Transpose" in type(module).__name__:
        return False
    if not isinstance(other, fx.Node) or is_constant(other) or layer is other or len(layer.users) != 1:
        return False
    if layer.kwargs or len(layer.args) != 1:
        return False
    shapes = [[tuple(v.shape) for v in part.meta.get(VALUES, ())] for part in (layer, other, node)]
    return bool(shapes[0]) and shapes[0] == shapes[1] == shapes[2]


def _sum_in(gm: fx.GraphModule, node: fx.Node, layer: fx.Node, other: fx.Node) -> None:
    activation = nn.ReLU() if node.args[0] == "add_relu" else None
    module = module_of(gm, layer)
    assert module is not None
    gm.set_submodule(str(layer.target), ResidualLayer(module, activation))
    with gm.graph.inserting_before(node):
        made = carry_meta(node, gm.graph.call_module(str(layer.target), (layer.args[0], other)))
    node.replace_all_uses_with(made)
    gm.graph.erase_node(node)
    gm.graph.erase_node(layer)
