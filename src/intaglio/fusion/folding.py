"""Batch norms folded into the layer before them: exact arithmetic in float64, rounded once.

May import eager, nn and errors.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized, type_before_parametrizations

from intaglio.eager.weights import is_weight_hook, refresh_weights
from intaglio.errors import ConversionError
from intaglio.nn.fused import LAYERS, batch_norm_fits, kind_of, layer_kind
from intaglio.nn.quantized import HOOKS

__all__ = ["check_foldable", "fold_batch_norm"]

_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def check_foldable(layer: nn.Module, batch_norm: nn.Module) -> None:
    """Raise `ConversionError` if `batch_norm` cannot be folded into `layer`, saying why and what to do."""
    name, norm = type(layer).__name__, type(batch_norm).__name__
    if not batch_norm_fits(type(layer), type(batch_norm)):
        wanted = LAYERS.get(layer_kind(layer) or type(layer))
        hint = f": it takes a {wanted.__name__}" if wanted else ""
        raise ConversionError(f"a {norm} cannot be folded into a {name}{hint}")
    if batch_norm.training or layer.training:
        raise ConversionError(
            f"the {norm} is in train mode, in which it normalizes by each batch: call model.eval() first, or "
            "use fuse_modules_qat to go on training"
        )
    if batch_norm.running_mean is None or batch_norm.running_var is None:
        raise ConversionError(
            f"the {norm} keeps no running statistics (track_running_stats=False), so that it normalizes by "
            "each batch and cannot be folded: leave it out of the group"
        )
    channels = getattr(layer, "out_channels", getattr(layer, "out_features", None))
    if batch_norm.num_features != channels:
        raise ConversionError(
            f"the {norm} has {batch_norm.num_features} features, but the {name} before it has {channels} "
            "outputs"
        )


@torch.no_grad()
def fold_batch_norm(layer: nn.Module, batch_norm: nn.Module) -> nn.Module:
    """A layer that computes `batch_norm(layer(x))`, both in eval mode; both are left as they are.

    `w' = w * f` and `b' = (b - mean) * f + beta` with `f = gamma / sqrt(var + eps)`, in float64. Where gamma
    is 0 so is `f`, whatever the variance is (pytorch/pytorch#85744). Hooks and reparametrizations of the
    layer do not go along. Raises `ConversionError` as `check_foldable`, or if the result is not finite.

    >>> folded = fold_batch_norm(nn.Conv2d(3, 4, 1, bias=False).eval(), nn.BatchNorm2d(4).eval())
    >>> folded.bias.shape
    torch.Size([4])
    """
    check_foldable(layer, batch_norm)
    refresh_weights(layer)
    weight, bias = layer.weight, layer.bias
    mean, variance = batch_norm.running_mean, batch_norm.running_var
    assert isinstance(weight, Tensor)
    assert isinstance(mean, Tensor)
    assert isinstance(variance, Tensor)
    gamma = _values(batch_norm.weight, torch.ones_like(mean))
    beta = _values(batch_norm.bias, torch.zeros_like(mean))
    deviation = (variance.double() + float(batch_norm.eps)).sqrt()  # type: ignore[arg-type]
    factor = torch.where(gamma == 0, 0.0, gamma / deviation)
    folded_weight = (weight.double() * _beside(factor, layer, weight)).to(weight.dtype)
    shift = (_values(bias, torch.zeros_like(mean)) - mean.double()) * factor
    folded_bias = (torch.where(factor == 0, 0.0, shift) + beta).to(weight.dtype)
    _check_finite(weight, folded_weight, folded_bias, deviation)
    return _with_weights(layer, folded_weight, folded_bias)


def _values(tensor: object, default: Tensor) -> Tensor:
    return (tensor if isinstance(tensor, Tensor) else default).detach().double()


def _beside(factor: Tensor, layer: nn.Module, weight: Tensor) -> Tensor:
    """`factor`, one for each output channel, shaped to be multiplied with `weight`."""
    if kind_of(layer, _TRANSPOSED) is None:
        return factor.reshape(-1, *[1] * (weight.dim() - 1))
    # Stored as (inputs, outputs / groups, ...), the inputs of each group after those of the one before.
    groups = int(layer.groups)  # type: ignore[arg-type]
    rows = factor.reshape(groups, -1).repeat_interleave(len(weight) // groups, 0)
    return rows.reshape(*rows.shape, *[1] * (weight.dim() - 2))


def _check_finite(before: Tensor, weight: Tensor, bias: Tensor, deviation: Tensor) -> None:
    if bool(torch.isfinite(weight).all() and torch.isfinite(bias).all()):
        return
    if not bool(torch.isfinite(before).all()):
        raise ConversionError("the layer's weight holds NaN or infinity: mend it first")
    raise ConversionError(
        "folding the batch norm gives weights that are not finite: of its running statistics the smallest "
        f"sqrt(var + eps) is {float(deviation.min()):.3g}; raise its eps, or leave it out of the group"
    )


def _with_weights(layer: nn.Module, weight: Tensor, bias: Tensor) -> nn.Module:
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
    folded.bias = nn.Parameter(bias, trainable)
    return folded
