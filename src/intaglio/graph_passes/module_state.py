"""What modules hold, kept while a forward runs that may write to it. May import
traced_values."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import fx, nn

from intaglio.graph_passes.traced_values import CannotTrace

__all__ = ["check_stateless", "held_by", "kept_state", "put_back"]


@contextmanager
def kept_state(module: nn.Module) -> Iterator[None]:
    """Put everything back that a forward may write into modules."""
    kept = [
        (part, dict(vars(part)), dict(part._parameters), dict(part._buffers), dict(part._modules))
        for part in module.modules()
    ]
    buffers = [(buffer, buffer.clone()) for buffer in module.buffers()]
    try:
        yield
    finally:
        for part, attributes, *tables in kept:
            vars(part).clear()
            vars(part).update(attributes)
            for name, table in zip(("_parameters", "_buffers", "_modules"), tables, strict=True):
                held = getattr(part, name)
                held.clear()
                held.update(table)
        with torch.no_grad():
            for buffer, value in buffers:
                buffer.copy_(value)


Held = tuple[dict[str, Any], dict[str, Any]]


def held_by(module: nn.Module) -> Held:
    """A module's attributes and buffers."""
    return dict(vars(module)), dict(module._buffers)


def put_back(module: nn.Module, held: Held) -> None:
    """Let a module hold again what it held before its forward met stand-ins."""
    for now, before in zip((vars(module), held[0]["_buffers"]), held, strict=True):
        now.clear()
        now.update(before)


def check_stateless(module: nn.Module, held: Held) -> None:
    """Raise `CannotTrace` if a forward has put what it computed where the next call would find it."""
    for now, before in zip((vars(module), module._buffers), held, strict=True):
        for name, value in now.items():
            if name in before and isinstance(value, fx.Proxy):
                raise CannotTrace(f"what it keeps in '{name}' from one call to the next")
