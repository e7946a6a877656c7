"""The weights that a float module computes with, stored or derived from others.

The older reparametrizations of `torch.nn.utils` (weight_norm, spectral_norm, pruning) derive a weight in a
forward pre-hook, so that it is stale after the parameters change until the next forward; the newer ones
(`torch.nn.utils.parametrize`) derive it whenever it is read. May import errors.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from intaglio.errors import ConversionError

__all__ = ["check_weights", "is_weight_hook", "refresh_weights"]


def is_weight_hook(hook: Any) -> bool:
    """Whether a forward pre-hook does nothing but derive a weight from parameters."""
    return isinstance(hook, (WeightNorm, SpectralNorm, BasePruningMethod))


@torch.no_grad()
def refresh_weights(module: nn.Module) -> None:
    """Derive again what hooks of `module` and its children would derive at the next forward."""
    for part in module.modules():
        for hook in part._forward_pre_hooks.values():
            if isinstance(hook, SpectralNorm):
                setattr(part, hook.name, hook.compute_weight(part, do_power_iteration=False))
            elif is_weight_hook(hook):
                hook(part, ())


@torch.no_grad()
def check_weights(module: nn.Module, path: str) -> None:
    """Raise `ConversionError` if any weight of the module at `path` holds NaN or infinity."""
    for name, weight in _weights_of(module):
        if weight.numel() and not bool(torch.isfinite(torch.stack(torch.aminmax(weight))).all()):
            where = f"{path}.{name}" if path else name
            raise ConversionError(
                f"'{where}' holds NaN or infinity and cannot be quantized: mend the weights, or keep the "
                f"module in float with {{'{path}': None}}"
            )


def _weights_of(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from module.named_parameters()
    for path, part in module.named_modules(prefix=""):
        names = [
            getattr(h, "name", getattr(h, "_tensor_name", ""))
            for h in part._forward_pre_hooks.values()
            if is_weight_hook(h)
        ]
        if is_parametrized(part):
            parametrizations = part.parametrizations
            assert isinstance(parametrizations, nn.ModuleDict)
            names += parametrizations
        for name in names:
            yield f"{path}.{name}" if path else name, getattr(part, name)
