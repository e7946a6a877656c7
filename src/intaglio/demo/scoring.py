"""The figures of merit, as pure functions of tensors: retrieval, correlation, verification, fidelity.

Float64 inside, so that a figure's last digit is the data's and not the arithmetic's.
Imports: torch. Neighbours: `text_tasks` and `voice_tasks` say what is scored.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = [
    "area_under_curve",
    "equal_error_rate",
    "mean_reciprocal_rank",
    "pearson",
    "row_cosines",
    "spearman",
    "sqnr_db",
    "top1_accuracy",
]


def top1_accuracy(scores: Tensor, answers: Tensor) -> float:
    """Share of rows of `(Q, P)` scores whose greatest stands at the answer, `(Q,) int64`.

    >>> top1_accuracy(torch.tensor([[0.1, 0.9], [0.8, 0.2]]), torch.tensor([1, 1]))
    0.5
    """
    return float((scores.argmax(1) == answers).double().mean())


def mean_reciprocal_rank(scores: Tensor, answers: Tensor) -> float:
    """Mean of 1 / (rank of the answer) over the rows of `(Q, P)` scores; ties rank the answer first.

    >>> mean_reciprocal_rank(torch.tensor([[0.1, 0.9], [0.8, 0.2]]), torch.tensor([1, 1]))
    0.75
    """
    ranks = 1 + (scores > scores.gather(1, answers[:, None])).sum(1)
    return float((1.0 / ranks.double()).mean())


def pearson(first: Tensor, second: Tensor) -> float:
    """Pearson's correlation of two `(n,)` samples.

    >>> round(pearson(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([2.0, 4.0, 7.0])), 4)
    0.9934
    """
    first, second = (sample.double() - sample.double().mean() for sample in (first, second))
    return float(first @ second / (first.norm() * second.norm()))


def spearman(first: Tensor, second: Tensor) -> float:
    """Spearman's rank correlation of two `(n,)` samples; equal values share their mean rank.

    >>> round(spearman(torch.tensor([1.0, 5.0, 9.0]), torch.tensor([0.1, 0.2, 0.9])), 6)
    1.0
    """
    return pearson(_mean_ranks(first), _mean_ranks(second))


def _mean_ranks(sample: Tensor) -> Tensor:
    """Twice the mean rank, from 1, of each value: whole numbers, and correlation is blind to the factor."""
    ordered = sample.sort().values
    below = torch.searchsorted(ordered, sample)
    return below + torch.searchsorted(ordered, sample, right=True) + 1


def equal_error_rate(genuine: Tensor, impostor: Tensor) -> float:
    """The error rate of a verifier at the threshold where it refuses and admits wrongly alike.

    `genuine` and `impostor` are the scores of pairs of the same and of different speakers. At the threshold
    where the two error rates are nearest, their mean is returned.

    >>> round(equal_error_rate(torch.tensor([0.9, 0.8, 0.3]), torch.tensor([0.1, 0.2, 0.5])), 4)
    0.3333
    """
    genuine, impostor = genuine.double().sort().values, impostor.double().sort().values
    thresholds = torch.cat((genuine, impostor, torch.tensor([torch.inf]))).sort().values
    refused = torch.searchsorted(genuine, thresholds).double() / len(genuine)
    admitted = 1.0 - torch.searchsorted(impostor, thresholds).double() / len(impostor)
    nearest = (refused - admitted).abs().argmin()
    return float((refused + admitted)[nearest] / 2)


def area_under_curve(genuine: Tensor, impostor: Tensor) -> float:
    """Area under the ROC curve: how often a genuine score is above an impostor's; equal ones count half.

    >>> area_under_curve(torch.tensor([0.9, 0.8, 0.3]), torch.tensor([0.1, 0.3]))
    0.9166666666666666
    """
    ordered = impostor.sort().values
    below = torch.searchsorted(ordered, genuine)
    not_above = torch.searchsorted(ordered, genuine, right=True)
    return float((below + not_above).double().mean() / (2 * len(ordered)))


def sqnr_db(reference: Tensor, other: Tensor) -> float:
    """Signal to quantization noise ratio in dB: `10 log10(|reference|^2 / |reference - other|^2)`.

    >>> round(sqnr_db(torch.ones(100), torch.full((100,), 1.1)), 3)
    20.0
    """
    noise = (reference.double() - other.double()).square().sum()
    return float(10.0 * torch.log10(reference.double().square().sum() / noise))


def row_cosines(first: Tensor, second: Tensor) -> Tensor:
    """Cosine of each row of `(n, d)` with its counterpart: `(n,) float64`."""
    return torch.cosine_similarity(first.double(), second.double(), dim=1)
