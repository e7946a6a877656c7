"""A layer and the activation that follows it, quantized as one where the activation only clamps.

Where it does not, the two stay two modules side by side: the layer's output gets a scale of its own, and the
activation is a table. May import rules, fused, the static forms of the layers, and errors.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from intaglio.nn.batch_norm import BATCH_NORM, QuantizedBatchNorm
from intaglio.nn.conv import conv_channels, refuse_conv
from intaglio.nn.conv_geometry import FloatConv, FloatConvTranspose
from intaglio.nn.conv_static import QuantizedConv, QuantizedConvTranspose
from intaglio.nn.fused import FusedModule, clamp_of
from intaglio.nn.linear_static import QuantizedLinear
from intaglio.nn.normed import folded, without_norm
from intaglio.nn.static_product import input_mean_of
from intaglio.qconfig import QConfig
from intaglio.qparams import QParams
from intaglio.rules import Example, OpRule, StaticForm, register_rule

__all__ = ["FUSED"]


def _refuse(module: nn.Module, qconfig: QConfig) -> str | None:
    assert isinstance(module, FusedModule)
    if clamp_of(module.activation) is None:
        return "its activation is no clamp: layer and activation are quantized one after the other"
    layer = without_norm(module.layer)
    if isinstance(layer, FloatConv | FloatConvTranspose):
        return refuse_conv(layer, qconfig)
    if isinstance(layer, nn.Linear):
        return None
    assert BATCH_NORM.static is not None
    return BATCH_NORM.static.refuse(layer, qconfig)


def _input_channels(module: nn.Module) -> tuple[int, int]:
    assert isinstance(module, FusedModule)
    layer = without_norm(module.layer)
    if isinstance(layer, nn.Linear):
        return layer.in_features, -1
    if isinstance(layer, FloatConv | FloatConvTranspose):
        return conv_channels(layer)
    return int(layer.num_features), -1  # type: ignore[arg-type]  # a batch norm, whose weights are exact


def _lower(module: nn.Module, qconfig: QConfig, path: str, output: QParams | None) -> nn.Module:
    assert isinstance(module, FusedModule)
    assert output is not None
    layer, clamp, mean = folded(module.layer), clamp_of(module.activation), input_mean_of(module)
    assert clamp is not None
    if isinstance(layer, FloatConv):
        return QuantizedConv.from_float(layer, qconfig, path, output, clamp, mean)
    if isinstance(layer, FloatConvTranspose):
        return QuantizedConvTranspose.from_float(layer, qconfig, path, output, clamp, mean)
    if isinstance(layer, nn.Linear):
        return QuantizedLinear.from_weight(layer.weight, layer.bias, qconfig, path, output, clamp, mean)
    return QuantizedBatchNorm.from_batch_norm(layer, path, output, clamp)


def _example(make: Callable[[], nn.Module], activation: nn.Module, *shape: int) -> Callable[[], Example]:
    def example() -> tuple[nn.Module, tuple[Tensor]]:
        return FusedModule(make(), activation).eval(), (torch.randn(*shape),)

    return example


FUSED = register_rule(
    OpRule(
        name="FusedModule",
        float_types=(FusedModule,),
        static=StaticForm(
            _lower,
            input_channels=_input_channels,
            refuse=_refuse,
            examples=(
                _example(lambda: nn.Conv2d(5, 9, 3, padding=1), nn.ReLU(), 2, 5, 7, 6),
                _example(lambda: nn.Conv1d(6, 6, 3, groups=6), nn.ReLU6(), 2, 6, 11),
                _example(lambda: nn.ConvTranspose2d(4, 3, 2, 2), nn.ReLU(), 2, 4, 5, 6),
                _example(lambda: nn.Linear(17, 12), nn.Hardtanh(-0.5, 0.4), 6, 17),
                _example(lambda: nn.BatchNorm2d(4), nn.ReLU(), 2, 4, 5, 6),
            ),
        ),
    )
)
