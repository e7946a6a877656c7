"""Fake quantization of training: layouts, threads, ranges that move, sums in one order, what is refused."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from intaglio import InputError, _core
from intaglio.ops import reference_fake_quantize as reference
from intaglio.ops.fake_quantize import (
    apply_mask,
    fake_quantize_observed,
    fake_quantize_rows,
    fake_quantize_values,
    fake_quantize_weight,
    learned_gradients,
)
from intaglio.qparams import INT8, UINT8, choose_qparams

from .kernel_cases.fake_quantize import LIMITS, bits_of, hard_values
from .kernel_cases.gemm import same

ISAS = _core.available_isas()
MANY = 40_003
"""Values that are shared out among threads, and no multiple of anything."""


def layouts() -> list[Tensor]:
    """Dense tensors in several orders of axes."""
    x = hard_values(2 * 3 * 5 * 7)
    image = x.view(2, 3, 5, 7)
    return [
        x,
        image,
        image.contiguous(memory_format=torch.channels_last),
        image.permute(3, 1, 0, 2),
        image[:1].transpose(1, 3),
        image.view(6, 35).t(),
        x[0],
        x[:0].view(0, 3),
    ]


def unseen() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """An observer's range and parameters before it saw anything."""
    low, high = torch.tensor(torch.inf), torch.tensor(-torch.inf)
    return low, high, torch.tensor([1.0]), torch.tensor([0], dtype=torch.int32)


# ---- Values --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("x", layouts(), ids=lambda x: f"{tuple(x.shape)}-{x.stride()}")
def test_any_order_of_axes_keeps_its_strides(x: Tensor) -> None:
    for low, high in LIMITS:
        y, mask = fake_quantize_values(x, 0.03, 7, 0, 255, low, high)
        expected, inside = reference.fake_quantize(x, torch.tensor(0.03), torch.tensor(7), 0, 255, low, high)
        assert y.stride() == x.stride()
        assert same(y, expected)
        assert torch.equal(bits_of(mask, x), inside)
        grad = torch.randn(x.shape)  # contiguous: copied where x is not
        grad_x = apply_mask(grad, mask, x.stride())
        assert grad_x.stride() == x.stride()
        assert torch.equal(grad_x, torch.where(inside, grad, 0.0))
        assert torch.equal(apply_mask(torch.ones(()).expand(x.shape), mask, x.stride()), inside.float())


def test_every_scale_has_its_gradients_and_values() -> None:
    x = torch.cat([hard_values(500), torch.randn(100) * 1e38, torch.randn(100) * 1e-38])
    scales = (0.0, 1e-45, 2.0**-126, 1e-30, 1.0, 1e30, 3.4e38, torch.inf, torch.nan)
    for scale, (low, high) in itertools.product(scales, (*LIMITS, (2.0, 1.0), (300.0, 400.0), (-9.0, -8.0))):
        for zero_point, least, most in ((0, 0, 255), (3, 0, 15), (-5, -128, 127), (200, 0, 100)):
            parameters = torch.tensor(scale), torch.tensor(zero_point)
            y, mask = fake_quantize_values(x, scale, zero_point, least, most, low, high)
            expected, inside = reference.fake_quantize(x, *parameters, least, most, low, high)
            assert same(y, expected), (scale, low, high, zero_point)
            assert torch.equal(bits_of(mask, x), inside), (scale, low, high, zero_point)


@pytest.mark.parametrize("isa", ISAS)
def test_threads_do_not_change_bits(isa: str) -> None:
    _core.force_isa(isa)
    x, grad = hard_values(MANY), torch.randn(MANY)
    finite = torch.randn(MANY)
    w = torch.randn(4445, 9)
    scale, zero_point = torch.rand(4445) * 0.1 + 0.01, torch.randint(-5, 5, (4445,), dtype=torch.int32)
    runs: list[Callable[[], tuple[object, ...]]] = [
        lambda: fake_quantize_values(x, 0.03, 7, 0, 255, 0.0, 6.0),
        lambda: (*(state := unseen()), *fake_quantize_observed(finite, *state, 0.1, 0, 255)),
        lambda: (*(state := unseen()), *fake_quantize_observed(x, *state, 0.1, 0, 255)),
        lambda: (*(rest := torch.empty(3, 4445).unbind()), *fake_quantize_weight(w, *rest, 127)),
        lambda: fake_quantize_rows(w, scale, zero_point, -8, 7),
        lambda: (apply_mask(grad, fake_quantize_values(x, 0.03, 7, 0, 255)[1]),),
        lambda: learned_gradients(grad, finite, scale[:1], zero_point[:1], -8, 7),
        lambda: learned_gradients(w, w, scale, zero_point, -8, 7, rows=True),
    ]
    for i, run in enumerate(runs):
        torch.set_num_threads(1)
        expected = run()
        for threads in (2, 5):
            torch.set_num_threads(threads)
            for a, b in zip(run(), expected, strict=True):
                alike = same(a, b) if isinstance(a, Tensor) and isinstance(b, Tensor) else a == b
                assert alike, (isa, threads, i)


