"""A layer whose output is added to another value: `ResidualLayer`, quantized as one.

The sum is made on the layer's accumulators, before they are rounded to integers: the value between the two is
neither rounded nor stored. May import rules, the static forms of the layers, and errors.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from intaglio.nn.conv import conv_channels, refuse_conv
from intaglio.nn.conv_geometry import FloatConv
from intaglio.nn.conv_static import QuantizedConv
from intaglio.nn.fused import activate, clamp_of
from intaglio.nn.linear_static import QuantizedLinear
from intaglio.nn.normed import folded, without_norm
from intaglio.nn.static_product import input_mean_of
from intaglio.qconfig import QConfig
from intaglio.qparams import QParams
from intaglio.rules import Example, OpRule, StaticForm, register_rule

__all__ = ["RESIDUAL", "ResidualLayer"]


class ResidualLayer(nn.Module):
    """`activation(layer(x) + residual)`, of a convolution or a Linear; without activation the sum alone."""

    def __init__(self, layer: nn.Module, activation: nn.Module | None = None) -> None:
        super().__init__()
        self.layer = layer
        self.activation = activation
        self.training = layer.training

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        """See the class; `residual` has the shape of the layer's output."""
        return activate(self, self.layer(x) + residual, self.activation)


def _refuse(module: nn.Module, qconfig: QConfig) -> str | None:
    assert isinstance(module, ResidualLayer)
    if module.activation is not None and clamp_of(module.activation) is None:
        return "the activation after its sum is no clamp"
    layer = without_norm(module.layer)
    if isinstance(layer, FloatConv):
        return refuse_conv(layer, qconfig)
    return None if isinstance(layer, nn.Linear) else "its layer is no convolution and no Linear"


def _input_channels(module: nn.Module) -> tuple[int, int]:
    assert isinstance(module, ResidualLayer)
    layer = without_norm(module.layer)
    return (layer.in_features, -1) if isinstance(layer, nn.Linear) else conv_channels(layer)


def _lower(module: nn.Module, qconfig: QConfig, path: str, output: QParams | None) -> nn.Module:
    assert isinstance(module, ResidualLayer)
    assert output is not None
    clamp = (None, None) if module.activation is None else clamp_of(module.activation)
    assert clamp is not None
    layer, mean = folded(module.layer), input_mean_of(module)
    if isinstance(layer, nn.Linear):
        return QuantizedLinear.from_weight(layer.weight, layer.bias, qconfig, path, output, clamp, mean)
    return QuantizedConv.from_float(layer, qconfig, path, output, clamp, mean)


def _conv_example() -> Example:
    layer = nn.Conv2d(5, 9, 3, padding=1)
    return ResidualLayer(layer, nn.ReLU()).eval(), (torch.randn(2, 5, 7, 6), torch.randn(2, 9, 7, 6))


def _linear_example() -> Example:
    return ResidualLayer(nn.Linear(17, 12)).eval(), (torch.randn(6, 17), torch.randn(6, 12))


RESIDUAL = register_rule(
    OpRule(
        name="ResidualLayer",
        float_types=(ResidualLayer,),
        static=StaticForm(
            _lower,
            input_channels=_input_channels,
            refuse=_refuse,
            examples=(_conv_example, _linear_example),
        ),
    )
)
