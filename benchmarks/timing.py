"""Timing contestants against each other, on a machine that may be noisy.

An absolute time is worth little on a shared or throttling CPU: the speed moves between one minute and the
next. So the contestants take turns, round after round in a shuffled order, and a ratio is the median over
the rounds of the two times measured in the *same* round. Imports only the standard library.
"""

from __future__ import annotations

import gc
import math
import random
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

__all__ = ["Pace", "Spread", "time_in_turn"]

# A turn: PAUSE asleep, so that the previous contestant's worker threads stop spinning on our cores (libgomp
# and ONNX Runtime spin for about a millisecond); WARM untimed, to fill the caches and wake our own; then the
# time of the fastest of SLICES, so that a slice in which the system ran something else is not counted.
PAUSE_SECONDS = 3e-3
WARM_SECONDS = 2e-3
SLICE_SECONDS = 1.5e-3
SLICES = 3


@dataclass(frozen=True)
class Pace:
    """How long to go on: rounds until `seconds` have passed, within the two bounds."""

    seconds: float
    fewest_rounds: int
    most_rounds: int


@dataclass(frozen=True)
class Spread:
    """Median and quartiles of a sample."""

    median: float
    lower: float
    upper: float

    @classmethod
    def of(cls, sample: list[float]) -> Spread:
        """The spread of `sample`, of two values or more."""
        lower, median, upper = statistics.quantiles(sample, n=4, method="inclusive")
        return cls(median, lower, upper)


def time_in_turn(
    runs: Mapping[str, Callable[[], object]],
    gauges: Mapping[str, Callable[[], float]],
    pace: Pace,
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Time every run and read every gauge once a round.

    Args:
        runs: the contestants' calls.
        gauges: limits of the CPU, read in each round because they drift as it does.
        pace: for how many rounds.

    Returns:
        Seconds a call of each run, and readings of each gauge; element `i` of every list is from round `i`.
    """
    repeats = {name: _choose_repeats(run) for name, run in runs.items()}
    times: dict[str, list[float]] = {name: [] for name in runs}
    readings: dict[str, list[float]] = {name: [] for name in gauges}
    shuffle = random.Random(0).shuffle
    start = time.perf_counter()
    gc.collect()
    gc.disable()
    try:
        for done in range(pace.most_rounds):
            if done >= pace.fewest_rounds and time.perf_counter() - start > pace.seconds:
                break
            order = [*runs, *gauges]
            shuffle(order)
            for name in order:
                time.sleep(PAUSE_SECONDS)
                if name in runs:
                    times[name].append(_take_turn(runs[name], *repeats[name]))
                else:
                    readings[name].append(gauges[name]())
    finally:
        gc.enable()
    return times, readings


def _choose_repeats(run: Callable[[], object]) -> tuple[int, int]:
    """How many untimed calls, and how many in a slice, make a turn of `run`."""
    run()  # the first call may allocate, pack or compile
    one = min(_seconds_of(run, 1) for _ in range(3))
    return math.ceil(WARM_SECONDS / one), math.ceil(SLICE_SECONDS / one)


def _take_turn(run: Callable[[], object], warm: int, slice_calls: int) -> float:
    _seconds_of(run, warm)
    return min(_seconds_of(run, slice_calls) for _ in range(SLICES)) / slice_calls


def _seconds_of(run: Callable[[], object], calls: int) -> float:
    begin = time.perf_counter()
    for _ in range(calls):
        run()
    return time.perf_counter() - begin
