"""The speed that the project promises, checked against a run. Imports `results` only."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from benchmarks.results import OUR_DIRECT_FORM, OUR_KERNEL, OURS, CaseResult

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


def _is_dense(result: CaseResult, kernel: int, fewest_inputs: int) -> bool:
    """Whether a case is a convolution of so many taps, and at least so many inputs, that is not depthwise."""
    if result.group != "convolutions" or "depthwise" in result.case:
        return False
    _, _, inputs, _, width, *_ = map(int, re.findall(r"\d+", result.case))
    return width == kernel and inputs >= fewest_inputs


def _runs_winograd(result: CaseResult) -> bool:
    """Whether intaglio chooses Winograd's form: 3 x 3, stride 1, tiles that an image fills well."""
    size = int(result.case.partition("x")[0]) if result.group == "convolutions" else 0
    return size >= 14 and _is_dense(result, 3, 64) and result.case.endswith("/ 1")


def _gain_of_winograd(result: CaseResult) -> float | None:
    entries = [result.entries.get(name) for name in (OUR_DIRECT_FORM, OUR_KERNEL)]
    direct, chosen = (entry.ratio.median if entry and entry.ratio else None for entry in entries)
    return direct / chosen if direct and chosen else None


LEGACY = ("legacy fbgemm", "legacy onednn")
PEERS = (*LEGACY, "ONNX Runtime", "OpenVINO static", "OpenVINO dynamic", "torchao compiled")


def _is_model(result: CaseResult) -> bool:
    return result.group in ("minilm", "lstm", "vision")


def _is_bound_by_products(result: CaseResult) -> bool:
    return result.network.startswith(("ResNet", "BERT"))


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
        "3x3 convolutions of 64 inputs or more, direct form: share of the int8 peak",
        0.92,
        lambda result: _is_dense(result, 3, 64),
        _share_of(OUR_DIRECT_FORM),
    ),
    Goal(
        "Winograd's form where it is chosen: direct form / Winograd", 1.3, _runs_winograd, _gain_of_winograd
    ),
    Goal(
        "1x1 convolutions of 96 inputs or more: share of the int8 peak",
        0.80,
        lambda result: _is_dense(result, 1, 96),
        _share_of(OUR_KERNEL),
    ),
    Goal(
        "convolutions: the best of legacy / intaglio",
        1.0,
        lambda result: result.group == "convolutions",
        _least_ratio(*LEGACY),
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
    Goal("Programs: the best of all peers / intaglio", 1.1, _is_model, _least_ratio(*PEERS)),
    Goal(
        "ResNets and BERT-base: the better of torch's and OpenVINO's float32 / intaglio",
        4.0,
        _is_bound_by_products,
        _least_ratio("torch float32", "OpenVINO float32"),
    ),
    Goal("EfficientNet-Lite0: torch float32 / intaglio", 5.0, _is_lite0, _least_ratio("torch float32")),
)
