"""A layer and the batch norm after it, kept apart for training: `NormedLayer`.

While the model trains, the norm works on the batch; `convert` folds it into the layer. The weight is rounded
as it is where each output channel has a scale of its own: folding multiplies a channel's weight and its scale
by one number, so the integers are the same before and after. Nothing is divided by gamma, so gamma 0 does no
harm (pytorch/pytorch#85744), and training costs no pass over the activations more than in float. Where all
channels share a scale, the weight is multiplied by the norm's factor, rounded, and divided again.

May import trained, folding and errors.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from intaglio.nn.folding import factor_and_shift, fold_layer
from intaglio.nn.trained import TrainedLayer

__all__ = ["NormedLayer", "folded", "without_norm"]


class NormedLayer(nn.Sequential):
    """A layer that multiplies, `[0]`, and its batch norm, `[1]`: what `fuse_modules_qat` makes of the two.

    `freeze_bn_stats` makes the norm use its running statistics and keep them, in train mode too; the state
    dict holds whether it does.

    >>> normed = NormedLayer(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    >>> _ = normed.freeze_bn_stats()
    >>> normed.train()[1].training
    False
    """

    stats_frozen: Tensor

    def __init__(self, layer: nn.Module, batch_norm: nn.Module) -> None:
        super().__init__(layer, batch_norm)
        parameter = next(layer.parameters(), None)
        device = None if parameter is None else parameter.device
        self.register_buffer("stats_frozen", torch.zeros(1, dtype=torch.uint8, device=device))
        self.training = layer.training

    @property
    def layer(self) -> nn.Module:
        """The layer that multiplies."""
        return self[0]

    @property
    def batch_norm(self) -> nn.Module:
        """Its batch norm."""
        return self[1]

    def forward(self, *inputs: Any, **named: Any) -> Tensor:
        """`batch_norm(layer(x))`, with the weight rounded while it trains for quantization."""
        layer = self.layer
        if isinstance(layer, TrainedLayer) and layer.shares_a_scale:
            y: Tensor = layer.forward_folded(factor_and_shift(self.batch_norm)[0].float(), *inputs, **named)
        else:
            y = layer(*inputs, **named)
        normed: Tensor = self.batch_norm(y)
        return normed

    def freeze_bn_stats(self) -> NormedLayer:
        """Normalize by the running statistics from now on, and keep them."""
        self.stats_frozen.fill_(1)
        self.batch_norm.training = False
        return self

    def update_bn_stats(self) -> NormedLayer:
        """Normalize by each batch in train mode again, and let it move the running statistics."""
        self.stats_frozen.fill_(0)
        self.batch_norm.training = self.training
        return self

    def train(self, mode: bool = True) -> NormedLayer:
        """As `nn.Module.train`; frozen statistics stay so."""
        super().train(mode)
        if mode and bool(self.stats_frozen):
            self.batch_norm.training = False
        return self

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args)
        if prefix + "stats_frozen" in state_dict:
            self.batch_norm.training = self.training and not bool(self.stats_frozen)


def without_norm(module: nn.Module) -> nn.Module:
    """The layer of a `NormedLayer`, or the module itself."""
    return module.layer if isinstance(module, NormedLayer) else module


def folded(module: nn.Module) -> nn.Module:
    """One layer for a `NormedLayer`, with the batch norm folded in, in float64; any other module as it is."""
    return fold_layer(module.layer, module.batch_norm) if isinstance(module, NormedLayer) else module
