"""What attention is apart from its projections: shapes, heads and masks, in floats.

Shared by the quantized layer and by the one that trains for quantization. May import errors.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from intaglio.errors import InputError

__all__ = ["AttentionLayout", "attend_with_weights"]


class AttentionLayout:
    """The sizes of an attention, and what follows from them."""

    embed_dim: int
    kdim: int
    vdim: int
    num_heads: int
    head_dim: int
    batch_first: bool
    add_zero_attn: bool
    has_bias_kv: bool
    bias_k: Tensor | None
    bias_v: Tensor | None

    def where(self) -> str:
        """The layer in a message."""
        raise NotImplementedError

    def check_input(self, x: Tensor, features: int, name: str) -> None:
        """Raise `InputError` unless `x` is a float tensor with so many features."""
        raise NotImplementedError

    def check_causal(self, is_causal: bool, attn_mask: Tensor | None) -> None:
        """Raise `InputError` for a hint about a mask that is not there."""
        if is_causal and attn_mask is None:
            raise InputError(f"{self.where()}: is_causal is a hint about attn_mask: pass the mask as well")

    def check_inputs(self, query: Tensor, key: Tensor, value: Tensor) -> None:
        """Raise `InputError` unless the three fit the layer and each other."""
        for name, x, features in (
            ("query", query, self.embed_dim),
            ("key", key, self.kdim),
            ("value", value, self.vdim),
        ):
            if isinstance(x, Tensor) and x.is_nested:
                raise InputError(
                    f"{self.where()}: {name} is a nested tensor: pass a padded one and a key_padding_mask"
                )
            self.check_input(x, features, name)
        dims = (query.dim(), key.dim(), value.dim())
        if dims not in ((2, 2, 2), (3, 3, 3)):
            raise InputError(
                f"{self.where()}: query, key and value have {dims} dimensions; all must have 3 (batched) or 2"
            )
        if key.shape[:-1] != value.shape[:-1]:
            raise InputError(
                f"{self.where()}: key {tuple(key.shape)} and value {tuple(value.shape)} must have the same "
                "batch and length"
            )
        batch = 0 if self.batch_first else 1
        if query.dim() == 3 and query.shape[batch] != key.shape[batch]:
            raise InputError(
                f"{self.where()}: query {tuple(query.shape)} and key {tuple(key.shape)} must have the "
                "same batch"
            )

    def split_heads(self, q: Tensor, k: Tensor, v: Tensor, batched: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Queries `(N, H, L, D)`, keys and values `(N, H, S, D)`, with bias_k, bias_v and the zero key."""
        if not batched:
            q, k, v = q.unsqueeze(0), k.unsqueeze(0), v.unsqueeze(0)
        elif not self.batch_first:
            q, k, v = q.transpose(0, 1), k.transpose(0, 1), v.transpose(0, 1)
        if self.bias_k is not None and self.bias_v is not None:
            k = torch.cat([k, self.bias_k.to(k.dtype).expand(k.shape[0], 1, -1)], 1)
            v = torch.cat([v, self.bias_v.to(v.dtype).expand(v.shape[0], 1, -1)], 1)
        if self.add_zero_attn:
            k, v = F.pad(k, (0, 0, 0, 1)), F.pad(v, (0, 0, 0, 1))
        q, k, v = (x.reshape(*x.shape[:-1], self.num_heads, self.head_dim).transpose(1, 2) for x in (q, k, v))
        return q, k, v

    def merge_masks(
        self, padding: Tensor | None, attention: Tensor | None, heads: tuple[Tensor, Tensor, Tensor]
    ) -> Tensor | None:
        """One additive mask that broadcasts to `(N, H, L, S)`, or None."""
        q, k, _ = heads
        batch, length, positions = q.shape[0], q.shape[2], k.shape[2]
        added = self.has_bias_kv + self.add_zero_attn
        given = positions - added
        merged = None
        if attention is not None:
            allowed = ((length, given), (batch * self.num_heads, length, given))
            if tuple(attention.shape) not in allowed:
                raise InputError(
                    f"{self.where()}: attn_mask has shape {tuple(attention.shape)}, but must be "
                    f"{allowed[0]} or {allowed[1]}"
                )
            merged = self._additive(attention, "attn_mask")
            merged = merged if merged.dim() == 2 else merged.view(batch, self.num_heads, length, given)
        if padding is not None:
            expected = (batch, given)
            if tuple(padding.shape) not in (expected, expected[1:]) or (padding.dim() == 1 and batch != 1):
                raise InputError(
                    f"{self.where()}: key_padding_mask has shape {tuple(padding.shape)}, "
                    f"but must be {expected}"
                )
            rows = self._additive(padding, "key_padding_mask").view(batch, 1, 1, given)
            merged = rows if merged is None else merged + rows
        return merged if merged is None or not added else F.pad(merged, (0, added))

    def _additive(self, mask: Tensor, name: str) -> Tensor:
        if mask.dtype == torch.bool:
            return torch.zeros(mask.shape, device=mask.device).masked_fill_(mask, -math.inf)
        if not mask.is_floating_point():
            raise InputError(f"{self.where()}: {name} has dtype {mask.dtype}, but must be bool or float")
        return mask.float()


def attend_with_weights(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropout: float = 0.0
) -> tuple[Tensor, Tensor]:
    """What attention mixes, and its weights."""
    # One layout whatever the projections were cut from: the order of a float product's sums depends on it.
    q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
    scores = (q * math.sqrt(1.0 / q.shape[-1])) @ k.transpose(-2, -1)
    weights = torch.softmax(scores if mask is None else scores + mask, -1)
    weights = F.dropout(weights, dropout) if dropout else weights
    return weights @ v, weights
