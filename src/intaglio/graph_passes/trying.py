"""What a function does with a `QTensor`, found by trying it: integers, plain values, or an error.

May import graphs, qtensor and below.
"""

from __future__ import annotations

from collections.abc import Set
from typing import Any, Literal

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves

from intaglio.graph_passes.graphs import module_of
from intaglio.graph_passes.tracer import VALUES
from intaglio.qparams import UINT8, QParams
from intaglio.qtensor import QTensor

__all__ = ["try_integers"]

_ANY = QParams(torch.tensor(0.05), torch.tensor(128, dtype=torch.int32), UINT8)
Outcome = Literal["integers", "plain", "no"]
_KNOWN = ("torch", "_operator", "builtins", "math")


def try_integers(gm: fx.GraphModule, node: fx.Node, integers: Set[fx.Node]) -> Outcome:
    """What `node` gives if those of its inputs that are in `integers` are `QTensor`s.

    A user's own function is tried in every example call, for it may do different things in each; a user's own
    module takes floats.
    """
    module = module_of(gm, node)
    if module is not None and not type(module).__module__.startswith("torch.nn"):
        return "no"
    is_users = node.op == "call_function" and not _is_known(node.target)
    calls = len(node.meta.get(VALUES, ())) if is_users else 1
    found = {_try_call(node, module, integers, number) for number in range(calls)}
    return found.pop() if len(found) == 1 else "no"


def _is_known(function: Any) -> bool:
    return str(getattr(function, "__module__", None) or "torch").partition(".")[0] in _KNOWN


def _try_call(node: fx.Node, module: nn.Module | None, integers: Set[fx.Node], number: int) -> Outcome:
    """What a node gives in one of the example calls."""
    function: Any = node.target if module is None else module
    try:
        args, kwargs = _stand_ins((node.args, node.kwargs), integers, number)
        with torch.no_grad():
            if node.op == "call_method":
                found = getattr(args[0], str(node.target))(*args[1:], **kwargs)
            else:
                found = function(*args, **kwargs)
    except Exception:  # whatever a function raises for what it does not take
        return "no"
    leaves = tree_leaves(found, is_leaf=lambda x: isinstance(x, QTensor))
    return "integers" if any(isinstance(x, QTensor) for x in leaves) else "plain"


def _stand_ins(arguments: Any, integers: Set[fx.Node], number: int) -> Any:
    """Arguments of the shapes that were traced: `QTensor`s for `integers`, zeros for other tensors."""

    def stand_in(node: fx.Node) -> Any:
        def fill(x: Any) -> Any:
            if not isinstance(x, Tensor):
                return x
            if node in integers and x.is_floating_point():
                return QTensor(torch.full(x.shape, 128, dtype=torch.uint8), _ANY)
            return torch.zeros(x.shape, dtype=x.dtype)

        values = node.meta.get(VALUES, ())
        return fx.node.map_aggregate(values[number] if values else None, fill)

    return fx.node.map_aggregate(arguments, lambda x: stand_in(x) if isinstance(x, fx.Node) else x)
