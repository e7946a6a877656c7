"""Cases of attention: odd sizes, strides, masks, shared heads, values that are not finite."""

import itertools

import torch
from torch import Tensor

from intaglio import _core
from intaglio.ops import reference_attention as reference

from .gemm import same


def address(tensor: Tensor | None) -> tuple[int, int, int, int]:
    """Data and the strides of batch, head and row."""
    return (0, 0, 0, 0) if tensor is None else (tensor.data_ptr(), *tensor.stride()[:3])


def run_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float,
    mask: Tensor | None = None,
    allowed: Tensor | None = None,
    *,
    is_causal: bool = False,
    threads: int = 1,
) -> Tensor:
    """Call the driver; the result lies in memory as `(B, T, H, D)`."""
    batch, heads, queries, depth = q.shape
    _, kv_heads, keys, width = v.shape
    y = torch.full((batch, queries, heads, width), -7.0).transpose(1, 2)
    _core.run_attention(
        *(batch, heads, kv_heads, queries, keys, depth, width),
        *(address(t) for t in (q, k, v, y)),
        scale,
        address(mask),
        address(allowed),
        is_causal,
        threads,
    )
    return y


def projections(batch: int, heads: int, queries: int, keys: int, depth: int, width: int) -> list[Tensor]:
    """q, k and v as a Linear gives them: heads beside each other, one value off any alignment."""
    shapes = ((queries, heads, depth), (keys, heads, depth), (keys, heads, width))
    return [torch.randn(batch * a * b * c + 1)[1:].view(batch, a, b, c).transpose(1, 2) for a, b, c in shapes]


def check(isa: str, q: Tensor, k: Tensor, v: Tensor, *masks: Tensor | None, is_causal: bool = False) -> None:
    found = run_attention(q, k, v, 0.25, *masks, is_causal=is_causal)
    expected = reference.attention(q, k, v, 0.25, *masks, is_causal=is_causal)
    assert same(found.contiguous(), expected), (isa, q.shape, v.shape, is_causal)


def case_attend_rows(isa: str) -> None:
    for queries, keys, depth, width in (
        (1, 1, 1, 1),
        (5, 3, 4, 7),
        (13, 17, 8, 16),
        (49, 31, 6, 33),
        (12, 33, 32, 32),
        (97, 100, 5, 20),
        (3, 530, 4, 5),
    ):
        q, k, v = projections(1, 2, queries, keys, depth, width)
        for is_causal in (False, True):
            check(isa, q, k, v, is_causal=is_causal)
    q, k, v = projections(2, 4, 10, 19, 8, 8)
    mask = torch.randn(2, 1, 1, 19).masked_fill_(torch.rand(2, 1, 1, 19) < 0.3, -torch.inf)
    allowed = torch.rand(1, 4, 10, 19) < 0.6
    mask[1], allowed[:, 2, 3] = -torch.inf, False  # rows that may see nothing
    mask, allowed = mask.expand(2, 4, 10, 19), allowed.expand(2, 4, 10, 19)
    for some, is_causal in itertools.product(((mask, None), (None, allowed), (mask, allowed)), (False, True)):
        check(isa, q, k[:, :2], v[:, :2], *some, is_causal=is_causal)
    assert not run_attention(q, k, v, 0.25, mask)[1].any()
    q[0, 0, 2, 1], q[0, 1, 3, 0], k[1, 2, 4] = torch.nan, torch.inf, -torch.inf
    v[1, 3, 5, 2], k[1, 1, 3, 3] = torch.nan, 1e38
    for is_causal in (False, True):
        check(isa, q, k, v, is_causal=is_causal)
    check(isa, *(t[:, :, :0] for t in (q, k, v)))
    check(isa, q, k[:, :, :0], v[:, :, :0])


case_pack_head = case_attend_rows
