"""What the demo finds, as plain data: one frozen dataclass a kind of figure, and their JSON form.

Imports: `machine` and `timing`, for their data. Neighbours: `comparison` fills these, the command line
draws them.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from intaglio.machine import Machine
from intaglio.timing import Timing

__all__ = ["DemoReport", "Fidelity", "Latency", "ModelReport", "Pair", "Score"]


@dataclass(frozen=True)
class Pair:
    """One figure of both forms."""

    float32: float
    int8: float

    @property
    def ratio(self) -> float:
        """How many times smaller, or faster, int8 is."""
        return self.float32 / self.int8


@dataclass(frozen=True)
class Latency:
    """Both forms timed in turn at one shape."""

    batch: int
    length: int
    unit: str
    float32: Timing
    int8: Timing

    @property
    def speedup(self) -> float:
        """How many times faster int8 is, by the medians."""
        return self.float32.median_ms / self.int8.median_ms


@dataclass(frozen=True)
class Score:
    """A figure of accuracy on labelled data, for both forms."""

    name: str
    value: Pair


@dataclass(frozen=True)
class Fidelity:
    """How near the int8 embeddings of one set are to the float32 ones."""

    name: str
    embeddings: int
    sqnr_db: float
    mean_cosine: float
    lowest_cosine: float


@dataclass(frozen=True)
class ModelReport:
    """Everything about one network; `resident_bytes` is None where the platform cannot tell."""

    name: str
    description: str
    quantized: int
    layers: int
    data: str
    file_bytes: Pair
    resident_bytes: Pair | None
    latencies: tuple[Latency, ...]
    scores: tuple[Score, ...]
    fidelity: tuple[Fidelity, ...]


@dataclass(frozen=True)
class DemoReport:
    """The whole demo: the machine, both networks, and the time that it took, downloads included."""

    machine: Machine
    versions: dict[str, str]
    models: tuple[ModelReport, ...]
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """The report in JSON's types."""
        return asdict(self)
