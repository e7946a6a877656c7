"""What is made of a plan's calls before they are laid out: fewer of them, of the same bits. May import planner."""

from __future__ import annotations

from collections.abc import Callable

from intaglio.runtime.planner import Call, HostCall

__all__ = ["PASSES"]

Calls = list[Call | HostCall]


def drop_unused(calls: Calls) -> Calls:
    """Without calls whose results nobody reads."""
    kept: Calls = []
    needed: set[int] = set()
    for call in reversed(calls):
        homes = {array.buffer.home for array in call.written()}
        if "output" in homes or any(id(a.buffer) in needed for a in call.written()) or isinstance(call, HostCall):
            kept.append(call)
            needed.update(id(array.buffer) for array in call.read())
    return kept[::-1]


PASSES: tuple[Callable[[Calls], Calls], ...] = ()
