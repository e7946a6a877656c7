"""What came out: records to and from JSON, and the table of accuracy by bits and method.

Imports: the standard library, and rich for the terminal's table. Neighbours: `study` makes the records,
`plot` draws them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from rich.table import Table

__all__ = ["Run", "Score", "Spread", "render_markdown", "render_table", "spread_of"]

COLUMNS = ("weights", "PTQ", "QAT", "PTQ - float", "QAT - float", "QAT in float", "answers that differ")

NOTES = """\
Activations have 8 bits. Weights of fewer than 8 are stored as int8; they are symmetric, so 4, 3 and 2 bits
are 15, 7 and 3 values. **PTQ** is quantized after training; **QAT** is trained on from the same float network
with the rounding in the loop. Differences are to the float network of the same seed. **QAT in float** is the
model that was trained, whose rounding is simulated; the last column says of how many pictures the int8 model
made of it thinks otherwise, seed by seed.\
"""


@dataclass(frozen=True)
class Score:
    """One network.

    Attributes
    ----------
    seed:
        of the training.
    method:
        `"float"`, `"PTQ"` or `"QAT"`.
    bits:
        of the weights; 32 for float.
    accuracy:
        in percent; for QAT, of the int8 model.
    simulated:
        the accuracy of the model that was trained, which rounds in float what the int8 model computes.
    changed:
        how many of the pictures the two class differently.
    """

    seed: int
    method: str
    bits: int
    accuracy: float
    simulated: float | None = None
    changed: int | None = None


@dataclass(frozen=True)
class Run:
    """All scores, and how they came about."""

    about: dict[str, Any]
    scores: list[Score]

    def write(self, path: Path) -> None:
        """As JSON."""
        content = {"about": self.about, "scores": [asdict(score) for score in self.scores]}
        path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> Run:
        """What `write` wrote."""
        content = json.loads(path.read_text(encoding="utf-8"))
        return cls(content["about"], [Score(**score) for score in content["scores"]])


@dataclass(frozen=True)
class Spread:
    """The mean over the seeds, the standard deviation between them, the lowest and the highest.

    A single seed has no deviation.
    """

    mean: float
    deviation: float | None
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.2f}" + ("" if self.deviation is None else f" ± {self.deviation:.2f}")


def spread_of(scores: Sequence[Score], method: str, bits: int, *, minus_float: bool = False) -> Spread | None:
    """The accuracy of a method at so many bits, or its difference to the float network of the same seed."""
    start = {
        score.seed: score.accuracy if minus_float else 0.0 for score in scores if score.method == "float"
    }
    return _spread([s.accuracy - start[s.seed] for s in scores if (s.method, s.bits) == (method, bits)])


def _spread(values: Sequence[float]) -> Spread | None:
    if not values:
        return None
    return Spread(mean(values), stdev(values) if len(values) > 1 else None, min(values), max(values))


def _rows(scores: Sequence[Score]) -> list[tuple[str, ...]]:
    rows = []
    for bits in sorted({score.bits for score in scores if score.method != "float"}, reverse=True):
        trained = [score for score in scores if (score.method, score.bits) == ("QAT", bits)]
        cells = [
            spread_of(scores, "PTQ", bits),
            spread_of(scores, "QAT", bits),
            spread_of(scores, "PTQ", bits, minus_float=True),
            spread_of(scores, "QAT", bits, minus_float=True),
            _spread([score.simulated for score in trained if score.simulated is not None]),
        ]
        changed = ", ".join(str(score.changed) for score in trained)
        rows.append((f"{bits} bits", *("-" if cell is None else str(cell) for cell in cells), changed or "-"))
    return rows


def _caption(run: Run) -> str:
    seeds = len({score.seed for score in run.scores})
    before = spread_of(run.scores, "float", 32)
    return f"float32: {before}. Percent of {run.about['judged']:,} pictures classed rightly: " + (
        "one seed." if seeds == 1 else f"mean and standard deviation of {seeds} seeds."
    )


def render_table(run: Run) -> Table:
    """For the terminal."""
    table = Table(title="Fashion-MNIST, activations of 8 bits", caption=_caption(run))
    for column in COLUMNS:
        table.add_column(column, justify="left" if column == "weights" else "right")
    for row in _rows(run.scores):
        table.add_row(*row)
    return table


def render_markdown(run: Run) -> str:
    """The page of results."""
    about = run.about
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    lines = [
        "# Fashion-MNIST: accuracy by bits of the weights",
        "",
        "Written by `python -m examples.fashion_mnist`; the figures behind it are in `results.json`.",
        "",
        _caption(run),
        "",
        *(f"| {' | '.join(row)} |" for row in (COLUMNS, ["---"] * len(COLUMNS), *_rows(run.scores))),
        "",
        NOTES,
        "",
        f"{about['date']}; {about['cpu']}, instruction set {about['isa']}; {versions}. {about['training']}",
    ]
    return "\n".join(lines) + "\n"
