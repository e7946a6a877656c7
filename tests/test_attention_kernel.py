"""Attention in words of 16 bits: the same bits with any threads, near float64, torch's rules for masks."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from .kernel_cases.attention import projections, run_attention


def exact(q: Tensor, k: Tensor, v: Tensor, **more: object) -> Tensor:
    """torch's attention in float64."""
    return F.scaled_dot_product_attention(q.double(), k.double(), v.double(), enable_gqa=True, **more)


def sqnr(found: Tensor, expected: Tensor) -> float:
    """Signal to noise, in dB; rounding rows to 8 bits leaves about 45."""
    return float(10 * torch.log10(expected.square().sum() / (found - expected).square().sum()))


@pytest.mark.parametrize(
    ("queries", "keys", "depth", "width"),
    [(1, 1, 32, 32), (128, 128, 32, 32), (100, 77, 64, 40), (5, 2100, 64, 64), (300, 300, 80, 17)],
)
@pytest.mark.parametrize("is_causal", [False, True])
def test_close_to_float64(queries: int, keys: int, depth: int, width: int, is_causal: bool) -> None:
    q, k, v = projections(2, 3, queries, keys, depth, width)
    found = run_attention(q, k, v, depth**-0.5, is_causal=is_causal)
    assert sqnr(found, exact(q, k, v, is_causal=is_causal)) > 57
    for threads in (2, 3, 7):
        assert torch.equal(run_attention(q, k, v, depth**-0.5, is_causal=is_causal, threads=threads), found)


@pytest.mark.parametrize("size", [1e-25, 1e-3, 1e15])
def test_any_size_of_values(size: float) -> None:
    q, k, v = projections(1, 2, 40, 60, 32, 32)
    q, k, v = q.contiguous() / size, k.contiguous() * size, v.contiguous() * size
    found = run_attention(q, k, v, 32**-0.5)
    assert sqnr(found / size, exact(q, k, v) / size) > 57


def test_a_key_that_outweighs_all_others() -> None:
    q, k, v = projections(1, 1, 50, 400, 64, 64)
    k[:, :, 0] = 3 * q.mean(2)
    q = q + 2 * k[:, :, :1]
    v[:, :, 0] = 0
    assert sqnr(run_attention(q, k, v, 0.125), exact(q, k, v)) > 50


def test_more_keys_than_one_int32_sums() -> None:
    q, k, v = projections(1, 1, 2, 150_000, 4, 4)
    q, v = q * 0.01, v + 1
    assert sqnr(run_attention(q, k, v, 0.5), exact(q, k, v)) > 57


def test_few_heads_are_parted_by_queries() -> None:
    q, k, v = projections(1, 1, 200, 150, 16, 16)
    one = run_attention(q, k, v, 0.25)
    for threads in (2, 3):
        assert torch.equal(run_attention(q, k, v, 0.25, threads=threads), one)
    assert torch.equal(run_attention(q[:, :, 70:90], k, v, 0.25), one[:, :, 70:90])


def test_shared_heads() -> None:
    q, k, v = projections(2, 6, 20, 20, 16, 16)
    found = run_attention(q, k[:, :2], v[:, :2], 0.25, is_causal=True)
    assert sqnr(found, exact(q, k[:, :2], v[:, :2], scale=0.25, is_causal=True)) > 57


def test_masks() -> None:
    q, k, v = projections(2, 3, 30, 40, 16, 16)
    added = torch.randn(2, 1, 30, 40)
    allowed = torch.rand(2, 1, 1, 40) < 0.5
    found = run_attention(q, k, v, 0.25, added.expand(2, 3, 30, 40))
    assert sqnr(found, exact(q, k, v, attn_mask=added.double())) > 57
    found = run_attention(q, k, v, 0.25, None, allowed.expand(2, 3, 30, 40))
    assert sqnr(found, exact(q, k, v, attn_mask=allowed)) > 57


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
