"""What graph mode did with a model, kept on the model: `GraphRecord`. May import nothing from the package."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any

from torch import fx, nn
from torch.fx.graph_module import reduce_graph_module

__all__ = ["GRAPH_RECORD", "SCORES", "GraphRecord", "copy_wholly", "graph_record"]

GRAPH_RECORD = "intaglio_graph_record"
"""Attribute of a prepared or converted model: a `GraphRecord`."""
SCORES = "intaglio_scores"
"""Attribute of a converted model: the scores of the float model and of itself, if they were asked for."""


@dataclass
class GraphRecord:
    """What tracing and placing did with a model.

    graphs: the paths of the modules that became graphs; `""` alone means the whole model did.
    left: what stayed Python, by path, and why.
    floats: modules that have a quantized form and stay float, by path, and why.
    preserved: attributes that the user asked to keep.
    macs, int8_macs: multiply-adds of one call on the example inputs, in all and in int8.
    """

    graphs: list[str] = field(default_factory=list)
    left: dict[str, str] = field(default_factory=dict)
    floats: dict[str, str] = field(default_factory=dict)
    preserved: dict[str, Any] = field(default_factory=dict)
    macs: int = 0
    int8_macs: int = 0


def graph_record(model: nn.Module) -> GraphRecord | None:
    """The record of a model that `prepare_fx` or `convert_fx` gave, or None."""
    return vars(model).get(GRAPH_RECORD)


# ---- Copies ------------------------------------------------------------------------------------------------

_HOOKS = (
    *("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"),
    *("_forward_hooks_with_kwargs", "_forward_hooks_always_called", "_forward_pre_hooks_with_kwargs"),
)


def copy_wholly(graph_module: fx.GraphModule) -> None:
    """Let copies and pickles of a graph have what torch.fx leaves out: its hooks and its own attributes.

    Without this a copy, as an average of weights is, would be no prepared model any more. Each `GraphModule`
    has a class of its own, on which that can be said.
    """
    kind: Any = type(graph_module)
    kind.__deepcopy__, kind.__reduce__ = _copied, _reduced


def _copied(self: fx.GraphModule, memo: dict[int, Any]) -> fx.GraphModule:
    made = fx.GraphModule.__deepcopy__(self, memo)
    for name, value in vars(self).items():
        if name in _HOOKS or name not in vars(made):
            vars(made)[name] = copy.deepcopy(value, memo)
    copy_wholly(made)
    return made


def _reduced(self: fx.GraphModule) -> tuple[Any, ...]:
    _, arguments = fx.GraphModule.__reduce__(self)
    return _rebuilt, arguments, {name: vars(self)[name] for name in _HOOKS}


def _rebuilt(body: dict[str, Any], import_block: str) -> nn.Module:
    made = reduce_graph_module(body, import_block)
    assert isinstance(made, fx.GraphModule)
    copy_wholly(made)
    return made