# ---- Ranges that move ----------------------------------------------------------------------------------


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("limits", LIMITS, ids=str)
def test_a_range_moves_as_the_reference_says(limits: tuple[float, float], symmetric: bool) -> None:
    for (dtype, narrow), eps in itertools.product(
        ((UINT8, (0, 255)), (INT8, (-128, 127)), (INT8, (-127, 127)), (UINT8, (0, 127))), (0.0, 2.0**-10)
    ):
        state = unseen()
        low, high = state[0].clone(), state[1].clone()
        for i in range(12):
            x = torch.randn(97) * 10.0 ** (i % 5 - 3) + (i % 3 - 1)
            x[i] = (0.0, torch.nan, torch.inf, -torch.inf, 3e38)[i % 5] if i % 2 else 0.0
            x = x[:0] if i == 5 else x
            low, high = reference.moved_range(x, low, high, 0.01, *limits)
            y, mask, is_finite = fake_quantize_observed(x, *state, 0.01, *narrow, symmetric, eps, *limits)
            assert (y is None, mask is None) == (False, False)
            held = torch.clamp(x, *limits)
            assert is_finite == (not len(x) or bool(torch.isfinite(held.max() - held.min())))
            assert torch.equal(state[0], low)
            assert torch.equal(state[1], high)
            if low > high:
                assert (state[2], state[3]) == (1.0, 0)
                continue
            chosen = choose_qparams(
                low,
                high,
                dtype,
                symmetric=symmetric,
                quant_min=narrow[0],
                quant_max=narrow[1],
                smallest_scale=eps,
            )
            assert torch.equal(state[2], chosen.scale.view(1))
            assert torch.equal(state[3], chosen.zero_point.view(1))
            expected, inside = reference.fake_quantize(
                x, chosen.scale, chosen.zero_point, *chosen.limits(), *limits
            )
            assert y is not None
            assert mask is not None
            assert same(y, expected)
            assert torch.equal(bits_of(mask, x), inside)


def test_an_observer_may_only_watch() -> None:
    state = unseen()
    assert fake_quantize_observed(torch.tensor([2.0, -1.0]), *state, 0.01, 0, 255, quantizes=False) == (
        None,
        None,
        True,
    )
    assert [float(value) for value in state[:2]] == [-1.0, 2.0]
    before = [value.clone() for value in state]
    wide = torch.tensor([-3e38, 3e38])  # finite values of an infinite range
    assert not fake_quantize_observed(wide, *state, 0.01, 0, 255)[2]
    assert all(map(torch.equal, state, before))


# ---- Weights -------------------------------------------------------------------------------------------


def test_weights_of_any_shape_and_the_first_bad_row() -> None:
    for shape in ((32, 1, 3, 3), (16, 16, 1, 1), (40, 64), (3, 9000), (5, 0), (0, 4), (7,)):
        w = torch.randn(shape)
        rows, flat = shape[0], w.flatten(1) if w.dim() > 1 else w[:, None]
        low, high, scale = torch.empty(3, rows).unbind()
        y, bad_row = fake_quantize_weight(w, low, high, scale, 127)
        assert (y.shape, bad_row) == (w.shape, -1)
        if w.numel():
            assert torch.equal(scale, reference.symmetric_scale(flat.abs().amax(1), 127))
            expected, _ = reference.fake_quantize(flat, scale[:, None], torch.tensor(0), -127, 127)
            assert torch.equal(y, expected.view(shape))
    torch.set_num_threads(2)
    for value, row in itertools.product((torch.nan, torch.inf, -torch.inf), (0, 15, 16, 1999)):
        w = torch.randn(2000, 25)
        w[row:, 7] = value
        assert fake_quantize_weight(w, *torch.empty(3, 2000).unbind(), 127)[1] == row


# ---- Learned parameters --------------------------------------------------------------------------------


@pytest.mark.parametrize("isa", ISAS)
def test_sums_are_the_same_bits_everywhere_and_right(isa: str) -> None:
    count = MANY if isa == ISAS[-1] else 5000
    x, grad = torch.randn(count) * 4, torch.randn(count)
    scale, zero_point = torch.tensor(0.1), torch.tensor(3.0)
    _core.force_isa(ISAS[-1])
    expected = learned_gradients(grad, x, scale, zero_point, -8, 7, 0.0, 3.0)
    _core.force_isa(isa)
    found = learned_gradients(grad, x, scale, zero_point, -8, 7, 0.0, 3.0)
    terms = reference.learned_gradients(grad, x, scale, zero_point, -8, 7, 0.0, 3.0)
    assert torch.equal(found[0], terms[0])
    for a, b, term in zip(found[1:], expected[1:], terms[1:], strict=True):
        assert torch.equal(a, b)
        assert a.shape == scale.shape
        assert abs(float(a) - float(term.double().sum())) <= 1e-6 * float(term.abs().double().sum())


