"""Switches for all fake quantizers of a model: call each with the model, or pass it to `model.apply`."""

from __future__ import annotations

import torch  # noqa: F401  # for the examples
from torch import nn

from intaglio.fake_quantize.switchable import FakeQuantizeBase

__all__ = ["disable_fake_quant", "disable_observer", "enable_fake_quant", "enable_observer"]


def enable_fake_quant(mod: nn.Module) -> None:
    """Let every fake quantizer in `mod` round.

    >>> from intaglio.fake_quantize import FakeQuantize
    >>> fake_quantize = FakeQuantize()
    >>> disable_fake_quant(fake_quantize)
    >>> fake_quantize(torch.tensor([0.1, 1.0]))
    tensor([0.1000, 1.0000])
    """
    _set(mod, fake_quant=True)


def disable_fake_quant(mod: nn.Module) -> None:
    """Let every fake quantizer in `mod` give values back as they are."""
    _set(mod, fake_quant=False)


def enable_observer(mod: nn.Module) -> None:
    """Let the ranges of every fake quantizer in `mod` follow the values seen in training."""
    _set(mod, observer=True)


def disable_observer(mod: nn.Module) -> None:
    """Hold the ranges of every fake quantizer in `mod`."""
    _set(mod, observer=False)


def _set(mod: nn.Module, fake_quant: bool | None = None, observer: bool | None = None) -> None:
    for part in mod.modules():
        if isinstance(part, FakeQuantizeBase):
            if fake_quant is not None:
                part.enable_fake_quant(fake_quant)
            if observer is not None:
                part.enable_observer(observer)
