"""An MLP over places and an MLP over channels, in turn.

Hard to trace: modules made by functions that are arguments, a generator over strided slices, transposes.
Source: Tolstikhin et al., "MLP-Mixer" (2021).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks.architectures.weights import seeded

__all__ = ["MlpMixer", "make_mixer", "make_mixer_of_transposes"]


class PreNormResidual(nn.Module):
    """`fn` of the normalised input, added to the input."""

    def __init__(self, width: int, fn: nn.Module) -> None:
        super().__init__()
        self.fn = fn
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, places, width)` to the same."""
        return self.fn(self.norm(x)) + x


def feed_forward(width: int, expansion: float, dense: Callable[[int, int], nn.Module]) -> nn.Sequential:
    """Two layers that `dense` makes, with GELU between."""
    hidden = int(width * expansion)
    return nn.Sequential(dense(width, hidden), nn.GELU(), nn.Dropout(0.1), dense(hidden, width))


class MixerBlock(nn.Module):
    """Mix places through a transpose, then channels."""

    def __init__(self, places: int, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.tokens = feed_forward(places, 2, nn.Linear)
        self.channels = feed_forward(width, 4, nn.Linear)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, places, width)` to the same."""
        x = x + self.tokens(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        return x + self.channels(self.norm2(x))


class MlpMixer(nn.Module):
    """The network, for one size of image; `transposes` mixes places by a transpose, not a convolution."""

    def __init__(self, *, size: int, patch: int, width: int, depth: int, transposes: bool) -> None:
        super().__init__()
        assert size % patch == 0, "whole patches only"
        self.patch = patch
        places = (size // patch) ** 2
        self.embed = nn.Linear(3 * patch**2, width)
        over_places, over_channels = partial(nn.Conv1d, kernel_size=1), nn.Linear
        blocks: list[nn.Module] = []
        for _ in range(depth):
            if transposes:
                blocks.append(MixerBlock(places, width))
            else:
                blocks.append(PreNormResidual(width, feed_forward(places, 2, over_places)))
                blocks.append(PreNormResidual(width, feed_forward(width, 4, over_channels)))
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 100)

    def rearrange(self, x: Tensor) -> Tensor:
        """`(B, C, H, W)` to `(B, places, C * patch * patch)`."""
        p = self.patch
        x = torch.cat(tuple(x[:, :, i::p, j::p] for i in range(p) for j in range(p)), dim=1)
        b, c, *places = x.shape
        return x.reshape(b, c, places[0] * places[1]).transpose(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, 3, size, size)` to `(B, 100)` logits."""
        x = self.blocks(self.embed(self.rearrange(x)))
        return self.head(self.norm(x).mean(dim=1))


@seeded
def make_mixer() -> nn.Module:
    """Places mixed by convolutions over channels that are places."""
    return MlpMixer(size=64, patch=8, width=224, depth=5, transposes=False)


@seeded
def make_mixer_of_transposes() -> nn.Module:
    """Places mixed by Linears between two transposes."""
    return MlpMixer(size=96, patch=8, width=160, depth=4, transposes=True)
