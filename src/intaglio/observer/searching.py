"""How a range is chosen from the distribution of the values seen: plain functions, no state.

Everything is computed in float64 by numpy, whose calls cost less than torch's on arrays as small as these, on
values divided by the largest magnitude, so that squares neither overflow nor vanish. May import nothing from
the package.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Distribution",
    "least_divergence_range",
    "least_squares_range",
    "percentile_range",
    "refined_range",
]

Array = NDArray[np.float64]

CANDIDATES = 20
"""Ends tried on each side in the first round, in equal ratios from the extreme to the median."""

AROUND = np.array([0.0, 0.25, 0.5, 0.75, 1.0])
ROUNDS = 3
"""Further rounds, each of nine ends on each side between the neighbours of the best so far."""

SMALLEST_RATIO = 2.0**-40
"""No end lies closer to zero than this part of the extreme."""

DIVERGENCE_RANGES = 64
"""Parts of the range tried by `least_divergence_range`."""


@dataclass(frozen=True)
class Distribution:
    """Values in ascending order and how often each was seen: two `(N,)` float64 arrays."""

    values: Array
    counts: Array

    def histogram(self, low: float, high: float, bins: int) -> Array:
        """How many values lie in each of `bins` equal parts of `low..high`, `(bins,)`.

        What was counted at one value is spread evenly over the half ways to its neighbours, zero excepted.
        """
        if len(self.values) == 1 or high <= low:
            found = np.zeros(bins)
            found[0] = self.counts.sum()
            return found
        at_zero = self.values == 0
        values, counts = self.values, np.where(at_zero, 0.0, self.counts)
        edges = np.concatenate([values[:1], (values[1:] + values[:-1]) / 2, values[-1:]])
        below = np.interp(np.linspace(low, high, bins + 1), edges, np.concatenate([[0.0], counts.cumsum()]))
        found = np.diff(below)
        zeros = float(self.counts[at_zero].sum())
        found[min(max(int((0.0 - low) / (high - low) * bins), 0), bins - 1)] += zeros
        return found


class _Errors:
    """Squared errors of quantizing a distribution to a range, from running sums: each in O(log N).

    Inside the range a rounding error is taken to be spread evenly over a step, so that its mean square is
    `step^2 / 12`; but values nearer to zero than half a step become zero, which costs just their square.
    """

    def __init__(self, seen: Distribution, steps: int) -> None:
        self.reach = float(max(-seen.values[0], seen.values[-1]))
        self.values = seen.values / self.reach
        self.steps = steps
        moments = np.empty((3, len(self.values) + 1))
        moments[:, 0] = 0.0
        first = seen.counts * self.values
        np.cumsum(seen.counts, out=moments[0, 1:])
        np.cumsum(first, out=moments[1, 1:])
        np.cumsum(first * self.values, out=moments[2, 1:])
        self.moments = moments

    def below(self, ends: Array) -> Array:
        """Count, sum and sum of squares of the values below each of `ends`: `(3, ...)`."""
        found: Array = self.moments[:, np.searchsorted(self.values, ends)]
        return found

    def of_cuts(self, ends: Array, below: Array) -> Array:
        """What it costs to cut the values, of which there are `below`, to `ends`."""
        found: Array = np.maximum(below[2] - ends * (2 * below[1] - ends * below[0]), 0.0)
        return found

    def of_ranges(self, low: Array, high: Array) -> Array:
        """The error of the range from each of `low` to each of `high`, of shapes that broadcast."""
        under, inside = self.below(low), self.below(high)
        over = self.moments[:, -1].reshape(3, *[1] * high.ndim) - inside
        cuts = self.of_cuts(low, under) + self.of_cuts(high, over)
        half = (high - low) / (2 * self.steps)
        above, beneath = self.below(half), self.below(-half)
        between = inside[0] - under[0]
        near = np.minimum(above[0] - beneath[0], between)
        found: Array = cuts + (between - near) * (half * half / 3) + (above[2] - beneath[2])
        return found


def least_squares_range(seen: Distribution, steps: int, symmetric: bool) -> tuple[float, float]:
    """The range, zero included, that quantizes `seen` in `steps` equal steps with the least squared error.

    Symmetric: of equal reach both ways, with `steps // 2` steps each.
    """
    errors = _Errors(seen, steps)
    lows = _first_ends(-errors.values[::-1], seen.counts[::-1])
    highs = _first_ends(errors.values, seen.counts)
    if symmetric:
        highs = lows = highs if highs[0] >= lows[0] else lows
    for _ in range(ROUNDS + 1):
        if symmetric:
            column = row = int(errors.of_ranges(-highs, highs).argmin())
        else:
            row, column = divmod(int(errors.of_ranges(-lows[:, None], highs).argmin()), len(highs))
        found = -float(lows[row]) * errors.reach, float(highs[column]) * errors.reach
        lows, highs = _ends_around(lows, row), _ends_around(highs, column)
    return found


def _first_ends(values: Array, counts: Array) -> Array:
    """Ends on the positive side of ascending `values`, from the largest to the median there; 0 if none is."""
    start = int(np.searchsorted(values, 0.0, side="right"))
    if start == len(values):
        return np.zeros(1)
    below = np.cumsum(counts[start:])
    largest = float(values[-1])
    median = float(values[start + int(np.searchsorted(below, below[-1] / 2))])
    ratio = max(median / largest, SMALLEST_RATIO)
    found: Array = largest * ratio ** np.linspace(0.0, 1.0, CANDIDATES)
    return found


def _ends_around(ends: Array, best: int) -> Array:
    """Ends from the one before the best to the one after it, the best among them."""
    if len(ends) == 1:
        return ends
    before, middle, after = ends[max(best - 1, 0)], ends[best], ends[min(best + 1, len(ends) - 1)]
    return np.concatenate([before + (middle - before) * AROUND, middle + (after - middle) * AROUND[1:]])


def refined_range(
    seen: Distribution, guess: tuple[float, float], steps: int, symmetric: bool
) -> tuple[float, float]:
    """The best of the ranges around `guess`, and of the whole, with each value rounded to its own integer."""
    reach = float(max(-seen.values[0], seen.values[-1]))
    values = seen.values / reach
    low, high = min(guess[0], 0.0) / reach, max(guess[1], 0.0) / reach
    whole = (min(float(values[0]), 0.0), max(float(values[-1]), 0.0))
    factors = np.linspace(0.84, 1.16, 17)
    if symmetric:
        candidates = [(-1.0, 1.0), *((low * f, high * f) for f in factors)]
    else:
        ends = [(low * f, high * g) for f in factors for g in factors if f == g or f == 1.0 or g == 1.0]
        candidates = [whole, *((max(a, whole[0]), min(b, whole[1])) for a, b in ends)]
    best, least = candidates[0], math.inf
    for start, end in candidates:
        step = (end - start) / steps
        zero = round(-start / step)
        rounded = np.clip(np.rint(values / step), -zero, steps - zero) * step
        error = float((np.square(rounded - values) * seen.counts).sum())
        if error < least:
            best, least = (start, end), error
    return float(best[0]) * reach, float(best[1]) * reach


def percentile_range(seen: Distribution, part: float) -> tuple[float, float]:
    """The smallest range beyond whose either end lies at most `1 - part` of the values."""
    below = np.cumsum(seen.counts)
    total, last = float(below[-1]), len(below) - 1
    low = int(np.searchsorted(below, total * (1 - part), side="right"))
    high = int(np.searchsorted(below, total * part))
    return float(seen.values[min(low, last)]), float(seen.values[min(high, last)])


def least_divergence_range(seen: Distribution, bins: int, levels: int) -> tuple[float, float]:
    """The part of the range, shrunk towards zero, whose quantized histogram keeps the most information.

    `bins` equal bins, at least four a level. Values beyond a part fall into its outermost bins; the
    divergence is that of the true histogram from the one in which each level's values are spread evenly.
    """
    low, high = min(float(seen.values[0]), 0.0), max(float(seen.values[-1]), 0.0)
    bins = max(bins, 4 * levels)
    # What is exactly zero is represented exactly by every range, and says nothing about where to cut.
    there = seen.values != 0
    if int(there.sum()) < 2:
        return low, high
    histogram = Distribution(seen.values[there], seen.counts[there]).histogram(low, high, bins)
    width = (high - low) / bins
    zero = round(-low / width)
    best, least = (low, high), math.inf
    for part in np.linspace(1.0, levels / bins, DIVERGENCE_RANGES):
        first, last = zero - round(zero * part), zero + round((bins - zero) * part)
        divergence = _divergence(histogram, first, last, levels)
        if divergence < least:
            least, best = divergence, (low + first * width, low + last * width)
    return best


def _divergence(histogram: Array, first: int, last: int, levels: int) -> float:
    """Kullback-Leibler divergence of bins `first..last`, with what lies beyond, from `levels` levels."""
    inside = histogram[first:last]
    if len(inside) < levels or not inside.any():
        return math.inf
    true = inside.copy()
    true[0] += histogram[:first].sum()
    true[-1] += histogram[last:].sum()
    level: Any = np.arange(len(inside)) * levels // len(inside)
    occupied = inside > 0
    mass = np.bincount(level, inside, levels)
    places = np.bincount(level, occupied, levels)
    spread = (mass / np.maximum(places, 1))[level] * occupied
    true, spread = true / true.sum(), spread / spread.sum()
    # A bin into which only values from beyond fell is given a little, so that the divergence is finite.
    spread = np.where((true > 0) & (spread <= 0), 1e-4 / len(inside), spread)
    some = true > 0
    return float((true[some] * np.log(true[some] / spread[some])).sum())
