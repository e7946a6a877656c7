"""Causal language models: one with learned positions and a stored mask, one with rotary positions.

Hard to trace: buffers sliced by the length of the input, assertions on it, rotations that split and join,
key heads repeated for groups of queries, a tuple or a tensor as output, state passed in and out.
Source: Radford et al., "GPT-2" (2019); Touvron et al., "LLaMA" (2023).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.architectures.encoder_decoder import RMSNorm
from benchmarks.architectures.weights import seeded

__all__ = ["LearnedPositions", "RotaryPositions", "make_gpt", "make_llama"]


class CausalAttention(nn.Module):
    """Attention to what came before, by a mask that is kept for the longest input."""

    def __init__(self, width: int, heads: int, block_size: int) -> None:
        super().__init__()
        self.c_attn = nn.Linear(width, 3 * width)
        self.c_proj = nn.Linear(width, width)
        self.n_head, self.n_embd = heads, width
        lower = torch.tril(torch.ones(block_size, block_size)).view(1, 1, block_size, block_size)
        self.register_buffer("bias", lower)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, T, width)` to the same."""
        b, t, c = x.size()
        q, k, v = self.c_attn(x).split(self.n_embd, dim=2)
        k = k.view(b, t, self.n_head, c // self.n_head).transpose(1, 2)
        q = q.view(b, t, self.n_head, c // self.n_head).transpose(1, 2)
        v = v.view(b, t, self.n_head, c // self.n_head).transpose(1, 2)
        att = (q @ k.transpose(-2, -1)) * (1.0 / math.sqrt(k.size(-1)))
        att = att.masked_fill(self.bias[:, :, :t, :t] == 0, float("-inf"))
        y = F.softmax(att, dim=-1) @ v
        y = y.transpose(1, 2).contiguous().view(b, t, c)
        return self.c_proj(y)


class NewGELU(nn.Module):
    """GELU by its tanh formula, written out."""

    def forward(self, x: Tensor) -> Tensor:
        """Any shape to the same."""
        return 0.5 * x * (1.0 + torch.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * torch.pow(x, 3.0))))


class GptBlock(nn.Module):
    """Attention and an MLP kept in a dictionary of modules."""

    def __init__(self, width: int, heads: int, block_size: int) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = CausalAttention(width, heads, block_size)
        self.mlp = nn.ModuleDict(
            {"c_fc": nn.Linear(width, 4 * width), "act": NewGELU(), "c_proj": nn.Linear(4 * width, width)}
        )

    def forward(self, x: Tensor) -> Tensor:
        """`(B, T, width)` to the same."""
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp["c_proj"](self.mlp.act(self.mlp["c_fc"](self.ln_2(x))))


class LearnedPositions(nn.Module):
    """The network with learned positions; gives the loss beside the logits when it has targets."""

    def __init__(self, *, vocabulary: int = 4000, width: int = 192, depth: int = 4, block: int = 96) -> None:
        super().__init__()
        self.block_size = block
        self.transformer = nn.ModuleDict(
            {
                "wte": nn.Embedding(vocabulary, width),
                "wpe": nn.Embedding(block, width),
                "h": nn.ModuleList([GptBlock(width, 6, block) for _ in range(depth)]),
                "ln_f": nn.LayerNorm(width),
            }
        )
        self.lm_head = nn.Linear(width, vocabulary, bias=False)

    def forward(self, idx: Tensor, targets: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """`(B, T) int64` tokens to `(B, T, vocabulary)` logits and the loss or None."""
        t = idx.size(1)
        assert t <= self.block_size, f"{t} tokens are more than {self.block_size}"
        pos = torch.arange(0, t, dtype=torch.long, device=idx.device)
        x = self.transformer.wte(idx) + self.transformer.wpe(pos)
        for block in self.transformer.h:
            x = block(x)
        logits = self.lm_head(self.transformer.ln_f(x))
        loss = None
        if targets is not None:
            loss = F.cross_entropy(logits.view(-1, logits.size(-1)), targets.view(-1))
        return logits, loss


def rotate_half(x: Tensor) -> Tensor:
    """The second half, negated, before the first."""
    x1 = x[..., : x.shape[-1] // 2]
    x2 = x[..., x.shape[-1] // 2 :]
    return torch.cat((-x2, x1), dim=-1)


def repeat_kv(x: Tensor, times: int) -> Tensor:
    """Each key head for as many query heads."""
    if times == 1:
        return x
    batch, heads, length, width = x.shape
    return x[:, :, None, :, :].expand(batch, heads, times, length, width).reshape(batch, -1, length, width)


class GroupedAttention(nn.Module):
    """Attention whose queries share keys in groups; may continue from keys and values of before."""

    def __init__(self, width: int, heads: int, kv_heads: int) -> None:
        super().__init__()
        self.head_dim = width // heads
        self.groups = heads // kv_heads
        self.q_proj = nn.Linear(width, width, bias=False)
        self.k_proj = nn.Linear(width, kv_heads * self.head_dim, bias=False)
        self.v_proj = nn.Linear(width, kv_heads * self.head_dim, bias=False)
        self.o_proj = nn.Linear(width, width, bias=False)

    def forward(
        self,
        x: Tensor,
        position_embeddings: tuple[Tensor, Tensor],
        past: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """`(B, T, width)` to the same, and the keys and values so far."""
        input_shape = x.shape[:-1]
        hidden_shape = (*input_shape, -1, self.head_dim)
        query = self.q_proj(x).view(hidden_shape).transpose(1, 2)
        key = self.k_proj(x).view(hidden_shape).transpose(1, 2)
        value = self.v_proj(x).view(hidden_shape).transpose(1, 2)
        cos, sin = position_embeddings
        query = query * cos + rotate_half(query) * sin
        key = key * cos + rotate_half(key) * sin
        if past is not None:
            key = torch.cat((past[0], key), dim=2)
            value = torch.cat((past[1], value), dim=2)
        out = F.scaled_dot_product_attention(
            query, repeat_kv(key, self.groups), repeat_kv(value, self.groups), is_causal=past is None
        )
        out = out.transpose(1, 2).reshape(*input_shape, -1).contiguous()
        return self.o_proj(out), (key, value)


class LlamaLayer(nn.Module):
    """Attention and a gated MLP, each after an RMSNorm."""

    def __init__(self, width: int, heads: int, kv_heads: int, hidden: int) -> None:
        super().__init__()
        self.self_attn = GroupedAttention(width, heads, kv_heads)
        self.gate_proj = nn.Linear(width, hidden, bias=False)
        self.up_proj = nn.Linear(width, hidden, bias=False)
        self.down_proj = nn.Linear(hidden, width, bias=False)
        self.act_fn = nn.SiLU()
        self.input_layernorm, self.post_attention_layernorm = RMSNorm(width), RMSNorm(width)

    def forward(
        self,
        x: Tensor,
        position_embeddings: tuple[Tensor, Tensor],
        past: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """`(B, T, width)` to the same, and the keys and values so far."""
        residual = x
        x, present = self.self_attn(self.input_layernorm(x), position_embeddings, past=past)
        x = residual + x
        residual = x
        x = self.post_attention_layernorm(x)
        x = self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))
        return residual + x, present


class RotaryPositions(nn.Module):
    """The network with rotary positions; keys and values go out with the logits and may come back in."""

    def __init__(self, *, vocabulary: int = 4000, width: int = 192, depth: int = 4) -> None:
        super().__init__()
        heads, kv_heads = 6, 2
        self.embed_tokens = nn.Embedding(vocabulary, width)
        self.layers = nn.ModuleList(LlamaLayer(width, heads, kv_heads, 512) for _ in range(depth))
        self.norm = RMSNorm(width)
        self.lm_head = nn.Linear(width, vocabulary, bias=False)
        half = torch.arange(0, width // heads, 2, dtype=torch.int64).float()
        self.register_buffer("inv_freq", 1.0 / (10_000.0 ** (half / (width // heads))), persistent=False)

    def rotate(self, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines, `(1, 1, T, head)`."""
        freqs = position_ids[:, None].float() * self.inv_freq[None, :]
        emb = torch.cat((freqs, freqs), dim=-1)[None, None]
        return emb.cos(), emb.sin()

    def forward(
        self,
        input_ids: Tensor,
        past_key_values: tuple[tuple[Tensor, Tensor], ...] | None = None,
        use_cache: bool = True,
    ) -> tuple[Tensor, tuple[tuple[Tensor, Tensor], ...]] | Tensor:
        """`(B, T) int64` tokens to `(B, T, vocabulary)` logits, and the keys and values of each layer."""
        past_length = 0 if past_key_values is None else past_key_values[0][0].shape[2]
        position_ids = torch.arange(past_length, past_length + input_ids.shape[1], device=input_ids.device)
        position_embeddings = self.rotate(position_ids)
        x = self.embed_tokens(input_ids)
        presents: tuple[tuple[Tensor, Tensor], ...] = ()
        for index, layer in enumerate(self.layers):
            past = past_key_values[index] if past_key_values is not None else None
            x, present = layer(x, position_embeddings, past=past)
            if use_cache:
                presents = (*presents, present)
        logits = self.lm_head(self.norm(x))
        return (logits, presents) if use_cache else logits


@seeded
def make_gpt() -> nn.Module:
    """With learned positions."""
    return LearnedPositions()


@seeded
def make_llama() -> nn.Module:
    """With rotary positions."""
    return RotaryPositions()
