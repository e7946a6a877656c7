"""What is kept of a model and a tool: plain records, to and from JSON. Imports only `timing`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from benchmarks.timing import Spread

__all__ = ["ModelCoverage", "Outcome", "model_from_dict"]


@dataclass(frozen=True)
class Outcome:
    """One tool at one model; what it did not reach is None.

    Attributes:
        failed_at: the step at which it failed, and then `error` says how.
        quantized: something in the result computes in int8.
        sqnr: mean over inputs that it was not calibrated with, in dB.
        sqnr_others: the worst over inputs of other sizes and kinds that it takes.
        others: how many of those there are, and `others_taken` how many it takes.
        seconds: for a call at batch 1 on one thread, and `float_seconds` for float32 eager's.
        ratio: float32 eager's time over its, of paired rounds; above 1 is faster than float32.
        disturbance: the share of the CPUs that other processes took meanwhile.
        preparation_seconds: from the float model to the first call.
        scores: figures of accuracy on labelled data, and `float_scores` float32's, by name.
        graphs: paths of the modules that became graphs; `[""]` is the whole model.
        left: what could not be traced, by path, and why.
        floats: what has a quantized form and stays float, by path, and why.
        macs: multiplications of a call, and `int8_macs` those of them in int8.
    """

    failed_at: str | None = None
    error: str | None = None
    quantized: bool = False
    sqnr: float | None = None
    sqnr_others: float | None = None
    others: int = 0
    others_taken: int = 0
    seconds: Spread | None = None
    float_seconds: Spread | None = None
    ratio: Spread | None = None
    disturbance: float | None = None
    preparation_seconds: float | None = None
    scores: dict[str, float] = field(default_factory=dict)
    float_scores: dict[str, float] = field(default_factory=dict)
    graphs: list[str] = field(default_factory=list)
    left: dict[str, str] = field(default_factory=dict)
    floats: dict[str, str] = field(default_factory=dict)
    macs: int | None = None
    int8_macs: int | None = None

    @property
    def converts(self) -> bool:
        """It runs, and computes something in int8."""
        return self.failed_at is None and self.quantized and self.sqnr is not None


@dataclass(frozen=True)
class ModelCoverage:
    """All tools at one model; `is_dynamic` if all were told to quantize activations as they come."""

    name: str
    is_real: bool
    is_dynamic: bool
    outcomes: dict[str, Outcome]


def model_from_dict(stored: dict[str, Any]) -> ModelCoverage:
    """A `ModelCoverage` from its `asdict`."""
    outcomes = {}
    for name, outcome in stored["outcomes"].items():
        spreads = {
            key: Spread(**outcome[key]) for key in ("seconds", "float_seconds", "ratio") if outcome[key]
        }
        outcomes[name] = Outcome(**(outcome | spreads))
    return ModelCoverage(**(stored | {"outcomes": outcomes}))
