"""What is kept of a run: plain records, to and from JSON. Imports `timing` and the
records of `coverage` and `training`.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.coverage.records import ModelCoverage, model_from_dict
from benchmarks.timing import Spread
from benchmarks.training.records import TrainingRow, row_from_dict

__all__ = [
    "OURS",
    "OUR_DIRECT_FORM",
    "OUR_KERNEL",
    "OUR_MODULES",
    "CaseResult",
    "Entry",
    "Run",
    "case_from_dict",
]

OURS = "intaglio"
OUR_MODULES = "intaglio, module by module"
OUR_KERNEL = "intaglio's kernel"
OUR_DIRECT_FORM = "intaglio's direct form"


@dataclass(frozen=True)
class Entry:
    """One contestant at one case.

    Attributes:
        seconds: for a call.
        ratio: its time over intaglio's, of paired rounds; above 1 is slower than intaglio.
        share: how near it comes to the case's limit, of paired rounds.
        sqnr: of its output against float32, in dB; None for float32 itself.
        stays_float: it ran, but not in int8.
        refusal: why it did not run; then the rest is None.
    """

    seconds: Spread | None = None
    ratio: Spread | None = None
    share: Spread | None = None
    sqnr: float | None = None
    stays_float: bool = False
    refusal: str | None = None


@dataclass(frozen=True)
class CaseResult:
    """All contestants at one case.

    Attributes:
        rounds: how many rounds the figures are from.
        disturbance: the share of the CPUs that other processes took in them.
        limit: what bounds this case, `int8 peak` or `read bandwidth`.
        limit_rate: that limit, measured in the same rounds; operations or bytes a second.
    """

    group: str
    network: str
    case: str
    threads: int
    operations: int
    rounds: int
    disturbance: float
    limit: str
    limit_rate: Spread
    entries: dict[str, Entry]

    @property
    def ours(self) -> Spread:
        """Intaglio's seconds for a call."""
        seconds = self.entries[OURS].seconds
        assert seconds is not None, "a run without intaglio is not a result"
        return seconds


@dataclass
class Run:
    """A whole benchmark: where it ran, what it measured, and what went wrong."""

    environment: dict[str, Any]
    configurations: dict[str, str]
    results: list[CaseResult] = field(default_factory=list)
    coverage: list[ModelCoverage] = field(default_factory=list)
    training: list[TrainingRow] = field(default_factory=list)

    def write(self, path: Path) -> None:
        """Write as JSON, at once or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        part.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")
        os.replace(part, path)

    @classmethod
    def read(cls, path: Path) -> Run:
        """What `write` wrote."""
        stored = json.loads(path.read_text(encoding="utf-8"))
        stored["results"] = [case_from_dict(case) for case in stored["results"]]
        stored["coverage"] = [model_from_dict(model) for model in stored.get("coverage", [])]
        stored["training"] = [row_from_dict(row) for row in stored.get("training", [])]
        return cls(**stored)


def case_from_dict(stored: dict[str, Any]) -> CaseResult:
    """A `CaseResult` from its `asdict`."""
    stored["limit_rate"] = _spread_from_dict(stored["limit_rate"])
    for name, entry in stored["entries"].items():
        spreads = {key: _spread_from_dict(entry[key]) for key in ("seconds", "ratio", "share")}
        stored["entries"][name] = Entry(**(entry | spreads))
    return CaseResult(**stored)


def _spread_from_dict(stored: dict[str, float] | None) -> Spread | None:
    return None if stored is None else Spread(**stored)
