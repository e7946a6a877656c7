"""The oracle of the embeddings, in plain torch (docs/numerics.md, "Embeddings"). May import reference."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from intaglio.ops.reference import fma32

__all__ = ["embedding", "embedding_bag", "split_nibbles"]


def split_nibbles(codes: Tensor, width: int) -> Tensor:
    """`(N, width)` codes of 4 bit from `(N, (width + 1) // 2)` bytes, the low half of each first."""
    return torch.stack([codes & 15, codes >> 4], -1).flatten(1)[:, :width]


def embedding(
    weight: Tensor, scale: Tensor, offset: Tensor, indices: Tensor, *, width: int, bits: int
) -> Tensor:
    """Rows of a table of codes, at `indices` of any shape: `fma(float(code), scale, offset)`."""
    rows = indices.flatten().long()
    codes = weight[rows] if bits == 8 else split_nibbles(weight[rows], width)
    values = fma32(codes.float(), scale[rows, None], offset[rows, None])
    return values.reshape(*indices.shape, width)


def embedding_bag(
    rows: Tensor,
    indices: Tensor,
    bounds: list[int],
    *,
    mode: str,
    weights: Tensor | None = None,
    padding_idx: int = -1,
) -> Tensor:
    """Bags `bounds[b]..bounds[b + 1] - 1` of `(count, D)` rows, reduced one row after the other."""
    bags = []
    for begin, end in pairwise(bounds):
        kept = [i for i in range(begin, end) if int(indices[i]) != padding_idx]
        acc = torch.zeros(rows.shape[1])
        for i in kept:
            if mode == "max":
                acc = rows[i] if i == kept[0] else torch.maximum(acc, rows[i])
            elif weights is None:
                acc = acc + rows[i]
            else:
                acc = fma32(weights[i], rows[i], acc)
        bags.append(acc / len(kept) if mode == "mean" and kept else acc)
    return torch.stack(bags) if bags else torch.zeros(0, rows.shape[1])
