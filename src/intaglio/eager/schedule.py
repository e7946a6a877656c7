"""Freezing while a model trains: batch norms and ranges, by hand or on a schedule; and norms estimated anew.

May import fake_quantize, nn and errors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from intaglio.errors import ConfigError
from intaglio.fake_quantize import disable_fake_quant, disable_observer, enable_fake_quant
from intaglio.nn.normed import NormedLayer

__all__ = ["FreezeSchedule", "freeze_bn_stats", "reestimate_batch_norm", "update_bn_stats"]

BatchNorm = nn.modules.batchnorm._BatchNorm


def freeze_bn_stats(mod: nn.Module) -> None:
    """Let every batch norm that belongs to a layer in `mod` use and keep its running statistics from now on.

    Call it with the model, or pass it to `model.apply`. Towards the end of training this removes the noise of
    batches, and trains with what the converted model has. `train()` leaves it so; the state dict holds it.

    >>> normed = NormedLayer(nn.Linear(2, 3), nn.BatchNorm1d(3)).train()
    >>> freeze_bn_stats(normed)
    >>> normed.batch_norm.training
    False
    """
    for part in mod.modules():
        if isinstance(part, NormedLayer):
            part.freeze_bn_stats()


def update_bn_stats(mod: nn.Module) -> None:
    """Let batch norms that `freeze_bn_stats` froze normalize by the batch again, and learn from it."""
    for part in mod.modules():
        if isinstance(part, NormedLayer):
            part.update_bn_stats()


class FreezeSchedule:
    """Starts and stops parts of quantization-aware training at given steps, as a learning rate schedule does.

    Count epochs or batches, whichever you call `step` for. A checkpoint takes `state_dict()` beside that of
    the model.

    Parameters
    ----------
    model : nn.Module
        What `prepare_qat` or `prepare_qat_fx` gave.
    fake_quant_after : int, optional
        Round from this step on; before it the model trains in float while its ranges are observed.
    observers_after : int, optional
        Hold the ranges from this step on.
    batch_norm_after : int, optional
        Hold the statistics of batch norms from this step on.

    Examples
    --------
    >>> schedule = FreezeSchedule(NormedLayer(nn.Linear(2, 3), nn.BatchNorm1d(3)), batch_norm_after=1)
    >>> schedule.step()
    >>> schedule.model.batch_norm.training
    False
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        fake_quant_after: int | None = None,
        observers_after: int | None = None,
        batch_norm_after: int | None = None,
    ) -> None:
        for name, after in (
            ("fake_quant_after", fake_quant_after),
            ("observers_after", observers_after),
            ("batch_norm_after", batch_norm_after),
        ):
            if after is not None and after < 0:
                raise ConfigError(f"{name} counts steps and cannot be {after}")
        self.model = model
        self.steps = 0
        self._due: list[tuple[int | None, Callable[[nn.Module], None]]] = [
            (fake_quant_after, enable_fake_quant),
            (observers_after, disable_observer),
            (batch_norm_after, freeze_bn_stats),
        ]
        if fake_quant_after:
            disable_fake_quant(model)
        self._apply()

    def step(self) -> None:
        """Count a step, and do what is due."""
        self.steps += 1
        self._apply()

    def _apply(self) -> None:
        for after, act in self._due:
            if after == self.steps:
                act(self.model)

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` takes."""
        return {"steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there; what was frozen then the model's own state dict says."""
        self.steps = int(state["steps"])


@torch.no_grad()
def reestimate_batch_norm(
    model: nn.Module, data: Iterable[Any], forward: Callable[[nn.Module, Any], Any] | None = None
) -> None:
    """Replace the running statistics of every batch norm in `model` by the average over `data`.

    Moving averages lag behind weights that train; estimated anew before `convert`, they are those of the
    weights as they are, rounding included. Everything but batch norms runs in eval mode; modes come back as
    they were, and so does what was frozen.

    Parameters
    ----------
    model : nn.Module
    data : iterable
        Batches: a tensor, a tuple or list of which the first part is the input, or a dict of arguments.
    forward : callable, optional
        `forward(model, batch)`, for other batches.

    Raises
    ------
    ConfigError
        There is no data. The statistics are then as they were, and so they are if a batch cannot be run.
    """
    norms = [
        part for part in model.modules() if isinstance(part, BatchNorm) and part.running_mean is not None
    ]
    modes = {part: part.training for part in model.modules()}
    before = [(norm.momentum, [buffer.clone() for buffer in norm.buffers()]) for norm in norms]
    batches, is_done = 0, False
    model.eval()
    try:
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # which makes it a plain average
            norm.training = True
        for batch in data:
            _forward(model, batch) if forward is None else forward(model, batch)
            batches += 1
        is_done = batches > 0
    finally:
        for norm, (momentum, buffers) in zip(norms, before, strict=True):
            norm.momentum = momentum
            for buffer, old in zip(norm.buffers(), buffers, strict=True):
                if not is_done:
                    buffer.copy_(old)
        for part, training in modes.items():
            part.training = training
    if batches == 0:
        raise ConfigError("reestimate_batch_norm got no data: pass batches of inputs")


def _forward(model: nn.Module, batch: Any) -> Any:
    if isinstance(batch, Tensor):
        return model(batch)
    if isinstance(batch, dict):
        return model(**batch)
    if isinstance(batch, (tuple, list)) and batch:
        return model(batch[0])
    raise ConfigError(
        f"a batch is a tensor, a tuple whose first part is the input, or a dict, not {type(batch).__name__}: "
        "pass forward=lambda model, batch: model(...)"
    )
