"""The oracle of float32 attention: "Float operations of a Program" of docs/numerics.md, step by step.

May import reference, reference_rnn and reference_rows.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from intaglio.ops.reference import fma32
from intaglio.ops.reference_rnn import exp2
from intaglio.ops.reference_rows import at_least, sum_rows

__all__ = ["attention", "attention_rows"]

LOG2E = float.fromhex("0x1.715476p+0")
LOWEST = -127.0
QUERY_GROUP = 48
"""Queries that read the same keys: under a causal mask, those that the group's last query may see."""

KEY_BLOCK = 256
"""Keys of one chain of values."""


def chain(a: Tensor, b: Tensor) -> Tensor:
    """`a @ b` of `(M, K)` and `(K, N)`, each output a chain of fma from 0 in the order of K."""
    total = torch.zeros(a.shape[0], b.shape[1])
    for k in range(a.shape[1]):
        total = fma32(a[:, k, None], b[k, None, :], total)
    return total


def attention_rows(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float,
    mask: Tensor | None = None,
    allowed: Tensor | None = None,
    seen: Tensor | None = None,
) -> Tensor:
    """One head: `(Tq, D)`, `(Tk, D)`, `(Tk, Dv)` to `(Tq, Dv)`.

    `mask` `(Tq, Tk)` is added to the scores; keys that are not `allowed`, or not `seen`, weigh nothing.
    """
    factor = torch.tensor(float(torch.tensor(scale)) * math.log2(math.e), dtype=torch.float32)
    s = chain(q, k.T) * factor
    if mask is not None:
        bounded = torch.where(mask == -torch.inf, mask, mask.clamp(min=-2e38))
        s = fma32(bounded, torch.tensor(LOG2E), s)
    for condition in (allowed, seen):
        if condition is not None:
            s = torch.where(condition, s, torch.tensor(-torch.inf))
    most = torch.nn.functional.pad(s, (0, 1), value=-torch.inf).amax(1, keepdim=True)
    most = torch.where(most == -torch.inf, torch.zeros(()), most)
    e = exp2(at_least(s - most, LOWEST))
    if seen is not None:
        e = torch.where(seen, e, torch.zeros(()))
    total = sum_rows(e)
    inverse = torch.where(total == 0, total, 1.0 / total)
    y = chain(e[:, :KEY_BLOCK], v[:KEY_BLOCK])
    for key in range(KEY_BLOCK, e.shape[1], KEY_BLOCK):
        y = y + chain(e[:, key : key + KEY_BLOCK], v[key : key + KEY_BLOCK])
    return y * inverse[:, None]


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float,
    mask: Tensor | None = None,
    allowed: Tensor | None = None,
    *,
    is_causal: bool = False,
) -> Tensor:
    """`(B, H, Tq, D)`, `(B, G, Tk, D)`, `(B, G, Tk, Dv)` to `(B, H, Tq, Dv)`; masks are `(B, H, Tq, Tk)`."""
    batch, heads, queries, _ = q.shape
    shared, keys = heads // k.shape[1], k.shape[2]
    y = torch.empty(batch, heads, queries, v.shape[3])
    seen = torch.ones(queries, keys, dtype=torch.bool).tril()
    for b in range(batch):
        for h in range(heads):
            for begin in range(0, queries, QUERY_GROUP):
                rows = slice(begin, begin + QUERY_GROUP)
                limit = min(keys, begin + QUERY_GROUP) if is_causal else keys
                y[b, h, rows] = attention_rows(
                    q[b, h, rows],
                    k[b, h // shared, :limit],
                    v[b, h // shared, :limit],
                    scale,
                    None if mask is None else mask[b, h, rows, :limit],
                    None if allowed is None else allowed[b, h, rows, :limit],
                    seen[rows, :limit] if is_causal else None,
                )
    return y
