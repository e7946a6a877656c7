"""How MultiheadAttention trains for quantization: rounded projections of rounded inputs, floats between.

May import fake_quantize, attention_layout, trained and rules.
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from intaglio.errors import InputError
from intaglio.fake_quantize import round_dynamically
from intaglio.nn.attention_layout import AttentionLayout, attend_with_weights
from intaglio.nn.trained import TrainedLayer
from intaglio.rules import TrainedForm

__all__ = ["TRAINED"]

_OUT = "out_proj.weight"


def _weights(module: nn.Module) -> tuple[str, ...]:
    packed = module._parameters.get("in_proj_weight") is not None
    return ("in_proj_weight", _OUT) if packed else ("q_proj_weight", "k_proj_weight", "v_proj_weight", _OUT)


class _Attention(AttentionLayout):
    """One call of a layer that trains."""

    def __init__(self, module: nn.MultiheadAttention, weights: dict[str, Tensor]) -> None:
        assert isinstance(module, TrainedLayer)
        self.embed_dim, self.num_heads, self.head_dim = module.embed_dim, module.num_heads, module.head_dim
        self.kdim, self.vdim = module.kdim, module.vdim
        self.batch_first, self.add_zero_attn = module.batch_first, module.add_zero_attn
        self.bias_k, self.bias_v = module.bias_k, module.bias_v
        self.has_bias_kv = module.bias_k is not None
        self.rounds, self.weights = module.rounds, weights
        self.in_bias, self.out_bias = module.in_proj_bias, module.out_proj.bias
        self.dropout = module.dropout if module.training else 0.0

    def where(self) -> str:
        """The layer in a message."""
        return "MultiheadAttention"

    def check_input(self, x: Tensor, features: int, name: str) -> None:
        """Raise `InputError` unless `x` has so many features."""
        if not x.is_floating_point() or x.dim() == 0 or x.shape[-1] != features:
            raise InputError(
                f"{self.where()}: {name} has shape {tuple(x.shape)} of {x.dtype}, but {features} float "
                "features are needed"
            )

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """A projection of rows that are rounded first."""
        return F.linear(round_dynamically(x) if self.rounds else x, weight, bias)

    def project(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values."""
        packed = self.weights.get("in_proj_weight")
        if packed is not None and query is key and key is value:
            q, k, v = self.linear(query, packed, self.in_bias).chunk(3, -1)
            return q, k, v
        names = ("q_proj_weight", "k_proj_weight", "v_proj_weight")
        parts = packed.chunk(3) if packed is not None else [self.weights[name] for name in names]
        biases = (None,) * 3 if self.in_bias is None else self.in_bias.chunk(3)
        inputs = (query, key, value)
        q, k, v = (self.linear(*each) for each in zip(inputs, parts, biases, strict=True))
        return q, k, v


def _train(
    module: nn.Module,
    weights: dict[str, Tensor],
    query: Tensor,
    key: Tensor,
    value: Tensor,
    key_padding_mask: Tensor | None = None,
    need_weights: bool = True,
    attn_mask: Tensor | None = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
) -> Any:
    assert isinstance(module, nn.MultiheadAttention)
    call = _Attention(module, weights)
    call.check_inputs(query, key, value)
    call.check_causal(is_causal, attn_mask)
    batched = query.dim() == 3
    heads = call.split_heads(*call.project(query, key, value), batched)
    causal = is_causal and key_padding_mask is None and not need_weights
    mask = None if causal else call.merge_masks(key_padding_mask, attn_mask, heads)
    mixing: Tensor | None = None
    if need_weights:
        mixed, mixing = attend_with_weights(*heads, mask, call.dropout)
        mixing = mixing.mean(1) if average_attn_weights else mixing
        mixing = mixing if batched else mixing.squeeze(0)
    else:
        mixed = F.scaled_dot_product_attention(
            *heads, attn_mask=mask, dropout_p=call.dropout, is_causal=causal
        )
    output = call.linear(mixed.transpose(1, 2).flatten(2), weights[_OUT], call.out_bias)
    if not batched:
        return output.squeeze(0), mixing
    return (output if call.batch_first else output.transpose(0, 1)), mixing


TRAINED = TrainedForm(_train, weights=_weights)
