"""Forward hooks of a float module, which its quantized form takes over. May import observing,
weights and nn."""

from __future__ import annotations

from typing import Any

from torch import nn

from intaglio.eager.observing import is_observing_hook
from intaglio.nn.quantized import HOOKS
from intaglio.nn.weight_hooks import is_weight_hook

__all__ = ["give_hooks", "hooks_of"]


def hooks_of(module: nn.Module) -> dict[str, dict[int, Any]]:
    """Everything that `register_forward_hook` and `register_forward_pre_hook` gave `module`."""
    return {name: getattr(module, name) for name in HOOKS}


def give_hooks(target: nn.Module, hooks: dict[str, dict[int, Any]]) -> None:
    """Let `target` have a float module's forward hooks, but for those that derive weights or observe."""
    for name, kept in hooks.items():
        for key in [key for key, hook in kept.items() if is_weight_hook(hook) or is_observing_hook(hook)]:
            del kept[key]
        setattr(target, name, kept)
