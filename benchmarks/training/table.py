"""The rows as markdown. Imports `records`."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.training.records import FLOAT, StepCost, TrainingRow
from benchmarks.training.steps import TRAINERS

__all__ = ["render_training"]

NOTE = """\
A step is forward, loss, backward and the optimizer (SGD with momentum), one thread, the same batch for all,
in turn. **Ratios** are to the float step of the same round: below 1.4 is the goal. **Memory** is by how
much a process is larger in a step, at its largest, than before it had a model, over the same for float32:
below 1.3 is the goal. **Differs**: after one step of training, how many of the int8 model's outputs differ
from those of the model that trained, in eval mode, and by how many steps of their scale at most.\
"""
HEADING = ("network", "memory", "contestant", "step", "ratio to float32", "memory", "differs", "by at most")


def render_training(rows: Sequence[TrainingRow]) -> list[str]:
    """The section."""
    lines = ["| " + " | ".join(HEADING) + " |", "|" + " --- |" * len(HEADING)]
    for row in rows:
        for kind in TRAINERS:
            cost = row.costs.get(kind.name)
            if cost is not None:
                lines.append("| " + " | ".join(_render(row, kind.name, cost)) + " |")
    how = "; ".join(f"{kind.name}: {kind.configuration}" for kind in TRAINERS)
    return [NOTE, "\n".join(lines), f"How: {how}."]


def _render(row: TrainingRow, name: str, cost: StepCost) -> list[str]:
    place = [f"{row.network}, {' x '.join(map(str, row.batch))}", row.layout, name]
    if cost.refusal is not None:
        return [*place, f"refused: {cost.refusal}", *[""] * 4]
    assert cost.seconds is not None
    assert cost.ratio is not None
    base = row.costs[FLOAT].bytes
    memory = "" if cost.bytes is None or not base else f"{cost.bytes / base:.2f}"
    differs = "" if cost.differs is None else f"{100 * cost.differs:.2g} %"
    most = "" if cost.most_steps is None else f"{cost.most_steps:.0f}"
    ratio = f"{cost.ratio.median:.2f} ({cost.ratio.lower:.2f} to {cost.ratio.upper:.2f})"
    return [*place, f"{1e3 * cost.seconds.median:.1f} ms", ratio, memory, differs, most]
