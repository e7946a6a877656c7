"""Eager PyTorch: the float32 model as it is, and the legacy dynamic quantization on each of its engines."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import nn

from benchmarks.contestants.contestant import Contestant, Program
from benchmarks.workloads import Inputs, Network

__all__ = ["LegacyFbgemm", "LegacyOnednn", "TorchFloat"]


class TorchFloat(Contestant):
    """The user's model before quantization; also the reference for accuracy."""

    name = "torch float32"
    configuration = "eager, MKL and oneDNN"

    def bind(self, inputs: Inputs) -> Program:
        """Call the module."""
        module = self.network.module
        return Program(lambda: module(*inputs), lambda: module(*inputs))


class LegacyDynamic(Contestant):
    """`torch.ao.quantization.quantize_dynamic`, weights per channel."""

    engine: ClassVar[str]

    def __init__(self, network: Network, threads: int) -> None:
        super().__init__(network, threads)
        # The engine decides how weights are packed; running needs it no more.
        torch.backends.quantized.engine = self.engine
        self.module = _quantize_legacy(network.module)

    def bind(self, inputs: Inputs) -> Program:
        """Call the quantized module."""
        return Program(lambda: self.module(*inputs), lambda: self.module(*inputs))


class LegacyFbgemm(LegacyDynamic):
    """The x86 default of PyTorch before 2.0."""

    name = "legacy fbgemm"
    configuration = (
        "`torch.ao.quantization.quantize_dynamic`, weights per channel (RNN: per tensor), engine fbgemm"
    )
    engine = "fbgemm"


class LegacyOnednn(LegacyDynamic):
    """oneDNN's kernels behind the same modules."""

    name = "legacy onednn"
    configuration = "the same, engine onednn"
    engine = "onednn"


def _quantize_legacy(module: nn.Module) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated: that is why intaglio exists
        from torch.ao import quantization

        # Linear per channel costs it no time and gains 4 to 9 dB; the legacy LSTM knows per tensor alone.
        spec = {
            nn.Linear: quantization.per_channel_dynamic_qconfig,
            nn.LSTM: quantization.default_dynamic_qconfig,
        }
        # Wrapped, because the legacy function leaves the root module alone.
        quantize: Callable[..., nn.Sequential] = quantization.quantize_dynamic
        return quantize(nn.Sequential(module), spec)[0]
