"""A progress bar, drawn by rich where that is installed and somebody is looking."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

__all__ = ["say", "track"]

_T = TypeVar("_T")


def track(items: Iterable[_T], count: int | None, what: str, *, show: bool) -> Iterator[_T]:
    """The items, with a bar on the standard error while they are taken."""
    if not (show and sys.stderr.isatty()):
        yield from items
        return
    try:
        from rich.console import Console
        from rich.progress import track as draw
    except ImportError:
        yield from items
        return
    yield from draw(items, what, total=count, console=Console(stderr=True), transient=True)


def say(text: str, *, show: bool) -> None:
    """One line on the standard error, if somebody is looking."""
    if show and sys.stderr.isatty():
        print(text, file=sys.stderr)
