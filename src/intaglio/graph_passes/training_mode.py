"""`self.training` in a traced forward: a step of the graph, so that `train()` and `eval()` go on working.

For quantization-aware training a model is traced once and runs in both modes. What only hands the mode on, as
`F.dropout(x, p, self.training)` does, is traced with it; code that branches on it stays Python. May import
in_place's neighbours and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import fx, nn

from intaglio.fake_quantize import ROUNDED_BY

__all__ = ["MODE", "RoundLike", "TrainingMode", "drop_training_steps", "hidden_modes"]

MODE = torch.zeros(0)
"""Stands where modules have their `training` while they are traced, so that torch.fx sees it read."""


class TrainingMode(nn.Module):
    """A step that tells whether the model is in train mode."""

    def __init__(self) -> None:
        super().__init__()
        self.training = False

    def forward(self) -> bool:
        """Its own mode."""
        return self.training


class RoundLike(nn.Module):
    """Rounds an average to the steps of what was averaged, as a `QTensor`'s average is rounded."""

    def forward(self, y: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
        """`y` in steps of `source`; as it is where that is not rounded."""
        rounder = getattr(source, ROUNDED_BY, None)
        rounded: torch.Tensor = y if rounder is None else rounder.round_again(y)
        return rounded


@contextmanager
def hidden_modes(root: nn.Module, is_traced: Callable[[nn.Module, str], bool]) -> Iterator[None]:
    """Let the code of modules that are traced ask torch.fx's own `__getattr__` for their `training`."""
    hidden = []
    for path, part in root.named_modules():
        if (path == "" or is_traced(part, path)) and not isinstance(part, TrainingMode):
            hidden.append((part, vars(part).pop("training")))
            part._buffers["training"] = MODE
    try:
        yield
    finally:
        for part, training in hidden:
            part._buffers.pop("training", None)
            part.training = training


def drop_training_steps(gm: fx.GraphModule) -> bool:
    """Take out the steps that only training needs; gives whether there were any."""
    found = False
    for node in list(gm.graph.nodes):
        module = gm.get_submodule(str(node.target)) if node.op == "call_module" else None
        if isinstance(module, TrainingMode):
            for user in list(node.users):
                user.args, user.kwargs = _without(user.args, node), _without(user.kwargs, node)
        elif isinstance(module, RoundLike):
            node.replace_all_uses_with(node.args[0])
        else:
            continue
        gm.graph.erase_node(node)
        found = True
    return found


def _without(arguments: Any, mode: fx.Node) -> Any:
    return fx.node.map_aggregate(arguments, lambda x: False if x is mode else x)
