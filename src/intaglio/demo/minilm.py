"""all-MiniLM-L6-v2: a six-layer Transformer that turns a text into a 384-wide sentence embedding.

Plain `torch.nn`, no model library: what a user's own network looks like before quantization. The weights are
read from the checkpoint's own safetensors file, with every tensor accounted for.
Source: Reimers and Gurevych, "Sentence-BERT" (2019); Wang et al., "MiniLM" (2020).
Neighbours: `wordpiece` makes the ids, `text_tasks` scores the embeddings.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from intaglio.demo.checkpoints import fill_model
from intaglio.demo.errors import CarrierError

__all__ = ["EncoderLayer", "MiniLM", "load_minilm"]

LAYER_NORM_EPSILON = 1e-12

# The checkpoint's name of a module, and ours.
_EMBEDDING_NAMES = {
    "word_embeddings": "word",
    "position_embeddings": "position",
    "token_type_embeddings": "token_type",
    "LayerNorm": "norm",
}
_LAYER_NAMES = {
    "attention.self.query": "query",
    "attention.self.key": "key",
    "attention.self.value": "value",
    "attention.output.dense": "attention_out",
    "attention.output.LayerNorm": "attention_norm",
    "intermediate.dense": "up",
    "output.dense": "down",
    "output.LayerNorm": "feedforward_norm",
}
# Made by the checkpoint's exporter, read by no forward pass of a sentence encoder.
_UNUSED_PREFIXES = ("pooler.", "embeddings.position_ids")


class EncoderLayer(nn.Module):
    """One post-norm Transformer layer: self-attention, then a feed-forward block with GELU."""

    def __init__(self, width: int, heads: int, feedforward: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.attention_out = nn.Linear(width, width)
        self.attention_norm = nn.LayerNorm(width, LAYER_NORM_EPSILON)
        self.up = nn.Linear(width, feedforward)
        self.activation = nn.GELU()
        self.down = nn.Linear(feedforward, width)
        self.feedforward_norm = nn.LayerNorm(width, LAYER_NORM_EPSILON)

    def forward(self, hidden: Tensor, attention_bias: Tensor | None = None) -> Tensor:
        """`(B, T, width)` to `(B, T, width)`; `attention_bias` is added to the scores, `(B, 1, 1, T)`."""
        attended = F.scaled_dot_product_attention(
            self._split_heads(self.query(hidden)),
            self._split_heads(self.key(hidden)),
            self._split_heads(self.value(hidden)),
            attn_mask=attention_bias,
        )
        joined = attended.transpose(1, 2).flatten(2)
        hidden = self.attention_norm(hidden + self.attention_out(joined))
        expanded = self.activation(self.up(hidden))
        normed: Tensor = self.feedforward_norm(hidden + self.down(expanded))
        return normed

    def _split_heads(self, projected: Tensor) -> Tensor:
        batch, length, width = projected.shape
        return projected.view(batch, length, self.heads, width // self.heads).transpose(1, 2)


class MiniLM(nn.Module):
    """A sentence encoder: token ids in, embeddings of length one out.

    >>> model = MiniLM(vocabulary=10, width=8, heads=2, feedforward=16, layers=1, positions=4)
    >>> model(torch.tensor([[1, 2, 3]])).shape
    torch.Size([1, 8])
    """

    def __init__(
        self,
        *,
        vocabulary: int = 30522,
        width: int = 384,
        heads: int = 12,
        feedforward: int = 1536,
        layers: int = 6,
        positions: int = 512,
    ) -> None:
        super().__init__()
        self.word = nn.Embedding(vocabulary, width)
        self.position = nn.Embedding(positions, width)
        self.token_type = nn.Embedding(2, width)
        self.norm = nn.LayerNorm(width, LAYER_NORM_EPSILON)
        self.layers = nn.ModuleList(EncoderLayer(width, heads, feedforward) for _ in range(layers))

    def forward(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """Embed a batch of texts.

        Parameters
        ----------
        ids
            `(B, T) int64` token ids.
        mask
            `(B, T) bool`, True where there is a token and False where there is padding; None means no
            padding.

        Returns
        -------
        Tensor
            `(B, width) float32`, the mean over the tokens, divided by its length.
        """
        places = torch.arange(ids.shape[1], device=ids.device)
        hidden = self.word(ids) + self.position(places) + self.token_type(torch.zeros_like(places))
        hidden = self.norm(hidden)
        bias = None if mask is None else torch.zeros(mask.shape).masked_fill(~mask, -1e9)[:, None, None]
        for layer in self.layers:
            hidden = layer(hidden, bias)
        if mask is None:
            return F.normalize(hidden.mean(1), dim=-1)
        kept = mask[..., None].to(hidden.dtype)
        return F.normalize((hidden * kept).sum(1) / kept.sum(1), dim=-1)


def load_minilm(path: Path) -> MiniLM:
    """Read the model from its `model.safetensors`, in eval mode.

    Raises
    ------
    CarrierError
        the file is missing or damaged, or holds another network.
    """
    try:
        checkpoint = load_file(path)
    except (OSError, SafetensorError) as error:
        raise CarrierError(f"{path}: the weights of MiniLM cannot be read: {error}") from error
    state = {ours: tensor for name, tensor in checkpoint.items() if (ours := _rename(name)) is not None}
    model = MiniLM()
    fill_model(model, state, path, "all-MiniLM-L6-v2")
    return model.eval()


def _rename(name: str) -> str | None:
    """Our name of a checkpoint tensor, or None if the encoder does not use it; unknown names stay."""
    if name.startswith(_UNUSED_PREFIXES):
        return None
    module, _, leaf = name.rpartition(".")
    if module.startswith("embeddings."):
        ours = _EMBEDDING_NAMES.get(module.removeprefix("embeddings."), module)
        return f"{ours}.{leaf}"
    if module.startswith("encoder.layer."):
        index, _, part = module.removeprefix("encoder.layer.").partition(".")
        return f"layers.{index}.{_LAYER_NAMES.get(part, part)}.{leaf}"
    return name
