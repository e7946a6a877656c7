"""Reference modules: what a quantized module computes, in plain float torch, on any device.

Each is the float module with its weights and its output rounded as the quantized one has them; between them
flow float tensors that hold whole steps of their scales. They show what quantization does where no int8
kernel runs, and what other toolkits may lower. May import the quantized modules, qparams and errors.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from intaglio.nn.conv_geometry import FloatConvTranspose
from intaglio.nn.float_functional import FloatFunctional, QFunctional
from intaglio.nn.fused import FusedModule
from intaglio.nn.residual import ResidualLayer
from intaglio.nn.static import StaticModule
from intaglio.nn.stubs import DeQuantize, Quantize
from intaglio.qparams import QParams
from intaglio.qtensor import QTensor

__all__ = ["ReferenceModule", "Rounding", "reference_of"]


class Rounding(nn.Module):
    """Rounds a float tensor to whole steps of a scale, within the limits of the integers."""

    scale: Tensor
    zero_point: Tensor

    def __init__(self, output: QParams) -> None:
        super().__init__()
        self.register_buffer("scale", output.scale.detach().clone())
        self.register_buffer("zero_point", output.zero_point.detach().clone())
        self.limits = output.limits()

    def forward(self, x: Tensor) -> Tensor:
        """The nearest value that an integer stands for."""
        low, high = self.limits
        return (
            torch.clamp(torch.round(x / self.scale) + self.zero_point, low, high) - self.zero_point
        ) * self.scale

    def extra_repr(self) -> str:
        """What `print` shows."""
        return f"scale={float(self.scale):.6g}, zero_point={int(self.zero_point)}, limits={self.limits}"


class ReferenceModule(nn.Module):
    """A float module with rounded weights, and the rounding of what it gives, of a tuple the first part."""

    def __init__(self, module: nn.Module, rounding: Rounding) -> None:
        super().__init__()
        self.module, self.rounding = module, rounding
        self.training = False

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Compute and round."""
        found = self.module(*args, **kwargs)
        if isinstance(found, tuple):
            return (self.rounding(found[0]), *found[1:])
        return self.rounding(found)


def reference_of(module: nn.Module, quantized: nn.Module) -> nn.Module:
    """The reference form of `quantized`, which was made of the float `module`."""
    plain = copy.deepcopy(module)
    for name in ("activation_post_process", "input_mean"):
        plain._modules.pop(name, None)
    plain._forward_hooks.clear()
    plain._forward_pre_hooks.clear()
    vars(plain).pop("qconfig", None)
    if isinstance(quantized, DeQuantize):
        return nn.Identity().eval()
    if isinstance(quantized, Quantize):
        return ReferenceModule(nn.Identity(), Rounding(quantized.output))
    if isinstance(quantized, QFunctional):
        assert isinstance(plain, FloatFunctional)
        plain.activation_post_process = Rounding(quantized.output) if quantized.seen else nn.Identity()
        return plain
    _round_weights(plain, quantized)
    if isinstance(quantized, StaticModule):
        return ReferenceModule(plain, Rounding(quantized.output))
    return plain


@torch.no_grad()
def _round_weights(plain: nn.Module, quantized: nn.Module) -> None:
    """Give the float layer the weight and the bias that the quantized one has."""
    layer = plain
    while isinstance(layer, (FusedModule, ResidualLayer)):
        layer = layer.layer
    weight = getattr(quantized, "weight", None)
    held = getattr(layer, "weight", None)
    if not isinstance(weight, QTensor) or not isinstance(held, Tensor):
        return
    values = weight.dequantize()
    if isinstance(layer, FloatConvTranspose):
        groups, (outputs, inputs, *size) = layer.groups, values.shape
        values = values.view(groups, outputs // groups, inputs, *size).transpose(1, 2).reshape(held.shape)
    if values.shape == held.shape:
        layer.register_parameter("weight", nn.Parameter(values.to(held.dtype), requires_grad=False))
        bias = getattr(quantized, "bias", None)
        kept = None if bias is None else nn.Parameter(bias.detach().clone(), requires_grad=False)
        layer.register_parameter("bias", kept)
