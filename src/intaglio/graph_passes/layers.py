"""Functions of torch that compute a layer, and the layer for their weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

__all__ = ["LAYERS", "linear_of"]


def _held(module: nn.Module, **tensors: Tensor | None) -> nn.Module:
    """`module`, made without memory, with these tensors for its own."""
    for name, tensor in tensors.items():
        if tensor is None:
            module.register_parameter(name, None)
        else:
            kept = (
                tensor
                if isinstance(tensor, nn.Parameter)
                else nn.Parameter(tensor.detach(), requires_grad=False)
            )
            module.register_parameter(name, kept)
    return module


def linear_of(weight: Tensor, bias: Tensor | None = None) -> nn.Module | None:
    """The Linear of an `(out, in)` weight."""
    if weight.dim() != 2 or weight.dtype is not torch.float32:
        return None
    return _held(nn.Linear(weight.shape[1], weight.shape[0], device="meta"), weight=weight, bias=bias)


def _conv(kind: Any) -> Callable[..., nn.Module | None]:
    def make(
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
    ) -> nn.Module:
        size = tuple(weight.shape[2:])
        inputs = weight.shape[1] * groups
        made = kind(
            inputs, weight.shape[0], size, _one(stride), _one(padding), _one(dilation), groups, device="meta"
        )
        return _held(made, weight=weight, bias=bias)

    return make


def _conv_transpose(kind: Any) -> Callable[..., nn.Module | None]:
    def make(
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Any = 1,
        padding: Any = 0,
        output_padding: Any = 0,
        groups: int = 1,
        dilation: Any = 1,
    ) -> nn.Module:
        made = kind(
            *(
                weight.shape[0],
                weight.shape[1] * groups,
                tuple(weight.shape[2:]),
                _one(stride),
                _one(padding),
            ),
            *(_one(output_padding), groups),
            dilation=_one(dilation),
            device="meta",
        )
        return _held(made, weight=weight, bias=bias)

    return make


def _one(value: Any) -> Any:
    return value if isinstance(value, (int, str)) else tuple(value)


def _batch_norm(
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *,
    rank: int,
) -> nn.Module | None:
    if training or running_mean is None or running_var is None:
        return None
    made = _BATCH_NORMS[rank](len(running_mean), eps, momentum, affine=True)
    made.running_mean, made.running_var = running_mean.detach(), running_var.detach()
    ones, zeros = torch.ones_like(running_mean), torch.zeros_like(running_mean)
    return _held(made, weight=ones if weight is None else weight, bias=zeros if bias is None else bias)


_BATCH_NORMS = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}


def _layer_norm(
    normalized_shape: Any, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> nn.Module | None:
    if any(isinstance(size, fx.Node) for size in normalized_shape):
        return None
    return _held(nn.LayerNorm(tuple(normalized_shape), eps, device="meta"), weight=weight, bias=bias)


def _group_norm(
    num_groups: int, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> nn.Module | None:
    if weight is None:
        return None
    return _held(nn.GroupNorm(num_groups, len(weight), eps, device="meta"), weight=weight, bias=bias)


def _embedding(
    weight: Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> nn.Module | None:
    if max_norm is not None:
        return None
    return _held(nn.Embedding(weight.shape[0], weight.shape[1], padding_idx, device="meta"), weight=weight)


def _prelu(weight: Tensor) -> nn.Module:
    return _held(nn.PReLU(weight.numel()), weight=weight)


_CONV = "input weight bias stride padding dilation groups"
_TRANSPOSED = "input weight bias stride padding output_padding groups dilation"
LAYERS: dict[Any, tuple[str, Callable[..., nn.Module | None]]] = {
    F.linear: ("input weight bias", linear_of),
    F.conv1d: (_CONV, _conv(nn.Conv1d)),
    F.conv2d: (_CONV, _conv(nn.Conv2d)),
    F.conv3d: (_CONV, _conv(nn.Conv3d)),
    F.conv_transpose1d: (_TRANSPOSED, _conv_transpose(nn.ConvTranspose1d)),
    F.conv_transpose2d: (_TRANSPOSED, _conv_transpose(nn.ConvTranspose2d)),
    F.conv_transpose3d: (_TRANSPOSED, _conv_transpose(nn.ConvTranspose3d)),
    F.batch_norm: ("input running_mean running_var weight bias training momentum eps", _batch_norm),
    F.layer_norm: ("input normalized_shape weight bias eps", _layer_norm),
    F.group_norm: ("input num_groups weight bias eps", _group_norm),
    F.embedding: ("input weight padding_idx max_norm norm_type scale_grad_by_freq sparse", _embedding),
    F.prelu: ("input weight", _prelu),
    torch.prelu: ("input weight", _prelu),
}
"""For each function its parameters in order, and what makes the layer of all but the first."""
