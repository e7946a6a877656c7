"""Attention in float32: the same bits with any threads, close to float64, torch's rules for masks."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from .kernel_cases.attention import projections, run_attention


def exact(q: Tensor, k: Tensor, v: Tensor, **more: object) -> Tensor:
    """torch's attention in float64."""
    return F.scaled_dot_product_attention(q.double(), k.double(), v.double(), enable_gqa=True, **more)


def error(found: Tensor, expected: Tensor) -> float:
    """The largest error, relative to the largest output."""
    return float((found - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize(
    ("queries", "keys", "depth", "width"),
    [(1, 1, 32, 32), (128, 128, 32, 32), (100, 77, 64, 40), (5, 2100, 64, 64), (300, 300, 80, 17)],
)
@pytest.mark.parametrize("is_causal", [False, True])
def test_close_to_float64(queries: int, keys: int, depth: int, width: int, is_causal: bool) -> None:
    q, k, v = projections(2, 3, queries, keys, depth, width)
    found = run_attention(q, k, v, depth**-0.5, is_causal=is_causal)
    assert error(found, exact(q, k, v, is_causal=is_causal)) < 1e-6
    for threads in (2, 3, 7):
        assert torch.equal(run_attention(q, k, v, depth**-0.5, is_causal=is_causal, threads=threads), found)


def test_few_heads_are_parted_by_queries() -> None:
    q, k, v = projections(1, 1, 200, 150, 16, 16)
    one = run_attention(q, k, v, 0.25)
    for threads in (2, 3):
        assert torch.equal(run_attention(q, k, v, 0.25, threads=threads), one)
    assert torch.equal(run_attention(q[:, :, 70:90], k, v, 0.25), one[:, :, 70:90])


def test_shared_heads() -> None:
    q, k, v = projections(2, 6, 20, 20, 16, 16)
    found = run_attention(q, k[:, :2], v[:, :2], 0.25, is_causal=True)
    assert error(found, exact(q, k[:, :2], v[:, :2], scale=0.25, is_causal=True)) < 1e-6


def test_masks() -> None:
    q, k, v = projections(2, 3, 30, 40, 16, 16)
    added = torch.randn(2, 1, 30, 40)
    allowed = torch.rand(2, 1, 1, 40) < 0.5
    found = run_attention(q, k, v, 0.25, added.expand(2, 3, 30, 40))
    assert error(found, exact(q, k, v, attn_mask=added.double())) < 1e-6
    found = run_attention(q, k, v, 0.25, None, allowed.expand(2, 3, 30, 40))
    assert error(found, exact(q, k, v, attn_mask=allowed)) < 1e-6


def test_a_row_that_may_see_nothing_is_zero_as_in_torch() -> None:
    q, k, v = projections(1, 2, 20, 20, 16, 16)
    mask = torch.zeros(20, 20)
    mask[3] = -torch.inf
    found = run_attention(q, k, v, 0.25, mask.expand(1, 2, 20, 20))
    assert not found[:, :, 3].any()
    assert not F.scaled_dot_product_attention(q, k, v, attn_mask=mask)[:, :, 3].any()
    assert torch.isfinite(found).all()


def test_the_lowest_float_masks_as_infinity_does() -> None:
    q, k, v = projections(1, 1, 8, 8, 16, 16)
    allowed = torch.ones(8, 8).tril().bool()
    low = torch.zeros(8, 8).masked_fill(~allowed, torch.finfo(torch.float32).min)
    found = run_attention(q, k, v, 0.25, low.expand(1, 1, 8, 8))
    assert torch.equal(found, run_attention(q, k, v, 0.25, None, allowed.expand(1, 1, 8, 8)))


def test_heads_that_cannot_be_shared_are_refused() -> None:
    q, k, v = projections(1, 3, 4, 4, 4, 4)
    with pytest.raises(ValueError, match="must divide the heads of queries"):
        run_attention(q, k[:, :2], v[:, :2], 0.5)


def test_not_finite_stays_in_its_row() -> None:
    q, k, v = projections(1, 1, 60, 20, 16, 16)
    q[0, 0, 5] = torch.nan
    found = run_attention(q, k, v, 0.25)
    assert found[0, 0, 5].isnan().all()
    assert torch.isfinite(found[0, 0, torch.arange(60) != 5]).all()
