"""Batch norms as numbers: what one multiplies by and adds, and layers that hold other weights.

May import fused, quantized, weights' hooks and errors.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized, type_before_parametrizations

from intaglio.errors import ConversionError
from intaglio.nn.quantized import HOOKS
from intaglio.nn.weight_hooks import is_weight_hook, refresh_weights

__all__ = ["factor_and_shift", "fold", "fold_layer", "with_weights"]

_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


@torch.no_grad()
def factor_and_shift(batch_norm: nn.Module) -> tuple[Tensor, Tensor]:
    """`(C,) float64` each: `y = x * factor + shift` is what a batch norm computes in eval mode.

    `factor = gamma / sqrt(var + eps)`, and 0 where gamma is, whatever the variance (pytorch/pytorch#85744).
    """
    mean, variance = batch_norm.running_mean, batch_norm.running_var
    assert isinstance(mean, Tensor)
    assert isinstance(variance, Tensor)
    gamma = _values(batch_norm.weight, torch.ones_like(mean))
    beta = _values(batch_norm.bias, torch.zeros_like(mean))
    deviation = (variance.double() + float(batch_norm.eps)).sqrt()  # type: ignore[arg-type]
    factor = torch.where(gamma == 0, 0.0, gamma / deviation)
    return factor, beta - torch.where(factor == 0, 0.0, mean.double() * factor)


@torch.no_grad()
def fold_layer(layer: nn.Module, batch_norm: nn.Module) -> nn.Module:
    """A copy of `layer` with `batch_norm` folded in; `ConversionError` if the result is not finite."""
    refresh_weights(layer)
    weight, bias = layer.weight, layer.bias
    assert isinstance(weight, Tensor)
    assert bias is None or isinstance(bias, Tensor)
    return with_weights(layer, *fold(layer, weight, bias, batch_norm))


@torch.no_grad()
def fold(
    layer: nn.Module, weight: Tensor, bias: Tensor | None, batch_norm: nn.Module
) -> tuple[Tensor, Tensor]:
    """The weight and the bias that `layer` has with `batch_norm` folded in, if it has these without."""
    factor, shift = factor_and_shift(batch_norm)
    folded_weight = (weight.double() * _beside(factor, layer, weight)).to(weight.dtype)
    if bias is not None:
        shift = shift + torch.where(factor == 0, 0.0, bias.detach().double() * factor)
    folded_bias = shift.to(weight.dtype)
    _check_finite(weight, folded_weight, folded_bias, batch_norm)
    return folded_weight, folded_bias


def _values(tensor: object, default: Tensor) -> Tensor:
    return (tensor if isinstance(tensor, Tensor) else default).detach().double()


def _check_finite(before: Tensor, weight: Tensor, bias: Tensor, batch_norm: nn.Module) -> None:
    """Raise `ConversionError` if a layer with a batch norm folded in is not finite, saying why."""
    if bool(torch.isfinite(weight).all() and torch.isfinite(bias).all()):
        return
    if not bool(torch.isfinite(before).all()):
        raise ConversionError("the layer's weight holds NaN or infinity: mend it first")
    variance = batch_norm.running_var
    assert isinstance(variance, Tensor)
    smallest = float((variance.double() + float(batch_norm.eps)).sqrt().min())  # type: ignore[arg-type]
    raise ConversionError(
        "folding the batch norm gives weights that are not finite: of its running statistics the smallest "
        f"sqrt(var + eps) is {smallest:.3g}; raise its eps, or leave it out of the group"
    )


def _beside(factor: Tensor, layer: nn.Module, weight: Tensor) -> Tensor:
    """`factor`, one for each output channel, shaped to be multiplied with `weight`."""
    if not isinstance(layer, _TRANSPOSED):
        return factor.reshape(-1, *[1] * (weight.dim() - 1))
    # Stored as (inputs, outputs / groups, ...), the inputs of each group after those of the one before.
    groups = int(layer.groups)
    rows = factor.reshape(groups, -1).repeat_interleave(len(weight) // groups, 0)
    return rows.reshape(*rows.shape, *[1] * (weight.dim() - 2))


def with_weights(layer: nn.Module, weight: Tensor, bias: Tensor | None) -> nn.Module:
    """A copy of `layer` with these weights stored, whatever it derived its own from."""
    memo: dict[int, Any] = {id(tensor): tensor for tensor in (*layer.parameters(), *layer.buffers())}
    # Hooks may be methods of the model, with which all of it would be copied.
    memo.update((id(getattr(layer, name)), type(getattr(layer, name))()) for name in HOOKS)
    stored = layer.__dict__.get("weight")  # where the older weight_norm and pruning put what they derive
    if isinstance(stored, Tensor):
        memo[id(stored)] = stored
    trainable = any(parameter.requires_grad for parameter in layer.parameters())
    had_hooks = any(is_weight_hook(hook) for hook in layer._forward_pre_hooks.values())
    folded = copy.deepcopy(layer, memo)
    if is_parametrized(folded):
        folded.__class__ = type_before_parametrizations(folded)
        del folded._modules["parametrizations"]
    folded.__dict__.pop("weight", None)
    folded._parameters.clear()
    folded._buffers.clear()
    if had_hooks:
        folded._state_dict_hooks.clear()
        folded._load_state_dict_pre_hooks.clear()
    folded.weight = nn.Parameter(weight, trainable)
    folded.register_parameter("bias", None if bias is None else nn.Parameter(bias, trainable))
    return folded
