"""intaglio: programs as a user makes them, the modules by themselves, and for a Linear the kernel call
within."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import intaglio
from benchmarks.contestants.contestant import Contestant, Program
from benchmarks.results import OUR_KERNEL, OUR_MODULES, OURS
from benchmarks.workloads import Inputs, Network
from intaglio import _core
from intaglio.nn.linear import DynamicLinear

__all__ = ["Intaglio", "IntaglioKernel", "IntaglioModules"]

STATIC = frozenset({"vision"})
"""The groups whose networks have stubs."""


def quantize_static(network: Network) -> nn.Module:
    """Fused, calibrated on the network's batches and converted."""
    fused: Any = intaglio.fuse_modules(network.module)
    fused.qconfig = intaglio.get_default_qconfig("x86")
    prepared = intaglio.prepare(fused, inplace=True)
    for batch in network.calibration:
        prepared(*batch)
    return intaglio.convert(prepared, inplace=True)


class IntaglioModules(Contestant):
    """The project's own modules, defaults everywhere."""

    name = OUR_MODULES
    configuration = "the same model, called as it is: eager, module by module"
    skips = frozenset({"kernels"})

    def __init__(self, network: Network, threads: int) -> None:
        super().__init__(network, threads)
        is_static = network.group in STATIC
        self.module = quantize_static(network) if is_static else intaglio.quantize_dynamic(network.module)

    def bind(self, inputs: Inputs) -> Program:
        """Call the quantized module."""
        return Program(lambda: self.module(*inputs), lambda: self.module(*inputs))


class Intaglio(IntaglioModules):
    """The same compiled: what a user gets with one word more. A single Linear is called as a module."""

    name = OURS
    configuration = (
        "`intaglio.compile(intaglio.quantize_dynamic(model))`; networks with stubs by "
        "`fuse_modules`, `prepare` "
        "and `convert` with the x86 qconfig; defaults; a single Linear is not compiled"
    )
    skips = frozenset()

    def bind(self, inputs: Inputs) -> Program:
        """Call the program."""
        if self.network.group == "kernels":
            return super().bind(inputs)
        program = intaglio.compile(self.module, inputs)
        return Program(lambda: program(*inputs), lambda: program(*inputs))


class IntaglioKernel(IntaglioModules):
    """What `Intaglio` runs for a Linear, without the Python around it: one call of the C++ core."""

    name = OUR_KERNEL
    configuration = "the kernel call inside that module, into memory that is there already"
    skips = frozenset({"minilm", "lstm", "vision"})

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
