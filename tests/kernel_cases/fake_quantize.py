"""Cases of fake quantization: every tail, values that are not finite, ties, limits, and short rows."""

import itertools

import torch
from torch import Tensor

from intaglio.ops import reference_fake_quantize as reference
from intaglio.ops.fake_quantize import (
    apply_mask,
    fake_quantize_observed,
    fake_quantize_rows,
    fake_quantize_values,
    fake_quantize_weight,
    learned_gradients,
)
from intaglio.qparams import UINT8, choose_qparams

from .gemm import hard_rows, same

COUNTS = (0, 1, 2, 7, 8, 9, 15, 16, 17, 31, 33, 63, 64, 65, 1000)
COLS = (1, 3, 7, 8, 9, 15, 16, 17, 25, 33, 64, 65, 147, 1025)
GRIDS = ((0.03, 0, 0, 255), (0.03, 128, 1, 255), (0.5, 7, -128, 127), (1e-30, 3, 0, 15), (3.4e38, 3, 0, 15))
LIMITS = ((-torch.inf, torch.inf), (0.0, torch.inf), (0.0, 6.0), (-1.0, 1.5))


def hard_values(count: int) -> Tensor:
    """Values on either side of every limit: ties, ends, NaN, infinities, tiny and huge ones."""
    special = torch.tensor([0.0, -0.0, 6.0, torch.nan, torch.inf, -torch.inf, 1e-42, 3e38, -3e38, -1.0, 1.5])
    x = torch.randn(count) * 4
    x[: count // 3] = (x[: count // 3] * 20).round() * 0.015  # ties of a scale of 0.03
    places = torch.randperm(count)[: min(count // 2, len(special))]
    x[places] = special[torch.randperm(len(special))[: len(places)]]
    return x


def bits_of(mask: Tensor, x: Tensor) -> Tensor:
    """The mask's bits in the shape of `x`, whose strides say where they belong."""
    bits = (mask[:, None] >> torch.arange(8) & 1).flatten().bool()
    assert not bits[x.numel() :].any()
    return bits[: x.numel()].as_strided(x.shape, x.stride())


def packed(inside: Tensor) -> Tensor:
    """The mask of the truths, in memory order."""
    padded = torch.zeros((inside.numel() + 7) // 8 * 8, dtype=torch.int32)
    padded[: inside.numel()] = inside.flatten()
    return (padded.view(-1, 8) << torch.arange(8)).sum(1).to(torch.uint8)


def case_fake_quantize_values(isa: str) -> None:
    for count, (scale, *grid), limits in itertools.product(COUNTS, GRIDS, LIMITS):
        x = hard_values(count)
        y, mask = fake_quantize_values(x, scale, *grid, *limits)
        zero_point, *ends = grid
        expected, inside = reference.fake_quantize(
            x, torch.tensor(scale), torch.tensor(zero_point), *ends, *limits
        )
        assert same(y, expected), (isa, count, scale, limits)
        assert torch.equal(bits_of(mask, x), inside), (isa, count, scale, limits)


def case_find_extremes(isa: str) -> None:
    for count, limits in itertools.product(COUNTS, LIMITS):
        hard = [hard_values(count), *hard_rows(count)] if count else [torch.empty(0)]
        for x in (*hard, torch.rand(count) + 1, -torch.rand(count) - 1):
            low, high = torch.tensor(torch.inf), torch.tensor(-torch.inf)
            scale, zero_point = torch.tensor(7.0), torch.tensor(9, dtype=torch.int32)
            expected = reference.moved_range(x, low, high, 0.01, *limits)
            y, mask, is_finite = fake_quantize_observed(
                x, low, high, scale, zero_point, 0.01, 0, 255, False, 0.0, *limits, quantizes=False
            )
            assert y is None
            assert mask is None
            assert torch.equal(low, expected[0]), (isa, count, limits)
            assert torch.equal(high, expected[1]), (isa, count, limits)
            assert is_finite == (not count or bool(low <= high)), (isa, count, limits)
            if low <= high:
                found = choose_qparams(low, high, UINT8)
                assert torch.equal(scale, found.scale), (isa, count, limits)
                assert torch.equal(zero_point, found.zero_point), (isa, count, limits)
            else:
                assert (scale, zero_point) == (7.0, 9), (isa, count, limits)


def case_fake_quantize_weight(isa: str) -> None:
    for cols, most in itertools.product(COLS, (1, 127, 255)):
        w = hard_rows(cols)
        rows = len(w)
        for part in (w, w[w.isfinite().all(1)]):
            rows = len(part)
            low, high, scale = torch.empty(3, rows).unbind()
            y, bad_row = fake_quantize_weight(part, low, high, scale, most)
            finite = part.isfinite().all(1)
            bad = (~finite).nonzero().flatten().tolist()
            assert bad_row == (bad[0] if bad else -1), (isa, cols)
            assert same(low[finite], part[finite].amin(1)), (isa, cols)
            assert same(high[finite], part[finite].amax(1)), (isa, cols)
            expected = reference.symmetric_scale(part.abs().amax(1), most)
            assert same(scale[finite], expected[finite]), (isa, cols, most)
            zero = torch.tensor(0)
            found, inside = reference.fake_quantize(part, expected[:, None], zero, -most, most)
            assert same(y[finite], found[finite]), (isa, cols, most)
            assert inside[finite].all(), (isa, cols, most)


def case_fake_quantize_rows(isa: str) -> None:
    for cols, rows in itertools.product((0, *COLS), (1, 3, 20)):
        w = hard_values(rows * cols).view(rows, cols)
        scale = torch.rand(rows) * 0.1 + 0.001
        scale[rows // 2] = 3.4e38
        zero_point = torch.randint(-8, 8, (rows,), dtype=torch.int32)
        y, mask = fake_quantize_rows(w, scale, zero_point, -8, 7)
        expected, inside = reference.fake_quantize(w, scale[:, None], zero_point[:, None], -8, 7)
        assert same(y, expected), (isa, cols, rows)
        assert torch.equal(bits_of(mask, w), inside), (isa, cols, rows)


def case_apply_mask(isa: str) -> None:
    for count in COUNTS:
        grad, inside = hard_values(count), torch.rand(count) < 0.5
        found = apply_mask(grad, packed(inside))
        assert same(found, torch.where(inside, grad, 0.0)), (isa, count)


def sums_in_order(terms: Tensor) -> Tensor:
    """The sum of terms in the order that the kernel promises, float64."""
    total = torch.zeros((), dtype=torch.float64)
    for block in terms.split(1024):
        lanes = torch.zeros(16)
        for step in block.split(16):
            lanes[: len(step)] += step
        subtotal = torch.zeros((), dtype=torch.float64)
        for lane in lanes.double():
            subtotal += lane
        total += subtotal
    return total


def case_learned_gradients(isa: str) -> None:
    for count, (scale, *grid), limits in itertools.product((*COUNTS, 2100), GRIDS[:3], LIMITS):
        x, grad = torch.randn(count) * 4, torch.randn(count)
        zero_point, *ends = grid
        parameters = torch.tensor(scale), torch.tensor(zero_point, dtype=torch.int32)
        expected = reference.learned_gradients(grad, x, *parameters, *ends, *limits)
        found = learned_gradients(grad, x, *parameters, *ends, *limits)
        assert torch.equal(found[0], expected[0]), (isa, count, scale, limits)
        clipped = torch.where(expected[2] != 0, grad, 0.0)
        sums = sums_in_order(expected[1]), sums_in_order(clipped) * -parameters[0].double()
        for value, ordered, terms in zip(found[1:], sums, expected[1:], strict=True):
            assert torch.equal(value, ordered.float()), (isa, count, scale, limits)
            torch.testing.assert_close(value, terms.double().sum().float(), rtol=1e-5, atol=1e-4)
