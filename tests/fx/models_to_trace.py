"""Forwards that are hard to trace; here, since pytest rewrites the assertions of its own files."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Model(nn.Module):
    """A forward given as a function of the module and its arguments."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.conv, self.linear = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4, 4)
        self.blocks = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))
        self.token = nn.Parameter(torch.randn(1, 1, 4))
        self.function = function
        self.eval()

    def forward(self, x: Tensor) -> Any:
        return self.function(self, x)


def asserts(m: Any, x: Tensor) -> Tensor:
    b, c, h, w = x.shape
    assert c == 3, "three channels"
    if x.dim() != 4 or x.shape[1] > 5:
        raise ValueError(f"an image is wanted, not {tuple(x.shape)}")
    if not isinstance(x, Tensor) or torch.is_tensor(c):
        raise TypeError
    return m.conv(x).view(b, -1, h * w)


def arithmetic(m: Any, x: Tensor) -> Tensor:
    h, w = x.shape[-2:]
    rows = max(math.ceil(h / 2) * 2 - h, 0)
    side = int(w * 0.5)
    x = F.pad(m.conv(x), (0, 1, 0, rows))
    return F.interpolate(x, size=(round(h / 2), side + min(1, w))).reshape(len(x), 4, -1)


def factories(m: Any, x: Tensor) -> Tensor:
    b = x.size(0)
    y = m.conv(x).flatten(2).transpose(1, 2)
    y = torch.cat([m.token.expand(b, -1, -1), y, torch.zeros(b, 2, 4, device=x.device, dtype=x.dtype)], dim=1)
    return y + torch.arange(y.shape[1]).unsqueeze(1)


def generators(m: Any, x: Tensor) -> Tensor:
    y = m.conv(x).mean((2, 3))
    outputs = [block(y) for block in m.blocks]
    if any(part.dtype is not torch.float32 for part in outputs):
        raise TypeError
    return sum(part * scale for part, scale in zip(outputs, (1.0, 2.0, 0.5), strict=True))


def structures(m: Any, x: Tensor) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for number, part in enumerate(m.conv(x).chunk(2, 1)):
        found[f"part{number}"] = part
    found["shape"] = found["part0"].shape
    _, *rest = found["part1"].shape
    return {**found, "all": list(found.values())[:2], "rest": rest}


class Answers(OrderedDict[str, Tensor]):
    """A dict of a class of its own, as transformers answers with."""


class Answering(nn.Module):
    """Gives `Answers`."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.eval()

    def forward(self, x: Tensor) -> Answers:
        return Answers(y=self.linear(x))


class Remembers(nn.Module):
    """Adds what it was given in the call before."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.last: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        y = self.linear(x)
        found = y if self.last is None else y + self.last
        self.last = y
        return found


class Counts(nn.Module):
    """Counts its calls in a buffer."""

    calls: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.linear(x) * self.calls


class Writes(nn.Module):
    """Writes into a buffer."""

    seen: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.register_buffer("seen", torch.zeros(4))

    def forward(self, x: Tensor) -> Tensor:
        self.seen.mul_(0.5).add_(x.mean((0, 1, 2)))
        return self.linear(x) + self.seen
