"""intaglio: `quantize_dynamic` as a user calls it."""

from __future__ import annotations

import intaglio
from benchmarks.contestants.contestant import Contestant, Program
from benchmarks.results import OURS
from benchmarks.workloads import Inputs, Network

__all__ = ["Intaglio"]


class Intaglio(Contestant):
    """The project's own modules, defaults everywhere."""

    name = OURS
    configuration = "`intaglio.quantize_dynamic(model)`, defaults, eager"

    def __init__(self, network: Network, threads: int) -> None:
        super().__init__(network, threads)
        self.module = intaglio.quantize_dynamic(network.module)

    def bind(self, inputs: Inputs) -> Program:
        """Call the quantized module."""
        return Program(lambda: self.module(*inputs), lambda: self.module(*inputs))
