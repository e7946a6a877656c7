"""Where the arrays of a plan lie in its arena, so that those which are not needed at once share memory.

Buffers are placed one by one, the largest first, each at the lowest offset at which nothing lies that lives
at the same time (Pisarchyk and Lee, "Efficient Memory Management for Deep Neural Net Inference", 2020). May
import array and planner.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from intaglio.runtime.array import Buffer
from intaglio.runtime.planner import Call, HostCall

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
    lives: dict[int, list[int]] = {}
    buffers: dict[int, Buffer] = {}
    for moment, call in enumerate(calls):
        for array in (*call.read(), *call.written()):
            if array.buffer.home == "arena":
                buffers[id(array.buffer)] = array.buffer
                lives.setdefault(id(array.buffer), [moment, moment])[1] = moment
    live = [0] * len(calls)
    for key, (first, last) in lives.items():
        for moment in range(first, last + 1):
            live[moment] += _room(buffers[key])
    placed: list[tuple[int, int, int, int]] = []  # offset, end, first, last
    offsets: dict[int, int] = {}
    for key in sorted(lives, key=lambda key: -buffers[key].bytes):
        first, last = lives[key]
        room = _room(buffers[key])
        offset = 0
        for begin, end, other_first, other_last in placed:
            if other_first <= last and first <= other_last:
                if begin - offset >= room:
                    break
                offset = max(offset, end)
        offsets[key] = offset
        placed.append((offset, offset + room, first, last))
        placed.sort()
    return Arena(offsets, max((end for _, end, _, _ in placed), default=0), max(live, default=0))


def _room(buffer: Buffer) -> int:
    return -(-buffer.bytes // _ALIGNMENT) * _ALIGNMENT
