"""Models as flat lists of kernel calls, planned and run without torch.

`load(path)` runs what `intaglio.save` wrote, on numpy arrays: numpy is all that it needs, and it is imported
at the first call, so that importing this package takes a few milliseconds.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from intaglio.runtime.array_program import ArrayProgram
    from intaglio.runtime.loading import load

__all__ = ["ArrayProgram", "load"]

_HOMES = {"ArrayProgram": "array_program", "load": "loading"}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"intaglio.runtime.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'intaglio.runtime' has no attribute {name!r}")
