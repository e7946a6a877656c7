"""Time callables against each other, in turn, in one process.

Machines are shared and drift, so the candidates take turns call by call and the ratio is what counts: the
median of many calls, with the tenth and ninetieth percentile as the spread. Imports: the standard library.
Neighbours: the demo times whole models with it, `intaglio doctor` a few layers.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median, quantiles

__all__ = ["Timing", "time_in_turn"]

_WARMUP_CALLS = 3
_FEWEST_CALLS = 10
_MOST_CALLS = 1000


@dataclass(frozen=True)
class Timing:
    """Milliseconds a call: the median, the tenth and the ninetieth percentile of `calls`."""

    median_ms: float
    low_ms: float
    high_ms: float
    calls: int


def time_in_turn(candidates: Mapping[str, Callable[[], object]], *, seconds: float) -> dict[str, Timing]:
    """Call every candidate in turn for about `seconds` in all, and at least ten times each.

    >>> timings = time_in_turn({"sleep": lambda: time.sleep(0.001), "nothing": lambda: None}, seconds=0)
    >>> timings["nothing"].median_ms < timings["sleep"].median_ms
    True
    """
    taken: dict[str, list[float]] = {name: [] for name in candidates}
    for call in candidates.values():
        for _ in range(_WARMUP_CALLS):
            call()
    end = time.perf_counter() + seconds
    for turn in range(_MOST_CALLS):
        if turn >= _FEWEST_CALLS and time.perf_counter() > end:
            break
        for name, call in candidates.items():
            start = time.perf_counter()
            call()
            taken[name].append(1e3 * (time.perf_counter() - start))
    return {name: _summarize(calls) for name, calls in taken.items()}


def _summarize(calls: list[float]) -> Timing:
    tenths = quantiles(calls, n=10, method="inclusive")
    return Timing(median(calls), tenths[0], tenths[-1], len(calls))
