"""How many multiply-adds a graph makes, and how many of them on integers. May import graphs, placing."""

from __future__ import annotations

from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from intaglio.graph_passes.graphs import module_of, shape_of, value_of
from intaglio.graph_passes.placing import Integers
from intaglio.nn import FloatFunctional, FusedModule, ResidualLayer
from intaglio.rules import all_rules, rule_of

__all__ = ["count_multiply_adds"]

_PRODUCTS = {torch.matmul, torch.bmm, torch.mm, torch.einsum, "matmul", "bmm", "mm", "__matmul__"}


def count_multiply_adds(gm: fx.GraphModule, plan: Integers) -> tuple[int, int]:
    """Multiply-adds of the first example call: in all, and on int8 weights or operands."""
    total = integers = 0
    for node in gm.graph.nodes:
        count = _of_node(gm, node)
        total += count
        if node in plan.qconfigs:
            integers += count
    return total, integers


def _of_node(gm: fx.GraphModule, node: fx.Node) -> int:
    module = module_of(gm, node)
    if module is not None:
        return _of_module(module, node)
    if node.op not in ("call_function", "call_method"):
        return 0
    if node.target is F.scaled_dot_product_attention:
        query, key, value = (shape_of(x) for x in node.args[:3] if isinstance(x, fx.Node))
        return prod(query[:-1]) * key[-2] * (key[-1] + value[-1])
    if node.target in _PRODUCTS or getattr(node.target, "__name__", "") == "matmul":
        first = next((x for x in node.all_input_nodes if isinstance(value_of(x), Tensor)), None)
        return prod(shape_of(node)) * (shape_of(first)[-1] if first is not None and shape_of(first) else 0)
    return 0


def _of_module(module: nn.Module, node: fx.Node) -> int:
    while isinstance(module, (FusedModule, ResidualLayer)):
        module = module.layer
    if isinstance(module, FloatFunctional):
        operand = node.args[1]
        is_product = node.args[0] == "matmul" and isinstance(operand, fx.Node)
        return prod(shape_of(node)) * shape_of(operand)[-1] if is_product else 0  # type: ignore[arg-type]
    inputs = [shape_of(x) for x in node.all_input_nodes if isinstance(value_of(x), Tensor)]
    rule = rule_of(module, all_rules())
    if rule is not None and rule.name == "Linear":  # GPT-2's Conv1D too
        return prod(shape_of(node)[:-1]) * int(module.weight.numel())  # type: ignore[operator]
    if isinstance(module, nn.modules.conv._ConvNd):  # a base of all convolutions
        image = inputs[0] if module.transposed else shape_of(node)
        pixels = prod(image) // (module.in_channels if module.transposed else module.out_channels)
        return pixels * module.weight.numel()
    if isinstance(module, (nn.RNNBase, nn.RNNCellBase)):
        steps = prod(inputs[0][:-1]) if inputs else 0
        return steps * sum(p.numel() for name, p in module.named_parameters() if "weight" in name)
    if isinstance(module, nn.MultiheadAttention) and inputs:
        rows, width = prod(inputs[0][:-1]), int(module.embed_dim)
        length = inputs[min(1, len(inputs) - 1)][1 if module.batch_first else 0]
        return rows * width * (4 * width + 2 * length)
    return 0
