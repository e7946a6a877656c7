"""The contestants: a model that trains, and what a step of it is. Imports the networks and the peers."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import intaglio
from benchmarks.vision_models import MobileNetV2, ResNet

__all__ = ["NETWORKS", "TRAINERS", "Trainer", "make_batch", "make_step"]

NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "ResNet-18": lambda: ResNet((2, 2, 2, 2), 1),
    "MobileNetV2": MobileNetV2,
}
BATCH = (8, 3, 64, 64)


class Trainer(ABC):
    """A way of training."""

    name: ClassVar[str]
    configuration: ClassVar[str]

    @abstractmethod
    def prepare(self, model: nn.Module, images: Tensor) -> nn.Module:
        """What trains in place of `model`, which is in train mode and may be changed."""

    def convert(self, prepared: nn.Module) -> nn.Module | None:
        """The int8 model of one in eval mode; None for float32."""
        return None


class Float(Trainer):
    """The float model itself."""

    name = "float32"
    configuration = "PyTorch eager"

    def prepare(self, model: nn.Module, images: Tensor) -> nn.Module:
        """Nothing to do."""
        return model


class Eager(Trainer):
    """Ours in eager mode."""

    name = "intaglio"
    configuration = "`fuse_modules_qat`, `prepare_qat`, `get_default_qat_qconfig('x86')`"

    def prepare(self, model: nn.Module, images: Tensor) -> nn.Module:
        """Fuse and prepare."""
        fused = intaglio.fuse_modules_qat(model)
        fused.qconfig = self.qconfig()
        return intaglio.prepare_qat(fused)

    def qconfig(self) -> intaglio.QConfig:
        """What is rounded how."""
        return intaglio.get_default_qat_qconfig("x86")

    def convert(self, prepared: nn.Module) -> nn.Module:
        """Convert."""
        return intaglio.convert(prepared)


class Learned(Eager):
    """Ours with learned step sizes."""

    name = "intaglio, learned scales"
    configuration = "the same with `learned_qat_qconfig` (LSQ weights)"

    def qconfig(self) -> intaglio.QConfig:
        """Weights by learned scales."""
        return intaglio.learned_qat_qconfig


class Graph(Trainer):
    """Ours in graph mode."""

    name = "intaglio FX"
    configuration = "`prepare_qat_fx`, `get_default_qat_qconfig_mapping('x86')`"

    def prepare(self, model: nn.Module, images: Tensor) -> nn.Module:
        """Trace and prepare."""
        return intaglio.prepare_qat_fx(model, intaglio.get_default_qat_qconfig_mapping("x86"), (images,))

    def convert(self, prepared: nn.Module) -> nn.Module:
        """Convert."""
        return intaglio.convert_fx(prepared)


class LegacyGraph(Trainer):
    """PyTorch's own graph mode."""

    name = "legacy FX"
    configuration = (
        "`torch.ao.quantization.quantize_fx.prepare_qat_fx`, default mapping for 'x86', fused observers"
    )

    def prepare(self, model: nn.Module, images: Tensor) -> nn.Module:
        """Trace and prepare."""
        from torch.ao import quantization
        from torch.ao.quantization import quantize_fx

        torch.backends.quantized.engine = "x86"
        mapping = quantization.get_default_qat_qconfig_mapping("x86")
        prepared: nn.Module = quantize_fx.prepare_qat_fx(_without_stubs(model), mapping, (images,))
        return prepared

    def convert(self, prepared: nn.Module) -> nn.Module:
        """Convert."""
        from torch.ao.quantization import quantize_fx

        converted: nn.Module = quantize_fx.convert_fx(copy.deepcopy(prepared))
        return converted


TRAINERS: tuple[type[Trainer], ...] = (Float, Eager, Graph, Learned, LegacyGraph)


def _without_stubs(model: nn.Module) -> nn.Module:
    """Legacy graph mode knows torch's own operators, and not our module of them."""
    for name, part in model.named_modules():
        if isinstance(part, intaglio.FloatFunctional):
            owner = model.get_submodule(name.rpartition(".")[0])
            setattr(owner, name.rpartition(".")[2], _Operators())
        elif isinstance(part, intaglio.QuantStub | intaglio.DeQuantStub):
            setattr(model, name, nn.Identity())
    return model


class _Operators(nn.Module):
    def add(self, x: Tensor, y: Tensor) -> Tensor:
        return torch.add(x, y)

    def add_relu(self, x: Tensor, y: Tensor) -> Tensor:
        return torch.relu(torch.add(x, y))


def make_batch(layout: torch.memory_format) -> tuple[Tensor, Tensor]:
    """Images and labels."""
    torch.manual_seed(1)
    return torch.randn(BATCH).contiguous(memory_format=layout), torch.arange(BATCH[0]) % 10


def make_step(model: nn.Module, batch: tuple[Any, Any]) -> Callable[[], None]:
    """One step of stochastic gradient descent with momentum."""
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    images, labels = batch

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()

    return step
