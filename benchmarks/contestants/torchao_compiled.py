"""torchao's dynamic int8, compiled by Inductor: generated C++ around oneDNN's matmuls."""

from __future__ import annotations

import copy
import logging
import warnings

import torch

from benchmarks.contestants.contestant import Contestant, Program
from benchmarks.workloads import Inputs, Network

__all__ = ["TorchaoCompiled"]


class TorchaoCompiled(Contestant):
    """`Int8DynamicActivationInt8WeightConfig` under `torch.compile`."""

    name = "torchao compiled"
    configuration = (
        "`Int8DynamicActivationInt8WeightConfig`, `torch.compile(mode='max-autotune', dynamic=False)`, "
        "Inductor freezing"
    )
    skips = frozenset({"kernels", "vision"})
    stays_float = frozenset({"lstm"})

    def __init__(self, network: Network, threads: int) -> None:
        super().__init__(network, threads)
        logging.getLogger("torchao").setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from torch._inductor import config as inductor
            from torchao import quantization

            inductor.freezing = True
            self.module = copy.deepcopy(network.module)
            quantization.quantize_(self.module, quantization.Int8DynamicActivationInt8WeightConfig())

    def bind(self, inputs: Inputs) -> Program:
        """Compile for exactly these shapes."""
        compiled = torch.compile(self.module, mode="max-autotune", dynamic=False)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compiled(*inputs)
        return Program(lambda: compiled(*inputs), lambda: compiled(*inputs))
