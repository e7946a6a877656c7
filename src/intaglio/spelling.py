"""Names that a user wrote against those that there are. May import errors."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable

from intaglio.errors import ConfigError

__all__ = ["check_keys", "did_you_mean"]


def did_you_mean(name: str, names: Collection[str]) -> str:
    """The names nearest to `name`, as the end of a message; empty if none is near.

    >>> did_you_mean("layer1.cnov", ["layer1.conv", "head"])
    "; did you mean 'layer1.conv'?"
    """
    near = difflib.get_close_matches(name, names, n=3)
    return f"; did you mean {' or '.join(map(repr, near))}?" if near else ""


def check_keys(what: str, found: Iterable[object], known: Collection[str]) -> None:
    """Raise `ConfigError` for a key of the dict `what` that is none of `known`."""
    for key in found:
        if key not in known:
            hint = did_you_mean(str(key), known) or f": use {', '.join(map(repr, known))}"
            raise ConfigError(f"{what} has the key {key!r}, which means nothing{hint}")
