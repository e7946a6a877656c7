"""intaglio: `quantize_dynamic` as a user calls it, and for a Linear the kernel call within."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

import intaglio
from benchmarks.contestants.contestant import Contestant, Program
from benchmarks.results import OUR_KERNEL, OURS
from benchmarks.workloads import Inputs, Network
from intaglio import _core
from intaglio.nn.linear import DynamicLinear

__all__ = ["Intaglio", "IntaglioKernel"]


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


class IntaglioKernel(Intaglio):
    """What `Intaglio` runs for a Linear, without the Python around it: one call of the C++ core."""

    name = OUR_KERNEL
    configuration = "the kernel call inside that module, into memory that is there already"
    skips = frozenset({"minilm", "lstm"})

    def bind(self, inputs: Inputs) -> Program:
        """Call the core with addresses."""
        (x,) = inputs
        module = self.module
        assert isinstance(module, DynamicLinear)
        y = torch.empty(len(x), module.out_features)
        call = partial(
            _core.linear_dynamic,
            x.data_ptr(),
            len(x),
            module.in_features,
            module.packed.data_ptr(),
            module.per_row,
            False,
            0.0,
            0.0,
            y.data_ptr(),
            self.threads,
        )

        def read() -> Tensor:
            call()
            return y

        return Program(call, read)
