"""RESULTS.md: a run as tables for people. Imports `results` and `goals`; measures nothing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import geometric_mean

from benchmarks.coverage.table import render_coverage
from benchmarks.goals import GOALS
from benchmarks.results import OUR_DIRECT_FORM, OUR_KERNEL, OURS, CaseResult, Entry, Run
from benchmarks.timing import QUIET, Spread
from benchmarks.training.table import render_training

__all__ = ["render_markdown"]

TITLES = {
    "minilm": "MiniLM-L6, a sentence encoder, and BERT-base",
    "lstm": "LSTM, a voice encoder",
    "vision": "Convolutional networks",
}

METHOD = """\
Written by `make bench`; the figures behind it, with quartiles, are in `results.json`.

Each group of workloads runs in one process for each number of threads. In it all contestants take turns,
round after round in a shuffled order, and so do the loops that measure the limits of the CPU. A **ratio** is
the median over the rounds of the contestant's time divided by intaglio's in the same round: above 1, intaglio
is faster; **bold**, it is not. **Times** are medians with quartiles; the time in a round is that of the
fastest of three slices. **dB** is the signal to quantization noise ratio of the output against float32
PyTorch, on these very inputs: a contestant that is fast because it computes something else shows there.\
"""


def render_markdown(run: Run) -> str:
    """The whole report."""
    parts = ["# Benchmarks", METHOD, _render_environment(run)]
    if run.results:
        parts += ["## Goals", _render_goals(run.results)]
    for group, title in TITLES.items():
        results = [result for result in run.results if result.group == group]
        if results:
            parts += [f"## {title}", *_render_network(results)]
    kernels = [result for result in run.results if result.group == "kernels"]
    if kernels:
        parts += ["## One Linear", *_render_kernels(kernels)]
    convolutions = [result for result in run.results if result.group == "convolutions"]
    if convolutions:
        parts += ["## One convolution", *_render_convolutions(convolutions)]
    if run.coverage:
        parts += ["## Coverage", *render_coverage(run.coverage)]
    if run.training:
        parts += ["## Training", *render_training(run.training)]
    parts += ["## Contestants", _render_configurations(run.configurations)]
    return "\n\n".join(parts) + "\n"


def _render_environment(run: Run) -> str:
    facts = run.environment
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    caches = ", ".join(f"{level} {size}" for level, size in facts["caches"].items())
    return (
        f"{facts['date']}; {facts['cpu']}, {facts['cpus']} CPUs, {caches}; instruction set {facts['isa']}; "
        f"{facts['system']}; {versions}. Load before the run {facts['load_before']}. {_describe_quiet(run)}"
    ).rstrip()


def _describe_quiet(run: Run) -> str:
    if not run.results:
        return ""
    noisy = sum(result.disturbance > QUIET for result in run.results)
    return (
        f"Cases during which other processes took more than {QUIET:.0%} of the CPUs: "
        f"{noisy} of {len(run.results)}, marked *."
    )


def _render_goals(results: Sequence[CaseResult]) -> str:
    threads = sorted({result.threads for result in results})
    rows = []
    for goal in GOALS:
        cells = []
        for count in threads:
            verdict = goal.judge(result for result in results if result.threads == count)
            if verdict is None:
                cells.append("-")
                continue
            text = f"{verdict.met} of {verdict.cases}, worst {verdict.worst:.2f} ({verdict.worst_case})"
            cells.append(text if verdict.met == verdict.cases else f"**{text}**")
        sign = "<=" if goal.at_most else ">="
        rows.append([goal.text, f"{sign} {goal.bound:.2f}", *cells])
    heading = ["goal", "bound", *(_name_threads(count) for count in threads)]
    return _table(heading, rows)


def _render_network(results: Sequence[CaseResult]) -> list[str]:
    """A table for each case: contestants down, thread counts across."""
    parts = []
    for case in dict.fromkeys(result.case for result in results):
        of_case = sorted(
            (result for result in results if result.case == case), key=lambda result: result.threads
        )
        heading = ["", "dB"]
        for result in of_case:
            heading += [f"{_name_threads(result.threads)}, ms{_mark(result)}", "ratio"]
        rows = []
        for name, first in of_case[0].entries.items():
            row = [_name_entry(name, first), _format_sqnr(first)]
            for result in of_case:
                row += _format_entry(result.entries[name], is_ours=name == OURS)
            rows.append(row)
        shares = ", ".join(
            f"{_format_share(result.entries[OURS], '.0%')} at {_name_threads(result.threads)}"
            for result in of_case
        )
        share = f"intaglio's int8 operations over its whole time, as a share of the int8 peak: {shares}."
        parts += [f"### {case}", _table(heading, rows), share]
    return parts


def _render_kernels(results: Sequence[CaseResult]) -> list[str]:
    """A table for each number of threads: shapes down, contestants across."""
    parts = [
        "M x K x N, float32 in and out, activations quantized on the way. The limit is reading the weights "
        "for M = 1 (the rate at which as many bytes are read again and again, so from the cache that holds "
        "them), and the int8 dot-product instruction otherwise."
    ]
    for threads in sorted({result.threads for result in results}):
        of_count = sorted((result for result in results if result.threads == threads), key=_shape)
        peers = [name for name in of_count[0].entries if name not in (OURS, OUR_KERNEL)]
        quantized = [OURS, *(name for name in peers if of_count[0].entries[name].sqnr is not None)]
        rows = [_render_shape(result, peers, quantized) for result in of_count]
        rows.append(["geometric mean", "", "", "", "", *(_mean_ratio(of_count, name) for name in peers), ""])
        heading = [
            "M x K x N",
            "intaglio, us",
            "GOP/s",
            "of the limit",
            "kernel alone",
            *peers,
            "dB: " + ", ".join(quantized),
        ]
        parts += [f"### {_name_threads(threads)}", _table(heading, rows)]
    return parts


def _render_shape(result: CaseResult, peers: Iterable[str], quantized: Iterable[str]) -> list[str]:
    return [
        result.case + _mark(result),
        _format_spread(result.ours, 1e6),
        f"{result.operations / result.ours.median / 1e9:.0f}",
        _format_share(result.entries[OURS]),
        _format_share(result.entries[OUR_KERNEL]),
        *(_format_ratio(result.entries[name], with_quartiles=False) for name in peers),
        ", ".join(_format_sqnr(result.entries[name]) for name in quantized),
    ]


def _render_convolutions(results: Sequence[CaseResult]) -> list[str]:
    """A table for each number of threads: layers down, contestants across."""
    parts = [
        "The layers of ResNet-18 and MobileNetV2 that differ, one image, uint8 in and out, one scale each. "
        "Shares are of the int8 dot-product instruction, counting the multiplications of the direct form: "
        "Winograd's form needs a quarter of them, at half the rate."
    ]
    for threads in sorted({result.threads for result in results}):
        of_count = [result for result in results if result.threads == threads]
        ours = (OURS, OUR_KERNEL, OUR_DIRECT_FORM)
        peers = [name for name in of_count[0].entries if name not in ours]
        rows = [
            [
                result.case + _mark(result),
                _format_spread(result.ours, 1e6),
                f"{result.operations / result.ours.median / 1e9:.0f}",
                *(_format_share(result.entries[name]) for name in ours),
                *(_format_ratio(result.entries[name], with_quartiles=False) for name in peers),
                _format_sqnr(result.entries[OURS]),
            ]
            for result in of_count
        ]
        means = (_mean_ratio(of_count, name) for name in peers)
        rows.append(["geometric mean", "", "", "", "", "", *means, ""])
        heading = [
            "layer",
            "intaglio, us",
            "GOP/s",
            "of the peak",
            "kernel alone",
            "direct form",
            *peers,
            "dB",
        ]
        parts += [f"### {_name_threads(threads)}", _table(heading, rows)]
    return parts


def _mean_ratio(results: Iterable[CaseResult], name: str) -> str:
    ratios = [ratio.median for result in results if (ratio := result.entries[name].ratio)]
    return f"{geometric_mean(ratios):.2f}" if ratios else "-"


def _render_configurations(configurations: dict[str, str]) -> str:
    return "\n".join(f"- **{name}**: {text}" for name, text in configurations.items())


def _name_entry(name: str, entry: Entry) -> str:
    return f"{name} (computes this in float)" if entry.stays_float else name


def _format_entry(entry: Entry, *, is_ours: bool) -> list[str]:
    if entry.seconds is None:
        return [f"cannot: {entry.refusal}", "-"]
    return [_format_spread(entry.seconds, 1e3), _format_ratio(entry, with_quartiles=not is_ours)]


def _format_ratio(entry: Entry, *, with_quartiles: bool) -> str:
    ratio = entry.ratio
    if ratio is None:
        return "-"
    text = f"{ratio.median:.2f}"
    text = f"**{text}**" if ratio.median < 1 else text
    return f"{text} ({ratio.lower:.2f} to {ratio.upper:.2f})" if with_quartiles else text


def _format_sqnr(entry: Entry) -> str:
    return "-" if entry.sqnr is None else f"{entry.sqnr:.1f}"


def _format_share(entry: Entry, style: str = ".2f") -> str:
    return "-" if entry.share is None else format(entry.share.median, style)


def _format_spread(spread: Spread, unit: float) -> str:
    median, lower, upper = (value * unit for value in (spread.median, spread.lower, spread.upper))
    digits = 2 if median < 10 else 1 if median < 100 else 0
    return f"{median:.{digits}f} ({lower:.{digits}f} to {upper:.{digits}f})"


def _mark(result: CaseResult) -> str:
    return " \\*" if result.disturbance > QUIET else ""


def _name_threads(threads: int) -> str:
    return "1 thread" if threads == 1 else f"{threads} threads"


def _shape(result: CaseResult) -> list[int]:
    return [int(size) for size in result.case.split(" x ")]


def _table(heading: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [heading, ["---"] * len(heading), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
