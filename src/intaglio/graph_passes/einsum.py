"""`torch.einsum` of two tensors, written as a product of matrices. May import graphs, tracing."""

from __future__ import annotations

import re
from math import prod
from typing import Any

import torch
from torch import fx

from intaglio.graph_passes.graphs import constant_of
from intaglio.graph_passes.tracer import VALUES

__all__ = ["rewrite_einsum"]

_EQUATION = re.compile(r"([a-zA-Z]+),([a-zA-Z]+)->([a-zA-Z]*)")


def rewrite_einsum(gm: fx.GraphModule, node: fx.Node) -> None:
    """Where `node` is an einsum that sums over axes of an activation and one of the model's own tensors, make
    it a product of matrices, whose second is constant; other einsums stay what they are."""
    if node.target is not torch.einsum or len(node.args) < 2 or not isinstance(node.args[0], str):
        return
    operands = node.args[1:] if len(node.args) > 2 else node.args[1]
    found = _EQUATION.fullmatch(node.args[0].replace(" ", ""))
    if found is None or not isinstance(operands, (tuple, list)) or len(operands) != 2:
        return
    (x, y), (left, right, out) = operands, found.groups()
    if constant_of(gm, y) is None:
        x, y, left, right = y, x, right, left
    weight = constant_of(gm, y)
    if weight is None or constant_of(gm, x) is not None or not isinstance(x, fx.Node):
        return
    plan = _plan(left, right, out)
    if plan is None:
        return
    kept, summed, made = plan
    matrix = weight.detach().permute([right.index(c) for c in summed + made])
    sizes = [weight.shape[right.index(c)] for c in made]
    rows = prod(weight.shape[right.index(c)] for c in summed)
    name = (
        f"einsum_weight_{sum(1 for n, _ in gm.named_buffers(recurse=False) if n.startswith('einsum_weight'))}"
    )
    gm.register_buffer(name, matrix.reshape(rows, -1).contiguous())
    with gm.graph.inserting_before(node):
        steps = _Steps(gm.graph, node)
        moved = steps.call("permute", x, [left.index(c) for c in kept + summed])
        flat = steps.call("flatten", moved, len(kept), -1) if len(summed) > 1 else moved
        constant = gm.graph.get_attr(name)
        constant.meta.update(node.meta)
        constant.meta[VALUES] = (getattr(gm, name).to("meta"),) * len(node.meta.get(VALUES, ()))
        product = steps.function(torch.matmul, flat, constant)
        spread = steps.call("unflatten", product, -1, sizes) if len(made) > 1 else product
        if not made:
            spread = steps.call("squeeze", product, -1)
        result = steps.call("permute", spread, [(kept + made).index(c) for c in out])
    node.replace_all_uses_with(result)
    gm.graph.erase_node(node)


def _plan(left: str, right: str, out: str) -> tuple[str, str, str] | None:
    """The letters of the activation that stay, those that are summed, and those that the weight brings."""
    if len(set(left)) < len(left) or len(set(right)) < len(right) or len(set(out)) < len(out):
        return None
    summed = "".join(c for c in right if c in left)
    made = "".join(c for c in right if c not in left)
    kept = "".join(c for c in left if c not in right)
    fits = summed and not set(summed) & set(out) and set(kept + made) == set(out)
    return (kept, summed, made) if fits else None


class _Steps:
    """Adds nodes that know their values."""

    def __init__(self, graph: fx.Graph, origin: fx.Node) -> None:
        self._graph, self._origin = graph, origin

    def call(self, method: str, x: fx.Node, *args: Any) -> fx.Node:
        """A method of a tensor."""
        return self._known(
            self._graph.call_method(method, (x, *args)), lambda v: getattr(v[0], method)(*v[1:])
        )

    def function(self, function: Any, *args: Any) -> fx.Node:
        """A function."""
        return self._known(self._graph.call_function(function, args), lambda v: function(*v))

    def _known(self, node: fx.Node, compute: Any) -> fx.Node:
        node.meta.update(self._origin.meta)
        count = len(self._origin.meta.get(VALUES, ()))
        node.meta[VALUES] = tuple(
            compute([a.meta[VALUES][i] if isinstance(a, fx.Node) else a for a in node.args])
            for i in range(count)
        )
        return node
