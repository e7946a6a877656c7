"""The speed that the project promises, checked against a run. Imports `results` only."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from benchmarks.results import OUR_KERNEL, OURS, CaseResult

__all__ = ["GOALS", "Goal", "Verdict"]


@dataclass(frozen=True)
class Verdict:
    """How many of the cases that a goal speaks of meet it, and which comes off worst."""

    met: int
    cases: int
    worst: float
    worst_case: str


@dataclass(frozen=True)
class Goal:
    """A promise about some cases: `figure` is at least, or with `at_most` at most, `bound`.

    Attributes:
        text: the promise, for the report.
        concerns: whether it speaks of a case.
        figure: what of a case it bounds; None where there is nothing to compare with.
    """

    text: str
    bound: float
    concerns: Callable[[CaseResult], bool]
    figure: Callable[[CaseResult], float | None]
    at_most: bool = False

    def judge(self, results: Iterable[CaseResult]) -> Verdict | None:
        """Compare; None if no case is concerned."""
        figures = [
            (figure, result.case)
            for result in results
            if self.concerns(result) and (figure := self.figure(result)) is not None
        ]
        if not figures:
            return None
        worst, case = max(figures) if self.at_most else min(figures)
        met = sum(figure <= self.bound if self.at_most else figure >= self.bound for figure, _ in figures)
        return Verdict(met, len(figures), worst, case)


def _is_arithmetic_bound(result: CaseResult) -> bool:
    return result.group == "kernels" and result.limit == "int8 peak"


def _is_bandwidth_bound(result: CaseResult) -> bool:
    return result.group == "kernels" and result.limit == "read bandwidth" and not _is_overhead(result)


def _is_overhead(result: CaseResult) -> bool:
    return result.group == "kernels" and result.case == "1 x 16 x 16"


def _least_ratio(*peers: str) -> Callable[[CaseResult], float | None]:
    """The smallest of the peers' times, over intaglio's."""

    def figure(result: CaseResult) -> float | None:
        ratios = [entry.ratio.median for name in peers if (entry := result.entries.get(name)) and entry.ratio]
        return min(ratios, default=None)

    return figure


def _share_of(name: str) -> Callable[[CaseResult], float | None]:
    """How near a contestant comes to the limit of the case."""

    def figure(result: CaseResult) -> float | None:
        entry = result.entries.get(name)
        return entry.share.median if entry and entry.share else None

    return figure


LEGACY = ("legacy fbgemm", "legacy onednn")


def _is_lite0(result: CaseResult) -> bool:
    return result.group == "vision" and result.network == "EfficientNet-Lite0"


GOALS = (
    Goal(
        "Linear's kernel, M >= 16: share of the int8 peak", 0.90, _is_arithmetic_bound, _share_of(OUR_KERNEL)
    ),
    Goal("the same, with the Python around it", 0.90, _is_arithmetic_bound, _share_of(OURS)),
    Goal(
        "Linear's kernel, M = 1: share of the read bandwidth",
        0.80,
        _is_bandwidth_bound,
        _share_of(OUR_KERNEL),
    ),
    Goal("the same, with the Python around it", 0.80, _is_bandwidth_bound, _share_of(OURS)),
    Goal(
        "Linear: the best of legacy and ONNX Runtime / intaglio",
        1.0,
        lambda result: result.group == "kernels",
        _least_ratio(*LEGACY, "ONNX Runtime"),
    ),
    Goal(
        "Linear of 16 x 16, one row: Python, dispatch and all, microseconds",
        3.0,
        _is_overhead,
        lambda result: result.ours.median * 1e6,
        at_most=True,
    ),
    Goal(
        "MiniLM: the best of legacy and ONNX Runtime / intaglio",
        1.0,
        lambda result: result.group == "minilm",
        _least_ratio(*LEGACY, "ONNX Runtime"),
    ),
    Goal(
        "LSTM, batch 1: ONNX Runtime / intaglio",
        1 / 0.6,
        lambda result: result.group == "lstm" and result.case.startswith("1x"),
        _least_ratio("ONNX Runtime"),
    ),
    Goal(
        "LSTM, batch 16: ONNX Runtime / intaglio",
        1 / 0.8,
        lambda result: result.group == "lstm" and result.case.startswith("16x"),
        _least_ratio("ONNX Runtime"),
    ),
    Goal(
        "Convolutional networks: the best of legacy / intaglio",
        1.0,
        lambda result: result.group == "vision",
        _least_ratio(*LEGACY),
    ),
    Goal("EfficientNet-Lite0: torch float32 / intaglio", 5.0, _is_lite0, _least_ratio("torch float32")),
)