@pytest.mark.parametrize("isa", ISAS)
def test_rows_have_sums_of_their_own(isa: str) -> None:
    _core.force_isa(isa)
    for rows, cols in ((20, 9), (3, 64), (2, 5000), (1, 20_000), (4, 0), (0, 4)):
        w, grad = torch.randn(rows, cols), torch.randn(rows, cols)
        scale, zero_point = torch.rand(rows) * 0.1 + 0.01, torch.randint(-3, 3, (rows,)).int()
        found = learned_gradients(grad, w, scale, zero_point, -8, 7, rows=True)
        terms = reference.learned_gradients(grad, w, scale[:, None], zero_point[:, None], -8, 7)
        assert torch.equal(found[0], terms[0])
        for a, term in zip(found[1:], terms[1:], strict=True):
            bound = 1e-6 * term.abs().double().sum(1)
            assert bool(((a.double() - term.double().sum(1)).abs() <= bound).all()), (rows, cols)


def test_a_gradient_in_another_order_is_copied() -> None:
    x = torch.randn(2, 3, 4, 5).contiguous(memory_format=torch.channels_last)
    grad, scale, zero_point = torch.randn(2, 3, 4, 5), torch.tensor(0.1), torch.tensor(0, dtype=torch.int32)
    found = learned_gradients(grad, x, scale, zero_point, -8, 7)
    assert found[0].stride() == x.stride()
    assert torch.equal(found[0], reference.learned_gradients(grad, x, scale, zero_point, -8, 7)[0])


# ---- What is refused -----------------------------------------------------------------------------------


def test_what_the_kernels_cannot_take_is_refused() -> None:
    x, one, zero = torch.randn(4, 6), torch.ones(1), torch.zeros(1, dtype=torch.int32)
    rows = torch.empty(3, 4).unbind()
    for wrong, message in ((x.double(), r"float32 tensor on the CPU, not one of torch\.float64"),):
        with pytest.raises(InputError, match=message):
            fake_quantize_values(wrong, 0.1, 0, 0, 255)
        with pytest.raises(InputError, match=message):
            fake_quantize_weight(wrong, *rows, 127)
    for wrong in (x[:, ::2], x[:1].expand(4, 6)):
        with pytest.raises(InputError, match=r"without gaps or overlaps.*pass x\.contiguous\(\)"):
            fake_quantize_values(wrong, 0.1, 0, 0, 255)
        for quantizes in (False, True):
            with pytest.raises(InputError, match="without gaps or overlaps"):
                fake_quantize_observed(wrong, *unseen(), 0.1, 0, 255, quantizes=quantizes)
    low, high, scale, _ = unseen()
    with pytest.raises(InputError, match=r"takes zero_point as contiguous torch\.int32 on the CPU with 1 "):
        fake_quantize_observed(x, low, high, scale, one, 0.1, 0, 255)
    with pytest.raises(
        InputError, match=r"takes min_val as .* with 1 values, not torch\.float32 of shape \(4"
    ):
        fake_quantize_observed(x, rows[0], high, scale, zero, 0.1, 0, 255)
    with pytest.raises(InputError, match="a contiguous tensor with rows along axis 0"):
        fake_quantize_weight(x.t(), *rows, 127)
    with pytest.raises(InputError, match="a most of 1 to 255, not 256"):
        fake_quantize_weight(x, *rows, 256)
    with pytest.raises(InputError, match=r"takes scale as contiguous .* with 4 values"):
        fake_quantize_rows(x, one, zero, 0, 255)
    with pytest.raises(InputError, match="a contiguous uint8 mask of 3 bytes for 24 values"):
        apply_mask(x, torch.zeros(4, dtype=torch.uint8))
    with pytest.raises(InputError, match="a float32 gradient on the CPU with 2 axes"):
        apply_mask(x.double(), torch.zeros(3, dtype=torch.uint8), (1, 4))
    with pytest.raises(InputError, match=r"gradient on the CPU of shape \(4, 6\)"):
        learned_gradients(x.t(), x, one, zero, 0, 255)
    with pytest.raises(InputError, match=r"takes scale as contiguous .* with 1 values"):
        learned_gradients(x, x, rows[0], zero, 0, 255)
