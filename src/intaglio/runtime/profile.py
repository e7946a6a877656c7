"""`Profile`: the time of a program's call, kernel by kernel. May import planner and _core."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from intaglio import _core
from intaglio.runtime.calls import Call

__all__ = ["Profile", "Step", "profile_of"]

_PEAK_SECONDS = 0.05


@dataclass(frozen=True)
class Step:
    """One kernel call: where it stands, what it took.

    seconds: the median over the calls.
    operations: multiplications and additions of integers, each counted.
    bytes: read and written, weights included.
    """

    label: str
    kernel: str
    seconds: float
    operations: int
    bytes: int


@dataclass(frozen=True)
class Profile:
    """The steps of a call in order, and what the CPU could do: operations a second of one thread in int8."""

    steps: tuple[Step, ...]
    threads: int
    peak: float

    @property
    def seconds(self) -> float:
        """The time of all steps."""
        return sum(step.seconds for step in self.steps)

    def __str__(self) -> str:
        total = self.seconds or 1.0
        lines = [f"{'step':44} {'kernel':18} {'us':>9} {'%':>6} {'peak %':>7} {'GB/s':>7}"]
        for step in self.steps:
            share = step.operations / (step.seconds * self.peak * self.threads) if step.seconds else 0.0
            lines.append(
                f"{step.label[-44:]:44} {step.kernel[:18]:18} {step.seconds * 1e6:9.1f} "
                f"{100 * step.seconds / total:6.1f} {100 * share if step.operations else 0:7.1f} "
                f"{step.bytes / max(step.seconds, 1e-9) / 1e9:7.1f}"
            )
        operations = sum(step.operations for step in self.steps)
        share = 100 * operations / (total * self.peak * self.threads)
        lines.append(f"{'all':44} {'':18} {total * 1e6:9.1f} {100:6.1f} {share:7.1f}")
        return "\n".join(lines)

    def to_chrome_trace(self, path: str | os.PathLike[str]) -> None:
        """Write the steps as a JSON trace, for chrome://tracing and Perfetto."""
        events: list[dict[str, Any]] = []
        start = 0.0
        for step in self.steps:
            details = {"operations": step.operations, "bytes": step.bytes}
            events.append(
                {"name": step.label, "cat": step.kernel, "ph": "X", "pid": 0, "tid": 0, "args": details}
                | {"ts": start * 1e6, "dur": step.seconds * 1e6}
            )
            start += step.seconds
        with open(path, "w", encoding="utf-8") as file:
            json.dump({"traceEvents": events, "displayTimeUnit": "ms"}, file)


def profile_of(calls: Sequence[Call], runs: Sequence[Sequence[float]], threads: int) -> Profile:
    """The profile of calls whose seconds were measured in each of `runs`."""
    steps = tuple(
        Step(
            call.label,
            call.driver,
            median(run[i] for run in runs),
            2 * call.work,
            sum(
                array.bytes if array.shape else array.buffer.bytes
                for array in (*call.read(), *call.written())
            ),
        )
        for i, call in enumerate(calls)
    )
    return Profile(steps, threads, _core.measure_peak_int8(_core.active_isa(), _PEAK_SECONDS))
