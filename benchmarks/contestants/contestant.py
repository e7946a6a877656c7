"""What a contestant is: a runtime that takes a float network and inputs, and gives back a call to time.

Each subclass stands in the file of its runtime and sets that runtime up as its own documentation would for
the best speed. A contestant that cannot take a network raises, and the reason is printed in the table.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from benchmarks.workloads import Inputs, Network

__all__ = ["Contestant", "Program"]


@dataclass(frozen=True)
class Program:
    """A network ready to run on fixed inputs.

    Attributes:
        run: computes once; this is what is timed.
        read: computes once and returns the output, for the comparison with float32.
    """

    run: Callable[[], object]
    read: Callable[[], Tensor]


class Contestant(ABC):
    """A runtime at work on one network.

    Attributes:
        name: its column in the tables.
        configuration: how it is set up, one line for the report.
        stays_float: the groups of workloads (`Network.group`) that it takes but computes in float.
        skips: the groups in whose tables it has no column.
    """

    name: ClassVar[str]
    configuration: ClassVar[str]
    stays_float: ClassVar[frozenset[str]] = frozenset()
    skips: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, network: Network, threads: int) -> None:
        self.network = network
        self.threads = threads

    @abstractmethod
    def bind(self, inputs: Inputs) -> Program:
        """Make the network ready for inputs of these shapes.

        Raises:
            Exception: of any kind, if this runtime cannot run the network.
        """
