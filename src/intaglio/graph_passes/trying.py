"""What a function does with a `QTensor`, found by trying it: integers, plain values, or an error.

May import graphs, qtensor and below.
"""

from __future__ import annotations

from collections.abc import Set
from typing import Any, Literal

import torch
from torch import Tensor, fx
from torch.utils._pytree import tree_leaves

from intaglio.graph_passes.graphs import module_of, value_of
from intaglio.qparams import UINT8, QParams
from intaglio.qtensor import QTensor

__all__ = ["try_integers"]

_ANY = QParams(torch.tensor(0.05), torch.tensor(128, dtype=torch.int32), UINT8)
_KNOWN = ("torch", "_operator", "builtins", "math")


def try_integers(
    gm: fx.GraphModule, node: fx.Node, integers: Set[fx.Node]
) -> Literal["integers", "plain", "no"]:
    """What `node` gives if those of its inputs that are in `integers` are `QTensor`s.

    Functions and modules of torch alone are tried: a user's own are only known to take floats.
    """
    if node.op == "call_module":
        module = module_of(gm, node)
        if not type(module).__module__.startswith("torch.nn"):
            return "no"
        function: Any = module
    elif node.op == "call_function":
        function = node.target
        if str(getattr(function, "__module__", None) or "torch").partition(".")[0] not in _KNOWN:
            return "no"
    else:
        function = None
    try:
        args, kwargs = _stand_ins((node.args, node.kwargs), integers)
        with torch.no_grad():
            found = (
                getattr(args[0], str(node.target))(*args[1:], **kwargs)
                if function is None
                else function(*args, **kwargs)
            )
    except Exception:  # whatever a function raises for what it does not take
        return "no"
    leaves = tree_leaves(found, is_leaf=lambda x: isinstance(x, QTensor))
    if any(isinstance(x, QTensor) for x in leaves):
        return "integers"
    return "plain"


def _stand_ins(arguments: Any, integers: Set[fx.Node]) -> Any:
    """Arguments of the shapes that were traced: `QTensor`s for `integers`, zeros for other tensors."""

    def stand_in(node: fx.Node) -> Any:
        def fill(x: Any) -> Any:
            if not isinstance(x, Tensor):
                return x
            if node in integers and x.is_floating_point():
                return QTensor(torch.full(x.shape, 128, dtype=torch.uint8), _ANY)
            return torch.zeros(x.shape, dtype=x.dtype)

        return fx.node.map_aggregate(value_of(node), fill)

    return fx.node.map_aggregate(arguments, lambda x: stand_in(x) if isinstance(x, fx.Node) else x)
