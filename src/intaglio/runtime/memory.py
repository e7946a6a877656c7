"""Where the arrays of a plan lie in its arena, so that those which are not needed at once share memory.

Buffers are placed one by one, the largest first, each at the lowest offset at which nothing lies that lives
at the same time (Pisarchyk and Lee, "Efficient Memory Management for Deep Neural Net Inference", 2020). May
import array and planner.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from intaglio.runtime.array import Buffer
from intaglio.runtime.calls import Call, HostCall

__all__ = ["Arena", "lay_out"]

_ALIGNMENT = 64


@dataclass(frozen=True)
class Arena:
    """Offsets of the buffers in the arena, its size, and the most bytes that are live at any moment."""

    offsets: dict[int, int]
    bytes: int
    largest_live: int

    def offset_of(self, buffer: Buffer) -> int:
        """Where a buffer begins."""
        return self.offsets[id(buffer)]


def lay_out(calls: Sequence[Call | HostCall]) -> Arena:
    """Place every buffer of the arena that `calls` use."""
    lives: dict[int, _Life] = {}
    for moment, call in enumerate(calls):
        for array in (*call.read(), *call.written()):
            if array.buffer.home == "arena":
                life = lives.setdefault(
                    id(array.buffer), _Life(id(array.buffer), _room(array.buffer), moment)
                )
                life.last = moment
    live = [0] * len(calls)
    for life in lives.values():
        for moment in range(life.first, life.last + 1):
            live[moment] += life.room
    largest_live = max(live, default=0)
    best: dict[int, int] = {}
    smallest = -1
    for order in _ORDERS:
        offsets, size = _place(sorted(lives.values(), key=order))
        if smallest < 0 or size < smallest:
            best, smallest = offsets, size
        if smallest <= largest_live * _GOOD_ENOUGH:
            break
    return Arena(best, max(smallest, 0), largest_live)


@dataclass
class _Life:
    """A buffer's room and the moments of its first and last use."""

    key: int
    room: int
    first: int
    last: int = 0


_GOOD_ENOUGH = 1.02
_ORDERS: tuple[Callable[[_Life], Any], ...] = (
    lambda life: (-life.room, life.first),
    lambda life: (life.first, -life.room),
    lambda life: (life.first - life.last, -life.room),
    lambda life: (-life.room * (life.last - life.first + 1), life.first),
    lambda life: (-life.last, -life.room),
)
"""Orders of placing, until one wastes next to nothing: the largest first, as they come, the longest ..."""


def _place(lives: Sequence[_Life]) -> tuple[dict[int, int], int]:
    """Offsets of buffers placed one after the other, each at the lowest one that is free, and the size."""
    placed: list[tuple[int, int, _Life]] = []  # offset, end
    offsets: dict[int, int] = {}
    for life in lives:
        offset = 0
        for begin, end, other in placed:
            if other.first <= life.last and life.first <= other.last:
                if begin - offset >= life.room:
                    break
                offset = max(offset, end)
        offsets[life.key] = offset
        bisect.insort(placed, (offset, offset + life.room, life), key=lambda item: item[:2])
    return offsets, max((end for _, end, _ in placed), default=0)


def _room(buffer: Buffer) -> int:
    return -(-buffer.bytes // _ALIGNMENT) * _ALIGNMENT
