"""What a plan consists of: calls of kernels' drivers, calls that are the host's, and what a host is.

May import array and graph.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from intaglio.runtime.array import Array, Quant
from intaglio.runtime.graph import Layer, Node, map_values

__all__ = ["Call", "Host", "HostCall", "arrays_in"]


def arrays_in(value: Any) -> list[Array]:
    """The arrays among the leaves of `value`."""
    found: list[Array] = []
    map_values(value, lambda leaf: found.append(leaf) if isinstance(leaf, Array) else None)
    return found


@dataclass
class Call:
    """One call of a kernel's driver: its arguments by name, arrays standing for their memory.

    `writes` are the names of those that it fills; `work` is its number of multiply-adds in int8.
    """

    driver: str
    label: str
    arguments: dict[str, Any]
    writes: tuple[str, ...]
    work: int = 0

    def written(self) -> list[Array]:
        """The arrays that it fills."""
        return arrays_in([self.arguments[name] for name in self.writes])

    def read(self) -> list[Array]:
        """The arrays that it needs."""
        return arrays_in([value for name, value in self.arguments.items() if name not in self.writes])


@dataclass
class HostCall:
    """A call that the plan does not make itself: `function` of host values, made of `args` and `kwargs`.

    `copied` are the numbers of those `results` that would be views of memory that others use later; `others`
    is what it gave beside tensors, which must be the same in each call.
    """

    label: str
    function: Callable[..., Any]
    args: Any
    kwargs: Any
    results: list[Array] = field(default_factory=list)
    copied: set[int] = field(default_factory=set)
    others: list[Any] = field(default_factory=list)

    def written(self) -> list[Array]:
        """The arrays that it gives."""
        return self.results

    def read(self) -> list[Array]:
        """The arrays that it needs."""
        return arrays_in([self.args, self.kwargs])


class Host(Protocol):
    """What computes the steps that no kernel does, on values of its own kind."""

    def find(self, node: Node, layer: Layer | None) -> Callable[..., Any] | None:
        """What computes a step, or None."""

    def wrap(self, data: np.ndarray[Any, Any], array: Array) -> Any:
        """A host value over this memory."""

    def unwrap(self, value: Any) -> tuple[np.ndarray[Any, Any], Quant | None] | None:
        """A host value's memory and parameters; None of what is no tensor."""

    def constant(self, value: Any) -> Any:
        """What stands in arguments of steps (`Named`) as the host has it."""

    def table(self, name: str, arguments: dict[str, Any], x: Quant, output: Quant) -> np.ndarray[Any, Any]:
        """`(256,) uint8`: what the activation `torch.nn.<name>` makes of each integer of `x`."""
