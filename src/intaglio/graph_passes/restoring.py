"""What stays float becomes the functions again that it was. May import graphs, nn and below."""

from __future__ import annotations

import operator
from collections.abc import Set
from typing import Any

import torch
from torch import fx

from intaglio.graph_passes.graphs import carry_meta, drop_dead_nodes, module_of
from intaglio.nn import FloatFunctional

__all__ = ["restore_functions"]

_FUNCTIONS: dict[str, Any] = {
    "add": operator.add,
    "add_scalar": operator.add,
    "mul": operator.mul,
    "mul_scalar": operator.mul,
    "matmul": torch.matmul,
    "cat": torch.cat,
}


def restore_functions(gm: fx.GraphModule, quantized: Set[fx.Node]) -> None:
    """Call the function itself wherever a `FloatFunctional` will not be quantized."""
    for node in list(gm.graph.nodes):
        if node in quantized or not isinstance(module_of(gm, node), FloatFunctional):
            continue
        name, *operands = node.args
        with gm.graph.inserting_before(node):
            made = carry_meta(node, gm.graph.call_function(_FUNCTIONS[str(name)], tuple(operands)))
        node.replace_all_uses_with(made)
        gm.graph.erase_node(node)
    drop_dead_nodes(gm)
