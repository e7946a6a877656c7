"""What goes wrong in a training run, found and named: `check_training`, and a watch on the optimizer.

May import fake_quantize, nn and errors.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from intaglio.eager.observing import observing_hook
from intaglio.errors import ConversionError, TrainingError

__all__ = ["TrainingWarning", "check_training", "watch_parameters"]

PATIENCE = 100
"""After so many forwards in training every parameter has surely been stepped; some accumulate gradients."""

_MOST_NAMED = 5


class TrainingWarning(UserWarning):
    """A training run that does not do what it should; the message names the parameters."""


def check_training(model: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> None:
    """Raise, with the names of parameters, if a training run cannot go well as it is.

    Call it once before training, and after `backward` when a loss looks wrong.

    Raises
    ------
    ConversionError
        The model has nothing to train.
    TrainingError
        `optimizer` lacks parameters of `model`, as it does if it was made before `prepare_qat`; or a weight
        or a gradient holds NaN or infinity, as after a loss scale that overflowed.

    Examples
    --------
    >>> layer = nn.Linear(2, 2)
    >>> check_training(layer, torch.optim.SGD([layer.weight], lr=0.1))
    Traceback (most recent call last):
    intaglio.errors.TrainingError: the optimizer does not have 'bias': make it after prepare_qat, of \
model.parameters(), or add them with optimizer.add_param_group
    """
    trainable = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    if not trainable:
        raise ConversionError("the model has no parameter that requires gradients: there is nothing to train")
    if optimizer is not None:
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        missing = [name for name, p in trainable if id(p) not in held]
        if missing:
            raise TrainingError(
                f"the optimizer does not have {_some(missing)}: make it after prepare_qat, of "
                "model.parameters(), or add them with optimizer.add_param_group"
            )
    weights = [name for name, p in trainable if not bool(torch.isfinite(p.detach()).all())]
    if weights:
        raise TrainingError(
            f"{_some(weights)} hold NaN or infinity: the last step went wrong; go back to a checkpoint"
        )
    gradients = [
        name for name, p in trainable if p.grad is not None and not bool(torch.isfinite(p.grad).all())
    ]
    if gradients:
        raise TrainingError(
            f"the gradients of {_some(gradients)} hold NaN or infinity: do not step; lower the learning rate "
            "or the loss scale (torch.amp.GradScaler leaves out such steps by itself), or clip the gradients"
        )


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return ", ".join(f"'{name}'" for name in names[:_MOST_NAMED]) + more


@observing_hook
class ParameterWatch:
    """Forward pre-hook: warns, once, of parameters that gradients come for and no optimizer steps."""

    def __init__(self) -> None:
        self.forwards = 0
        self.versions: dict[str, int] = {}

    def __call__(self, model: nn.Module, inputs: Any) -> None:
        if not model.training or not torch.is_grad_enabled() or self.forwards > PATIENCE:
            return
        if torch.compiler.is_compiling():
            return
        self.forwards += 1
        if self.forwards == 1:
            self.versions = {n: p._version for n, p in model.named_parameters() if p.requires_grad}
        elif self.forwards == PATIENCE:
            self._look(model)

    def _look(self, model: nn.Module) -> None:
        held = {
            name: p._version == self.versions[name]
            for name, p in model.named_parameters()
            if p.requires_grad and name in self.versions
        }
        still = [name for name, same in held.items() if same]
        rounders = [name for name in still if "fake_quant" in name or "activation_post_process" in name]
        if not still or (len(still) < len(held) and not rounders):
            return  # some layer that this task does not use
        named = still if len(still) == len(held) else rounders
        warnings.warn(
            f"{PATIENCE} forwards in training, and nothing has stepped {_some(named)}: make the optimizer "
            "after prepare_qat, of the prepared model's parameters",
            TrainingWarning,
            stacklevel=4,
        )


def watch_parameters(model: nn.Module) -> None:
    """Let a prepared model say so if an optimizer that was made before does not know its parameters."""
    model.register_forward_pre_hook(ParameterWatch())
