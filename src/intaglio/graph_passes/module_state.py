"""What modules hold, kept while a forward runs that may write to it. May import nothing from the package."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

__all__ = ["kept_state"]


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
