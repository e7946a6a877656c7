"""The figures of merit on numbers worked by hand, and their invariances."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from intaglio.demo.scoring import (
    area_under_curve,
    equal_error_rate,
    mean_reciprocal_rank,
    pearson,
    row_cosines,
    spearman,
    sqnr_db,
    top1_accuracy,
)

samples = st.lists(st.integers(-50, 50), min_size=3, max_size=30).filter(lambda s: len(set(s)) > 1)


def test_retrieval() -> None:
    scores = torch.tensor([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0], [3.0, 2.0, 1.0], [1.0, 2.0, 3.0]])
    answers = torch.tensor([0, 1, 2, 2])
    assert top1_accuracy(scores, answers) == 0.5
    assert mean_reciprocal_rank(scores, answers) == pytest.approx((1 + 1 / 2 + 1 / 3 + 1) / 4)


def test_pearson_and_spearman() -> None:
    first, second = torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([1.0, 3.0, 2.0, 9.0])
    assert pearson(first, second) == pytest.approx(11.5 / (5.0**0.5 * 38.75**0.5))
    assert spearman(first, second) == pytest.approx(0.8)


def test_ties_share_their_mean_rank() -> None:
    # Ranks 1, 2.5, 2.5, 4 against 1, 2, 3, 4.
    value = spearman(torch.tensor([0.0, 7.0, 7.0, 9.0]), torch.tensor([1.0, 2.0, 3.0, 4.0]))
    assert value == pytest.approx(4.5 / (4.5 * 5.0) ** 0.5)


@given(samples)
def test_spearman_sees_order_alone(values: list[int]) -> None:
    sample = torch.tensor(values).double()
    assert spearman(sample, sample.exp()) == pytest.approx(1.0)
    assert spearman(sample, -sample) == pytest.approx(-1.0)


@given(samples, samples)
def test_equal_error_rate_sees_order_alone(genuine: list[int], impostor: list[int]) -> None:
    first, second = (torch.tensor(scores).double() for scores in (genuine, impostor))
    rate = equal_error_rate(first, second)
    assert 0.0 <= rate <= 1.0
    assert rate == equal_error_rate(first**3 - 7, second**3 - 7)


def test_equal_error_rate_of_the_separable_and_the_hopeless() -> None:
    low, high = torch.linspace(0, 1, 100), torch.linspace(2, 3, 100)
    assert equal_error_rate(high, low) == 0.0
    assert equal_error_rate(low, low) == pytest.approx(0.5, abs=0.01)
    assert equal_error_rate(low, high) == 1.0


def test_fidelity() -> None:
    reference = torch.tensor([[3.0, 4.0], [0.0, 2.0]])
    other = torch.tensor([[3.0, 4.1], [0.0, 1.8]])
    assert sqnr_db(reference, other) == pytest.approx(
        10 * torch.log10(torch.tensor(29 / 0.05)).item(), rel=1e-4
    )
    assert row_cosines(reference, other).tolist() == pytest.approx([25.4 / (5 * 5.0803543), 1.0], abs=1e-6)
    assert sqnr_db(reference, reference) == float("inf")


def test_area_under_the_curve_counts_pairs() -> None:
    genuine, impostor = torch.randint(0, 9, (40,)).float(), torch.randint(0, 7, (25,)).float()
    above = (genuine[:, None] > impostor).double() + 0.5 * (genuine[:, None] == impostor).double()
    assert area_under_curve(genuine, impostor) == pytest.approx(float(above.mean()))
    assert area_under_curve(genuine + 10, impostor) == 1.0
    assert area_under_curve(genuine - 10, impostor) == 0.0
