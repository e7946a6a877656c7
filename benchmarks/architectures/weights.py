"""Random weights that leave a network's activations of ordinary size.

Imports: torch. Neighbours: every family of architectures makes its networks with these.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

__all__ = ["NormLayer", "seeded", "settle", "spread_weights"]

NormLayer = (nn.BatchNorm1d, nn.BatchNorm2d)


def seeded(make: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    """Make the same network every time, and leave the global generator as it was."""

    @functools.wraps(make)
    def made() -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return make().eval()

    return made


def spread_weights(model: nn.Module) -> nn.Module:
    """Draw convolutions' and Linears' weights so that a ReLU after each keeps the variance."""
    for module in model.modules():
        if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Linear)):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.normal_(module.bias, std=0.05)
    return model


def settle(model: nn.Module, *args: Any, **kwargs: Any) -> nn.Module:
    """Vary the BatchNorms' scales and shifts, and take their statistics from one pass over random data."""
    norms = [module for module in model.modules() if isinstance(module, NormLayer)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias, std=0.2)
        # The plain mean over all batches: the statistics are those of this pass.
        norm.momentum = None
    with torch.no_grad():
        model.train()(*args, **kwargs)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return model.eval()
