"""What is kept of a row: plain records. Imports `timing`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from benchmarks.timing import Spread

__all__ = ["FLOAT", "StepCost", "TrainingRow", "row_from_dict"]

FLOAT = "float32"


@dataclass(frozen=True)
class StepCost:
    """One contestant's step.

    Attributes:
        seconds: for a step.
        ratio: its time over float32's, of paired rounds.
        bytes: what the process grew by, at its largest, over three steps.
        differs: after one step of training, the share of the int8 model's outputs that differ from the fake
            quantized model's.
        most_steps: and by how many steps of the last scale at most.
        refusal: why it did not run; then the rest is None.
    """

    seconds: Spread | None = None
    ratio: Spread | None = None
    bytes: int | None = None
    differs: float | None = None
    most_steps: float | None = None
    refusal: str | None = None


@dataclass(frozen=True)
class TrainingRow:
    """All contestants at one network, memory layout and batch."""

    network: str
    layout: str
    batch: tuple[int, ...]
    rounds: int
    costs: dict[str, StepCost]


def row_from_dict(stored: dict[str, Any]) -> TrainingRow:
    """A `TrainingRow` from its `asdict`."""
    for name, cost in stored["costs"].items():
        spreads = {key: None if cost[key] is None else Spread(**cost[key]) for key in ("seconds", "ratio")}
        stored["costs"][name] = StepCost(**(cost | spreads))
    return TrainingRow(**(stored | {"batch": tuple(stored["batch"])}))
