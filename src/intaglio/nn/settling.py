"""From what was trained to what `convert` lowers: plain float layers whose weights are rounded already.

The weights of a settled layer are whole steps of their scales, with a batch norm folded in where there was
one, and its qconfig gives the very parameters of those steps: so the integers are those that training
computed with. May import trained, normed, folding, fused, residual, qconfig and errors.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from intaglio.errors import ConversionError
from intaglio.fake_quantize import FakeQuantize
from intaglio.nn.folding import factor_and_shift, fold, fold_layer, with_weights
from intaglio.nn.fused import FusedModule
from intaglio.nn.normed import NormedLayer
from intaglio.nn.residual import ResidualLayer
from intaglio.nn.trained import TrainedLayer, fake_quantizer_name
from intaglio.observer import ObserverBase
from intaglio.qconfig import QConfig
from intaglio.qparams import INT8, QParams

__all__ = ["SettledWeights", "is_trained", "settle"]

Settled = tuple[Tensor, QParams]


class SettledWeights(ObserverBase):
    """An observer that knows the parameters of the weights it will see: those that they were trained with."""

    def __init__(self, settled: Sequence[Settled]) -> None:
        super().__init__(INT8)
        self.settled = list(settled)
        self.found: QParams | None = settled[0][1] if len(settled) == 1 else None

    def forward(self, x: Tensor) -> Tensor:
        """Find the parameters of `x` among those of the layer's weights."""
        for weight, qparams in self.settled:
            if len(self.settled) > 1 and weight.shape == x.shape and torch.equal(weight, x):
                self.found = qparams
        return x

    def choose(self) -> QParams:
        """The parameters of the weight that was shown."""
        if self.found is None:
            raise ConversionError("this weight is none of those that were trained")
        return self.found


def is_trained(module: nn.Module) -> bool:
    """Whether anything in `module` trains for quantization."""
    return any(isinstance(part, TrainedLayer) for part in module.modules())


@torch.no_grad()
def settle(module: nn.Module, qconfig: QConfig) -> tuple[nn.Module, QConfig]:
    """A plain layer for a trained one, or one that holds such a layer, and the qconfig that lowers it.

    Observers and hooks go along. Other modules come back as they are.
    """
    if not is_trained(module):
        return module, qconfig
    settled: list[Settled] = []
    plain = _settled(module, settled)
    plain.training = False
    rounder = module._modules.get("activation_post_process")
    if rounder is not None:  # of a norm, which is folded into the layer that takes its place
        plain.add_module("activation_post_process", rounder)
    activation = qconfig.activation
    if settled:
        return plain, QConfig(activation, partial(SettledWeights, settled))
    layer = next(part for part in module.modules() if isinstance(part, TrainedLayer))
    table = layer.fake_quantizer(layer.form.weights(layer)[0])
    assert isinstance(table, FakeQuantize)  # of rows: a table of embeddings
    return plain, QConfig(activation, table.new_observer)


def _settled(module: nn.Module, settled: list[Settled]) -> nn.Module:
    if isinstance(module, NormedLayer):
        if isinstance(module.layer, TrainedLayer):
            return _with_norm(module.layer, module.batch_norm, settled)
        return fold_layer(module.layer, module.batch_norm)
    if isinstance(module, (FusedModule, ResidualLayer)):
        plain = copy.copy(module)
        plain._modules = dict(module._modules)
        name = "0" if isinstance(module, FusedModule) else "layer"
        plain._modules[name] = _settled(module.layer, settled)
        return plain
    return _without_norm(module, settled) if isinstance(module, TrainedLayer) else module


def _with_norm(layer: TrainedLayer, batch_norm: nn.Module, settled: list[Settled]) -> nn.Module:
    """A layer and its batch norm as one: `weight * factor` with `scale * |factor|`, integers unchanged."""
    (name,) = layer.form.weights(layer)
    bias = layer.bias
    assert bias is None or isinstance(bias, Tensor)
    rounder, rows = layer.fake_quantizer(name), layer.form.rows(layer, layer.weight_named(name).detach())
    factor = factor_and_shift(batch_norm)[0]
    if layer.shares_a_scale:
        beside = factor.float().view(-1, *[1] * (rows.dim() - 1))
        rounded = rounder(rows * beside)
        qparams = rounder.choose()
        _, folded_bias = fold(layer, layer.weight_named(name), bias, batch_norm)
        weight = layer.form.unrows(layer, rounded)
    else:
        rounded = rounder(rows)
        known = rounder.choose()
        weight, folded_bias = fold(layer, layer.form.unrows(layer, rounded), bias, batch_norm)
        scale = (known.scale.double() * factor.abs()).float()
        # A channel that gamma has put out has no steps: its weights are zeros of any scale.
        scale = torch.where(scale > 0, scale, 1.0)
        qparams = QParams(scale, known.zero_point, known.dtype, known.axis, known.quant_min, known.quant_max)
    settled.append((layer.form.rows(layer, weight), qparams))
    return with_weights(_plain(layer), weight, folded_bias)


def _without_norm(layer: TrainedLayer, settled: list[Settled]) -> nn.Module:
    names = layer.form.weights(layer)
    weights = {}
    for name in () if layer.form.by_rows else names:
        rounder = layer.fake_quantizer(name)
        rows = rounder(layer.form.rows(layer, layer.weight_named(name).detach()))
        settled.append((rows, rounder.choose()))
        weights[name] = layer.form.unrows(layer, rows)
    if tuple(weights) == ("weight",) and "bias" in layer._parameters:
        bias = layer.bias
        assert bias is None or isinstance(bias, Tensor)
        return with_weights(_plain(layer), weights["weight"], None if bias is None else bias.detach())
    memo: dict[int, Any] = {id(t): t.detach() for t in (*layer.parameters(), *layer.buffers())}
    plain = copy.deepcopy(_plain(layer), memo)
    for name, weight in weights.items():
        owner, _, last = name.rpartition(".")
        held = plain.get_submodule(owner) if owner else plain
        setattr(held, last, nn.Parameter(weight, requires_grad=False))
    return plain


def _plain(layer: TrainedLayer) -> nn.Module:
    """The layer with the class that it had and without its weights' fake quantizers, as a shallow copy."""
    plain: nn.Module = copy.copy(layer)
    plain.__class__ = layer.float_class
    rounders = {fake_quantizer_name(name) for name in layer.form.weights(layer)}
    plain._modules = {name: part for name, part in layer._modules.items() if name not in rounders}
    vars(plain).pop("quantizes_input", None)
    return plain
