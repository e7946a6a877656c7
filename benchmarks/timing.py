"""Timing contestants against each other, on a machine that may be noisy.

An absolute time is worth little on a shared or throttling CPU: the speed moves between one minute and the
next. So the contestants take turns, round after round in a shuffled order, and a ratio is the median over
the rounds of the two times measured in the *same* round. Rounds in which other processes kept the CPUs busy
do not count as long as there are others. Imports `environment`.
"""

from __future__ import annotations

import gc
import math
import random
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from benchmarks.environment import ForeignClock

__all__ = ["Pace", "Rounds", "Spread", "time_in_turn"]

# A turn: PAUSE asleep, so that the previous contestant's worker threads stop spinning on our cores (libgomp
# and ONNX Runtime spin for about a millisecond); WARM untimed, to fill the caches and wake our own; then the
# time of the fastest of SLICES, so that a slice in which the system ran something else is not counted.
PAUSE_SECONDS = 3e-3
WARM_SECONDS = 2e-3
SLICE_SECONDS = 1.5e-3
SLICES = 3

# A round is quiet if others took at most this share of the CPUs (the system counts in ticks of 10 ms, so a
# short round may read some percent too much).
QUIET = 0.15
PATIENCE = 3


@dataclass(frozen=True)
class Pace:
    """How long to go on: until there are `rounds` quiet ones and `seconds` have passed.

    On a machine that is never quiet it ends after `PATIENCE` times as long, with what there is.
    """

    seconds: float
    rounds: int


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


@dataclass
class Rounds:
    """What the rounds measured; element `i` of every list is from round `i`.

    Attributes:
        seconds: of a call of each run.
        readings: of each gauge.
        disturbance: the share of all CPU time that other processes took.
    """

    seconds: dict[str, list[float]]
    readings: dict[str, list[float]]
    disturbance: list[float] = field(default_factory=list)

    def count_quiet(self) -> int:
        """How many rounds other processes did not disturb."""
        return sum(share <= QUIET for share in self.disturbance)

    def keep_quietest(self, fewest: int) -> Rounds:
        """The quiet rounds; if there are less than `fewest`, so many of the least disturbed."""
        order = sorted(range(len(self.disturbance)), key=self.disturbance.__getitem__)
        kept = sorted(order[: max(fewest, self.count_quiet())])
        return Rounds(
            {name: [values[i] for i in kept] for name, values in self.seconds.items()},
            {name: [values[i] for i in kept] for name, values in self.readings.items()},
            [self.disturbance[i] for i in kept],
        )


def time_in_turn(
    runs: Mapping[str, Callable[[], object]],
    gauges: Mapping[str, Callable[[], float]],
    pace: Pace,
) -> Rounds:
    """Time every run and read every gauge once a round.

    Args:
        runs: the contestants' calls.
        gauges: limits of the CPU, read in each round because they drift as it does.
        pace: for how many rounds.

    Returns:
        The rounds that count.
    """
    repeats = {name: _choose_repeats(run) for name, run in runs.items()}
    rounds = Rounds({name: [] for name in runs}, {name: [] for name in gauges})
    shuffle = random.Random(0).shuffle
    gc.collect()
    gc.disable()
    try:
        start = time.perf_counter()
        while not _is_enough(rounds, time.perf_counter() - start, pace):
            order = [*runs, *gauges]
            shuffle(order)
            clock = ForeignClock()
            for name in order:
                time.sleep(PAUSE_SECONDS)
                if name in runs:
                    rounds.seconds[name].append(_take_turn(runs[name], *repeats[name]))
                else:
                    rounds.readings[name].append(gauges[name]())
            rounds.disturbance.append(clock.read_share())
    finally:
        gc.enable()
    return rounds.keep_quietest(pace.rounds)


def _is_enough(rounds: Rounds, elapsed: float, pace: Pace) -> bool:
    if len(rounds.disturbance) < pace.rounds or elapsed < pace.seconds:
        return False
    return rounds.count_quiet() >= pace.rounds or elapsed > PATIENCE * pace.seconds


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
