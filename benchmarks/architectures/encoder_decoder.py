"""A transformer that translates: an encoder, a decoder with cross attention, and masks that may be absent.

Hard to trace: keyword-only arguments with defaults, `**kwargs`, branches on None, masks made from lengths,
weights shared between the embedding and the output.
Source: Vaswani et al., "Attention Is All You Need" (2017); Zhang and Sennrich, "RMSNorm" (2019).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.architectures.weights import seeded

__all__ = ["EncoderDecoder", "RMSNorm", "make_encoder_decoder", "make_encoder_decoder_of_torch"]


class RMSNorm(nn.Module):
    """Scale to a root mean square of one; no shift."""

    def __init__(self, width: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(0.75 + 0.5 * torch.rand(width))

    def forward(self, x: Tensor) -> Tensor:
        """`(..., width)` to the same."""
        input_dtype = x.dtype
        x = x.to(torch.float32)
        x = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps)
        return self.weight * x.to(input_dtype)


class Attention(nn.Module):
    """Attention written out, over itself or over a memory."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.d_kv = width // heads
        self.q = nn.Linear(width, width, bias=False)
        self.k = nn.Linear(width, width, bias=False)
        self.v = nn.Linear(width, width, bias=False)
        self.o = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor, memory: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """`(B, T, width)` to the same; `mask` is added to the scores."""
        batch_size, seq_length = x.shape[:2]
        source = x if memory is None else memory

        def split(states: Tensor) -> Tensor:
            return states.view(batch_size, -1, self.heads, self.d_kv).transpose(1, 2)

        query, key, value = split(self.q(x)), split(self.k(source)), split(self.v(source))
        scores = torch.matmul(query, key.transpose(3, 2)) / math.sqrt(self.d_kv)
        if mask is not None:
            scores = scores + mask
        weights = F.softmax(scores.float(), dim=-1).type_as(scores)
        context = torch.matmul(weights, value).transpose(1, 2).contiguous()
        return self.o(context.view(batch_size, seq_length, self.heads * self.d_kv))


class TorchAttention(nn.Module):
    """The same through `nn.MultiheadAttention`."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)

    def forward(self, x: Tensor, memory: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """`(B, T, width)` to the same; `mask` is `(T, S)` and added to the scores."""
        source = memory if memory is not None else x
        out, _ = self.attention(x, source, source, attn_mask=mask, need_weights=False)
        return out


class GatedFeedForward(nn.Module):
    """A gated MLP."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.wi_0 = nn.Linear(width, hidden, bias=False)
        self.wi_1 = nn.Linear(width, hidden, bias=False)
        self.wo = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """`(..., width)` to the same."""
        return self.wo(F.gelu(self.wi_0(x), approximate="tanh") * self.wi_1(x))


class Layer(nn.Module):
    """Attention over itself, over the memory if it is a decoder's, and an MLP."""

    def __init__(self, width: int, heads: int, *, decodes: bool, own_attention: bool) -> None:
        super().__init__()
        make = Attention if own_attention else TorchAttention
        norm = RMSNorm if own_attention else nn.LayerNorm
        self.norm1, self.self_attn = norm(width), make(width, heads)
        if decodes:
            self.norm2, self.cross_attn = norm(width), make(width, heads)
        self.norm3, self.feed_forward = norm(width), GatedFeedForward(width, 2 * width)
        self.is_decoder = decodes

    def forward(
        self,
        x: Tensor,
        *,
        mask: Tensor | None = None,
        memory: Tensor | None = None,
        memory_mask: Tensor | None = None,
    ) -> Tensor:
        """`(B, T, width)` to the same."""
        x = x + self.self_attn(self.norm1(x), mask=mask)
        if self.is_decoder and memory is not None:
            x = x + self.cross_attn(self.norm2(x), memory, mask=memory_mask)
        return x + self.feed_forward(self.norm3(x))


class EncoderDecoder(nn.Module):
    """The network; `own_attention` writes attention out, else `nn.MultiheadAttention` does it."""

    def __init__(
        self,
        *,
        vocabulary: int = 4000,
        width: int = 192,
        heads: int = 6,
        depth: int = 3,
        own_attention: bool = True,
    ) -> None:
        super().__init__()
        self.d_model = width
        self.embedding = nn.Embedding(vocabulary, width)
        nn.init.normal_(self.embedding.weight, std=width**-0.5)
        self.register_buffer("positions", self._sinusoids(256, width), persistent=False)
        options = {"own_attention": own_attention}
        self.encoder = nn.ModuleList(Layer(width, heads, decodes=False, **options) for _ in range(depth))
        self.decoder = nn.ModuleList(Layer(width, heads, decodes=True, **options) for _ in range(depth))
        self.encoder_norm, self.decoder_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.generator = nn.Linear(width, vocabulary, bias=False)
        self.generator.weight = self.embedding.weight

    @staticmethod
    def _sinusoids(length: int, width: int) -> Tensor:
        rates = torch.exp(torch.arange(0, width, 2) * (-math.log(10_000.0) / width))
        angles = torch.arange(length)[:, None] * rates
        return torch.stack((angles.sin(), angles.cos()), -1).flatten(1)

    def embed(self, tokens: Tensor, offset: int = 0) -> Tensor:
        """`(B, T) int64` to `(B, T, width)`."""
        length = tokens.size(1)
        scaled = self.embedding(tokens) * math.sqrt(self.d_model)
        return scaled + self.positions[offset : offset + length].unsqueeze(0)

    def forward(
        self,
        src: Tensor,
        tgt: Tensor,
        *,
        src_mask: Tensor | None = None,
        tgt_mask: Tensor | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """`(B, S)` and `(B, T)` tokens to `(B, T, vocabulary)` logits; masks are added to the scores.

        `src_mask` broadcasts over rows of scores, `(S, S)` or `(1, S)`; keyword `offset` shifts positions.
        """
        offset = kwargs.get("offset", 0)
        if tgt_mask is None:
            length = tgt.shape[1]
            tgt_mask = torch.triu(torch.full((length, length), float("-inf"), device=tgt.device), diagonal=1)
        memory_mask = None
        if src_mask is not None:
            memory_mask = src_mask[:1].expand(tgt.shape[1], -1)
        memory = self.embed(src)
        for layer in self.encoder:
            memory = layer(memory, mask=src_mask)
        memory = self.encoder_norm(memory)
        x = self.embed(tgt, offset)
        for layer in self.decoder:
            x = layer(x, mask=tgt_mask, memory=memory, memory_mask=memory_mask)
        x = self.decoder_norm(x)
        # Tied to the embedding: scaled down as that is scaled up.
        return self.generator(x * (self.d_model**-0.5) * 4.0)


@seeded
def make_encoder_decoder() -> nn.Module:
    """With attention written out."""
    return EncoderDecoder()


@seeded
def make_encoder_decoder_of_torch() -> nn.Module:
    """With `nn.MultiheadAttention`."""
    return EncoderDecoder(own_attention=False)
