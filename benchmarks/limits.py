"""The limits of this CPU, for the threads in use: what no program can exceed.

They are gauges of `timing.time_in_turn`, read once a round next to the contestants, because the clock drifts.
May import `intaglio._core`, whose loops do the measuring with the GIL released.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from intaglio import _core

__all__ = ["Limits"]

SECONDS = 2e-3


class Limits:
    """Measures with as many threads as the contestants use, each on a core of its own."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._pool = ThreadPoolExecutor(threads)

    def peak_int8(self) -> float:
        """Operations a second of the int8 dot-product instruction alone."""
        return self._sum_over_threads(partial(_core.measure_peak_int8, _core.active_isa(), SECONDS))

    def read_bandwidth(self, size: int) -> float:
        """Bytes a second at which `size` bytes, shared out to the threads, are read again and again."""
        return self._sum_over_threads(partial(_core.measure_read_bandwidth, size // self.threads, SECONDS))

    def _sum_over_threads(self, measure: Callable[[], float]) -> float:
        return sum(pending.result() for pending in [self._pool.submit(measure) for _ in range(self.threads)])
