"""Eager PyTorch: the float32 model as it is, and the legacy dynamic quantization on each of its engines."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import nn

import intaglio
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


class Legacy(Contestant):
    """`torch.ao.quantization`, dynamic or static."""

    engine: ClassVar[str]

    def __init__(self, network: Network, threads: int) -> None:
        super().__init__(network, threads)
        # The engine decides how weights are packed; running needs it no more.
        torch.backends.quantized.engine = self.engine
        is_static = network.group in STATIC
        self.module = _convert_legacy(network, self.engine) if is_static else _quantize_legacy(network.module)

    def bind(self, inputs: Inputs) -> Program:
        """Call the quantized module."""
        return Program(lambda: self.module(*inputs), lambda: self.module(*inputs))


class LegacyFbgemm(Legacy):
    """The x86 default of PyTorch before 2.0."""

    name = "legacy fbgemm"
    configuration = (
        "`torch.ao.quantization.quantize_dynamic`, weights per channel (RNN: per tensor); those with stubs "
        "by its eager `fuse_modules`, `prepare`, `convert`, the engine's default qconfig; engine fbgemm"
    )
    engine = "fbgemm"


class LegacyOnednn(Legacy):
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


STATIC = frozenset({"vision"})
"""The groups whose networks have stubs."""


def _convert_legacy(network: Network, engine: str) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torch.ao import quantization

        model = _with_legacy_stubs(network.module)
        # What it knows how to fuse: batch norms, and ReLU but no other activation.
        groups = [_without_others(model, group) for group in intaglio.find_fusable_groups(network.module)]
        model = quantization.fuse_modules(model, [group for group in groups if len(group) > 1])
        model.qconfig = quantization.get_default_qconfig(engine)
        quantization.prepare(model, inplace=True)
        for batch in network.calibration:
            model(*batch)
        return quantization.convert(model, inplace=True)  # type: ignore[no-any-return]


def _without_others(model: nn.Module, group: list[str]) -> list[str]:
    known = (nn.Conv2d, nn.Linear, nn.BatchNorm2d, nn.ReLU)
    return [path for path in group if type(model.get_submodule(path)) in known]


def _with_legacy_stubs(module: nn.Module) -> Any:
    """A copy of a model whose stubs and functionals are those of torch."""
    from torch.ao import quantization
    from torch.ao.nn.quantized import FloatFunctional

    ours: dict[type[nn.Module], Callable[[], nn.Module]] = {
        intaglio.QuantStub: quantization.QuantStub,
        intaglio.DeQuantStub: quantization.DeQuantStub,
        intaglio.FloatFunctional: FloatFunctional,
    }
    model = copy.deepcopy(module)
    for path, part in list(model.named_modules()):
        if type(part) in ours:
            model.set_submodule(path, ours[type(part)]())
    return model
