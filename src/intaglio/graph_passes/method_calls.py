"""Methods that stay Python, as modules that a graph can call. May import nothing from the package."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from torch import nn

__all__ = ["MethodCall"]


class MethodCall(nn.Module):
    """Calls a method of a module that is not its forward, and that calls no modules.

    `owner` has the module's own tensors and attributes; of its children it has what they are, and no weights.
    `owner_path` is where it stood in the model that was traced.
    """

    def __init__(self, owner: nn.Module, method: Callable[..., Any], owner_path: str = "") -> None:
        super().__init__()
        self.owner = _without_children(owner)
        self.method = method
        self.owner_path = owner_path
        self.training = owner.training

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Call it."""
        return self.method(self.owner, *args, **kwargs)


def _without_children(module: nn.Module) -> nn.Module:
    """A copy of `module` with its own tensors; its children are mere attributes, without theirs."""
    alone = copy.copy(module)
    for name in ("_modules", "_parameters", "_buffers"):
        vars(alone)[name] = dict(vars(module)[name])
    for name, child in module._modules.items():
        hidden = None if child is None else _without_children(child)
        if hidden is not None:
            vars(hidden)["_parameters"] = dict.fromkeys(hidden._parameters)
        del alone._modules[name]
        vars(alone)[name] = hidden
    return alone
