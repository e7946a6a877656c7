"""The oracle of attention: "Float operations of a Program" of docs/numerics.md, step by step.

May import reference, reference_rnn and reference_rows.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from intaglio.ops.reference import fma32
from intaglio.ops.reference_rnn import exp2
from intaglio.ops.reference_rows import at_least

__all__ = ["attention", "attention_rows"]

LOG2E = float.fromhex("0x1.715476p+0")
QUERY_GROUP = 48
"""Queries that read the same keys: under a causal mask, those that the group's last query may see."""

MOST_WEIGHT = 32767
LOG2_MOST_WEIGHT = float.fromhex("0x1.dfffa4p+3")
LOWEST = -32.0

KEY_BLOCK = 64
"""Keys of one exact sum of values."""

VALUE_LIMIT = 1023

SMALLEST = 2.0**-100
"""Rows whose values are all smaller are zero."""


def depth_limit(depth: int) -> int:
    """The largest words of queries and keys of which `depth` products add up to an int32."""
    return min(32767, math.floor(math.sqrt((2**31 - 1) / depth))) if depth else 32767


def to_words(x: Tensor, limit: int) -> tuple[Tensor, Tensor]:
    """Rows `(R, C)` as integers of at most `limit`, float64, and the scale `(R, 1)` of each."""
    most = torch.nn.functional.pad(x.abs(), (0, 1)).amax(1, keepdim=True)
    finite = torch.isfinite(x).all(1, keepdim=True)
    scale = torch.where(most < SMALLEST, torch.zeros(()), most / limit)
    inverse = torch.tensor(float(limit)) / most  # a plain `limit / most` is a product with 1 / most
    inverse = torch.where(finite & (most >= SMALLEST), inverse, torch.zeros(()))
    words = torch.where(finite, x * inverse, torch.zeros(())).round()
    return words.double(), torch.where(finite, scale, torch.tensor(torch.nan))


def attention_rows(
    q: tuple[Tensor, Tensor],
    k: tuple[Tensor, Tensor],
    v: tuple[Tensor, Tensor],
    scale: float,
    mask: Tensor | None = None,
    allowed: Tensor | None = None,
    seen: Tensor | None = None,
) -> Tensor:
    """One head: words and scales of `(Tq, D)`, `(Tk, D)`, `(Dv, Tk)` to `(Tq, Dv)`.

    `mask` `(Tq, Tk)` is added to the scores; keys that are not `allowed`, or not `seen`, weigh nothing.
    """
    factor = torch.tensor(float(torch.tensor(scale)) * math.log2(math.e), dtype=torch.float32)
    s = (q[0] @ k[0].T).float() * k[1].T * (q[1] * factor)
    if mask is not None:
        bounded = torch.where(mask == -torch.inf, mask, mask.clamp(min=-2e38))
        s = fma32(bounded, torch.tensor(LOG2E), s)
    for condition in (allowed, seen):
        if condition is not None:
            s = torch.where(condition, s, torch.tensor(-torch.inf))
    most = torch.nn.functional.pad(s, (0, 1), value=-torch.inf).amax(1, keepdim=True)
    most = torch.where(most == -torch.inf, torch.zeros(()), most)
    e = exp2(at_least(s - most, LOWEST) + LOG2_MOST_WEIGHT).round()
    if seen is not None:
        e = torch.where(seen, e, torch.zeros(()))
    total = e.double().sum(1, keepdim=True).float()
    inverse = torch.where(total == 0, total, 1.0 / total)
    e = e.nan_to_num().double()  # a NaN shows in `inverse`
    y = (e[:, :KEY_BLOCK] @ v[0][:, :KEY_BLOCK].T).float()
    for key in range(KEY_BLOCK, e.shape[1], KEY_BLOCK):
        y = y + (e[:, key : key + KEY_BLOCK] @ v[0][:, key : key + KEY_BLOCK].T).float()
    return y * v[1].T * inverse


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
    limit_of_words = depth_limit(q.shape[3])
    for b in range(batch):
        for h in range(heads):
            q_words, q_scales = to_words(q[b, h], limit_of_words)
            k_words, k_scales = to_words(k[b, h // shared], limit_of_words)
            v_words, v_scales = to_words(v[b, h // shared].T, VALUE_LIMIT)
            for begin in range(0, queries, QUERY_GROUP):
                rows = slice(begin, begin + QUERY_GROUP)
                limit = min(keys, begin + QUERY_GROUP) if is_causal else keys
                y[b, h, rows] = attention_rows(
                    (q_words[rows], q_scales[rows]),
                    (k_words[:limit], k_scales[:limit]),
                    (v_words[:, :limit], v_scales),
                    scale,
                    None if mask is None else mask[b, h, rows, :limit],
                    None if allowed is None else allowed[b, h, rows, :limit],
                    seen[rows, :limit] if is_causal else None,
                )
    return y
