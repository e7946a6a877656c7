"""Models for the tests of files, and how two outputs are compared."""

import itertools
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence
from torch.utils import _pytree as pytree

import intaglio
from intaglio.rules import all_rules

RULE_EXAMPLES = [
    (rule, dtype, index)
    for rule in all_rules()
    for dtype, index in itertools.product(sorted(rule.weight_dtypes), range(len(rule.examples)))
]


def example_id(value: Any) -> str:
    return getattr(value, "name", None) or str(value)


def leaves(output: Any) -> list[Any]:
    found = pytree.tree_leaves(output, is_leaf=lambda x: isinstance(x, PackedSequence))
    return [part for leaf in found for part in (leaf if isinstance(leaf, PackedSequence) else [leaf])]


def assert_same(a: Any, b: Any) -> None:
    """Equal bit for bit, NaN included."""
    assert len(leaves(a)) == len(leaves(b))
    for x, y in zip(leaves(a), leaves(b), strict=True):
        if isinstance(x, Tensor):
            torch.testing.assert_close(x, y, rtol=0, atol=0, equal_nan=True)
        else:
            assert x == y


def assert_loads(quantized: nn.Module, path: Path, *calls: tuple[Any, ...]) -> nn.Module:
    """Load `path` without a class; the result gives the same bits and the same summary."""
    loaded = intaglio.load(path)
    for args in calls:
        assert_same(loaded(*args), quantized(*args))
    assert str(intaglio.summary(loaded)) == str(intaglio.summary(quantized))
    assert loaded.state_dict().keys() == quantized.state_dict().keys()
    return loaded


class Encoder(nn.Module):
    """A transformer encoder as people write them: embeddings, positions, a mask, pooling, ModuleList."""

    class Layer(nn.Module):
        def __init__(self, width: int, heads: int) -> None:
            super().__init__()
            self.heads = heads
            self.q, self.k, self.v, self.o = (nn.Linear(width, width) for _ in range(4))
            self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
            self.up, self.act, self.down = nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
            self.dropout = nn.Dropout(0.1)

        def split(self, x: Tensor) -> Tensor:
            batch, time, width = x.shape
            return x.view(batch, time, self.heads, width // self.heads).transpose(1, 2)

        def forward(self, x: Tensor, mask: Tensor) -> Tensor:
            q, k, v = self.split(self.q(x)), self.split(self.k(x)), self.split(self.v(x))
            attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
            x = self.norm1(x + self.dropout(self.o(attended.transpose(1, 2).reshape(x.shape))))
            return self.norm2(x + self.down(self.act(self.up(x))))

    def __init__(self, words: int = 50, width: int = 32) -> None:
        super().__init__()
        self.word, self.position = nn.Embedding(words, width), nn.Embedding(64, width)
        self.layers = nn.ModuleList(self.Layer(width, 4) for _ in range(2))
        self.register_buffer("offset", torch.randn(width), persistent=False)

    def forward(self, ids: Tensor, keep: Tensor) -> Tensor:
        x = self.word(ids) + self.position.weight[: ids.shape[1]] + self.offset
        mask = (1.0 - keep[:, None, None].float()) * -1e9
        for layer in self.layers:
            x = layer(x, mask)
        kept = keep[..., None].float()
        return F.normalize((x * kept).sum(1) / kept.sum(1), dim=-1)


class VoiceEncoder(nn.Module):
    """An LSTM over frames with an optional state, and the norm of the last state."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(20, 16, 2, batch_first=True)
        self.linear = nn.Linear(16, 24)
        self.relu = nn.ReLU()

    def forward(self, frames: Tensor, state: Any = None) -> Tensor:
        if state is None:
            zeros = torch.zeros(2, frames.size(0), 16)
            state = (zeros, zeros)
        _, (hidden, _) = self.lstm(frames, state)
        embedding = self.relu(self.linear(hidden[-1]))
        return embedding / torch.norm(embedding, dim=1, keepdim=True)


class Branching(nn.Module):
    """What no graph can hold: a decision that depends on values."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) if x.sum() > 0 else -self.linear(x)


def forward_with_assertions(self: Any, x: Tensor) -> Tensor:
    """Here and not in a test, where pytest rewrites assertions."""
    assert x.dim() == 3, "a batch is needed"
    assert x.shape[-1] == 8
    return self.linear(x)


def encoder_inputs(batch: int, time: int) -> tuple[Tensor, Tensor]:
    keep = torch.ones(batch, time, dtype=torch.long)
    keep[0, time // 2 :] = 0
    return torch.randint(0, 50, (batch, time)), keep
