"""Classifiers of texts, and a small speech encoder: sequences whose lengths vary.

Hard to trace: tensors of lengths, masks compared from them, packed sequences, pools over the whole length.
Source: Kim, "Convolutional Neural Networks for Sentence Classification" (2014); Gulati et al., "Conformer"
(2020).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence

from benchmarks.architectures.weights import seeded, settle

__all__ = ["make_conformer", "make_gru_classifier", "make_lstm_tagger", "make_text_cnn"]


class TextCNN(nn.Module):
    """Convolutions of several widths over words, each pooled to its maximum."""

    def __init__(self, *, vocabulary: int = 8000, width: int = 160, channels: int = 256) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(vocabulary, width))
        self.convs = nn.ModuleList([nn.Conv1d(width, channels, size) for size in (3, 4, 5)])
        self.fc = nn.Linear(3 * channels, 20)

    def forward(self, tokens: Tensor) -> Tensor:
        """`(B, T) int64` to `(B, 20)` logits."""
        x = F.embedding(tokens, self.weight, padding_idx=0)
        x = x.transpose(1, 2)
        pooled = [F.relu(conv(x)) for conv in self.convs]
        pooled = [F.max_pool1d(y, y.size(2)).squeeze(2) for y in pooled]
        return self.fc(F.dropout(torch.cat(pooled, 1), 0.5, self.training))


class GRUClassifier(nn.Module):
    """A GRU over packed sequences; its last states are classified."""

    def __init__(self, *, vocabulary: int = 8000, width: int = 160, hidden: int = 256) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width, padding_idx=0)
        self.gru = nn.GRU(width, hidden, 2, batch_first=True, bidirectional=True)
        self.norm = nn.LayerNorm(2 * hidden)
        self.fc = nn.Linear(2 * hidden, 20)

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """`(B, T) int64` tokens and `(B,) int64` lengths to `(B, 20)` logits."""
        embedded = self.embedding(tokens)
        packed = pack_padded_sequence(embedded, lengths, batch_first=True, enforce_sorted=False)
        _, hidden = self.gru(packed)
        return self.fc(self.norm(torch.cat((hidden[-2], hidden[-1]), dim=-1)))


class LSTMTagger(nn.Module):
    """An LSTM with a linear layer over each state, and a mean over the states that are no padding."""

    def __init__(self, *, vocabulary: int = 8000, width: int = 128, hidden: int = 320) -> None:
        super().__init__()
        self.hidden = hidden
        self.embedding = nn.Embedding(vocabulary, width)
        self.lstm = nn.LSTM(width, hidden, num_layers=2, batch_first=True)
        self.tag = nn.Linear(hidden, 40)
        self.topic = nn.Linear(hidden, 20)

    def init_hidden(self, batch: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """States of nought."""
        return (
            torch.zeros(2, batch, self.hidden, device=like.device),
            torch.zeros(2, batch, self.hidden, device=like.device),
        )

    def forward(self, tokens: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """`(B, T) int64` to log-probabilities of tags `(B, T, 40)` and of topics `(B, 20)`."""
        batch, steps = tokens.shape
        states, _ = self.lstm(self.embedding(tokens), self.init_hidden(batch, tokens))
        if lengths is None:
            mean = states.mean(dim=1)
        else:
            mask = (torch.arange(steps, device=tokens.device)[None, :] < lengths[:, None]).unsqueeze(-1)
            mean = (states * mask).sum(dim=1) / lengths[:, None]
        return F.log_softmax(self.tag(states), dim=-1), F.log_softmax(self.topic(mean), dim=-1)


class ConvolutionModule(nn.Module):
    """A gate, a depthwise convolution over time, BatchNorm and swish."""

    def __init__(self, width: int, kernel: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.pointwise1 = nn.Conv1d(width, 2 * width, 1)
        self.depthwise = nn.Conv1d(width, width, kernel, padding=(kernel - 1) // 2, groups=width)
        self.batch_norm = nn.BatchNorm1d(width)
        self.pointwise2 = nn.Conv1d(width, width, 1)

    def forward(self, x: Tensor, pad_mask: Tensor | None) -> Tensor:
        """`(B, T, width)` to the same."""
        x = self.norm(x).transpose(1, 2)
        x = F.glu(self.pointwise1(x), dim=1)
        if pad_mask is not None:
            x = x.masked_fill(pad_mask.unsqueeze(1), 0.0)
        x = self.batch_norm(self.depthwise(x))
        x = x * torch.sigmoid(x)
        return self.pointwise2(x).transpose(1, 2)


class ConformerLayer(nn.Module):
    """Half an MLP, attention, a convolution, half an MLP."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.feed1, self.feed2 = (
            nn.Sequential(
                nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.SiLU(), nn.Linear(4 * width, width)
            )
            for _ in range(2)
        )
        self.norm = nn.LayerNorm(width)
        self.in_proj, self.out_proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.conv = ConvolutionModule(width, 15)
        self.final = nn.LayerNorm(width)

    def attend(self, x: Tensor, pad_mask: Tensor | None) -> Tensor:
        """Attention of each frame to those that are no padding."""
        b, t, _ = x.shape
        q, k, v = (y.reshape(b, t, self.heads, -1).transpose(1, 2) for y in self.in_proj(x).chunk(3, dim=-1))
        mask = None if pad_mask is None else ~pad_mask[:, None, None, :]
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.out_proj(out.transpose(1, 2).flatten(2))

    def forward(self, x: Tensor, pad_mask: Tensor | None = None) -> Tensor:
        """`(B, T, width)` to the same."""
        x = x + 0.5 * self.feed1(x)
        x = x + self.attend(self.norm(x), pad_mask)
        x = x + self.conv(x, pad_mask)
        x = x + 0.5 * self.feed2(x)
        return self.final(x)


class Conformer(nn.Module):
    """A speech encoder: two strided convolutions over a spectrogram, then layers over time."""

    def __init__(self, *, mels: int = 40, width: int = 144, depth: int = 3) -> None:
        super().__init__()
        self.subsample = nn.Sequential(
            nn.Conv2d(1, 24, 3, 2, 1), nn.ReLU(), nn.Conv2d(24, 24, 3, 2, 1), nn.ReLU()
        )
        self.project = nn.Linear(24 * (mels // 4), width)
        self.layers = nn.ModuleList(ConformerLayer(width, 4) for _ in range(depth))
        self.output = nn.Linear(width, 64)

    def forward(self, frames: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """`(B, T, mels)` to log-probabilities `(B, T / 4, 64)`, and lengths if they were given."""
        x = self.subsample(frames.unsqueeze(1))
        b, c, t, f = x.size()
        x = self.project(x.transpose(1, 2).contiguous().view(b, t, c * f))
        pad_mask = None
        if lengths is not None:
            lengths = (lengths + 3) // 4
            pad_mask = torch.arange(t, device=x.device).expand(b, t) >= lengths.unsqueeze(1)
        for layer in self.layers:
            x = layer(x, pad_mask=pad_mask)
        return self.output(x).log_softmax(dim=-1), lengths


@seeded
def make_text_cnn() -> nn.Module:
    """Windows of three, four and five words."""
    return TextCNN()


@seeded
def make_gru_classifier() -> nn.Module:
    """Two layers in both directions, packed."""
    return GRUClassifier()


@seeded
def make_lstm_tagger() -> nn.Module:
    """Two layers with states made in forward."""
    return LSTMTagger()


@seeded
def make_conformer() -> nn.Module:
    """Three layers."""
    return settle(Conformer(), torch.randn(4, 120, 40))
