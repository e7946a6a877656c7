"""What graph mode did with a model, kept on the model: `GraphRecord`. May import nothing from the package."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import nn

__all__ = ["GRAPH_RECORD", "SCORES", "GraphRecord", "graph_record"]

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
