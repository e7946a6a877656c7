"""Coverage as tables for people. Imports `records` and the tools' names; measures nothing."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from statistics import geometric_mean

from benchmarks.coverage.records import ModelCoverage, Outcome
from benchmarks.timing import QUIET

__all__ = ["better_legacy", "render_coverage", "summarise"]

OURS, X86, ONEDNN, PT2E = "intaglio", "legacy FX, x86", "legacy FX, onednn", "torchao PT2E"
LEGACY = "legacy FX"
_ALIKE_DB = 1.0

CAPTION = """\
Models of today's architectures with random weights, and real ones (**R**) with their weights and tasks. Each
tool gets the float model as its author wrote it and calibrates on the same 8 inputs. **dB** is the output
against float32's, `20 log10(|float32| / |float32 - int8|)` over all float tensors of the output, the mean
over 4 inputs that it was not calibrated with; **others** is the worst over inputs of other batches, sizes and
kinds, and how many of them it takes. **Ratio** is the time of float32 eager over the tool's, batch 1, one
thread, in turn: above 1 it is faster than float32; **bold**, it is not. **Int8** is the share of the
multiplications that are done in int8. **Float** counts the layers that stay float though they have a
quantized form, and **left** the places that are called as they are because they cannot be traced. Of the two
engines of legacy FX the more accurate one is shown, and where they are within 1 dB the faster one. Each tool
at each model is a process of its own; a step of more than 150 s is given up. PT2E is compiled and timed for
some models of every kind only, and compared for all. A star: other processes took more than 15% of the CPUs
while a tool of this row was timed.\
"""


def render_coverage(models: Sequence[ModelCoverage]) -> list[str]:
    """The sections of the report."""
    heading = ["model", "traced", "int8", "float", "left", "dB", "others", "float32, ms", "ratio"]
    heading += ["legacy dB", "ratio", "PT2E dB", "ratio"]
    parts = [
        CAPTION,
        _table(_SUMMARY_HEADING, summarise(models)),
        _table(heading, map(_render_model, models)),
    ]
    parts += _render_scores(models)
    parts += _render_reasons("Why layers stay float", models, lambda outcome: outcome.floats)
    parts += _render_reasons("What is not traced, and why", models, lambda outcome: outcome.left)
    parts += _render_failures(models)
    return parts


def better_legacy(model: ModelCoverage) -> Outcome | None:
    """The outcome of the better engine of legacy FX: more accurate, or as accurate and faster."""
    outcomes = [model.outcomes[name] for name in (X86, ONEDNN) if name in model.outcomes]
    converted = [outcome for outcome in outcomes if outcome.converts]
    if not converted:
        return outcomes[0] if outcomes else None
    best = max(outcome.sqnr or 0.0 for outcome in converted)
    alike = [outcome for outcome in converted if (outcome.sqnr or 0.0) >= best - _ALIKE_DB]
    return max(alike, key=lambda outcome: outcome.ratio.median if outcome.ratio else 0.0)


_SUMMARY_HEADING = (
    "",
    "converts",
    ">= 20 dB",
    ">= 15 dB",
    "float32 / int8, geometric mean",
    "slower than float32",
    "takes all other inputs",
)


def summarise(models: Sequence[ModelCoverage]) -> list[list[str]]:
    """A row a tool: how many models it converts, how many well, and how fast they are."""
    return [
        _summarise(name, [outcome for model in models if (outcome := _outcome_of(model, name))], len(models))
        for name in (OURS, LEGACY, PT2E)
    ]


def _summarise(name: str, outcomes: Sequence[Outcome], count: int) -> list[str]:
    converted = [outcome for outcome in outcomes if outcome.converts]
    figures = [outcome.sqnr for outcome in converted if outcome.sqnr is not None]
    ratios = [outcome.ratio.median for outcome in converted if outcome.ratio is not None]
    return [
        name,
        f"{len(converted)} of {count}",
        str(sum(figure >= 20 for figure in figures)),
        str(sum(figure >= 15 for figure in figures)),
        f"{geometric_mean(ratios):.2f}" if ratios else "-",
        f"{sum(ratio < 1 for ratio in ratios)} of {len(ratios)}",
        str(sum(outcome.others_taken == outcome.others for outcome in converted)),
    ]


def _outcome_of(model: ModelCoverage, name: str) -> Outcome | None:
    return better_legacy(model) if name == LEGACY else model.outcomes.get(name)


def _render_model(model: ModelCoverage) -> list[str]:
    ours = model.outcomes[OURS]
    name = f"**R** {model.name}" if model.is_real else model.name
    if any((outcome.disturbance or 0.0) > QUIET for outcome in model.outcomes.values()):
        name += " \\*"
    cells = [name, _name_graphs(ours), _format_share(ours), str(len(ours.floats)), str(len(ours.left))]
    cells += [_format_sqnr(ours), _format_others(ours)]
    cells += [f"{ours.float_seconds.median * 1e3:.1f}" if ours.float_seconds else "-", _format_ratio(ours)]
    for peer in (LEGACY, PT2E):
        outcome = _outcome_of(model, peer)
        cells += ["-", "-"] if outcome is None else [_format_sqnr(outcome), _format_ratio(outcome)]
    return cells


def _name_graphs(outcome: Outcome) -> str:
    if not outcome.graphs:
        return "no" if outcome.failed_at is None else "-"
    if outcome.graphs == [""]:
        return "whole"
    inner = len([path for path in outcome.graphs if path])
    return f"whole, {inner} parts apart" if "" in outcome.graphs else f"{inner} parts"


def _format_share(outcome: Outcome) -> str:
    if not outcome.macs or outcome.int8_macs is None:
        return "-"
    return f"{outcome.int8_macs / outcome.macs:.0%}"


def _format_sqnr(outcome: Outcome) -> str:
    """The figure, or where the tool failed: what it found before goes with it."""
    figure = "" if outcome.sqnr is None else f"{outcome.sqnr:.1f}"
    if outcome.failed_at is not None:
        kind = (outcome.error or "").partition(":")[0]
        return f"{figure} {outcome.failed_at}: {kind}".strip()
    return figure if outcome.quantized else "all in float"


def _format_others(outcome: Outcome) -> str:
    if outcome.sqnr_others is None:
        return f"0 of {outcome.others}" if outcome.others else "-"
    return f"{outcome.sqnr_others:.1f} ({outcome.others_taken} of {outcome.others})"


def _format_ratio(outcome: Outcome) -> str:
    if outcome.ratio is None or not outcome.quantized:
        return "-"
    text = f"{outcome.ratio.median:.2f}"
    return f"**{text}**" if outcome.ratio.median < 1 else text


def _render_scores(models: Sequence[ModelCoverage]) -> list[str]:
    rows = []
    for model in models:
        ours = model.outcomes[OURS]
        peers = [_outcome_of(model, peer) for peer in (LEGACY, PT2E)]
        for figure, exact in ours.float_scores.items():
            found = [outcome.scores.get(figure) if outcome else None for outcome in (ours, *peers)]
            cells = ["-" if score is None else _format_score(score) for score in (exact, *found)]
            rows.append([model.name, figure, *cells])
    if not rows:
        return []
    heading = ["model", "figure", "float32", OURS, LEGACY, PT2E]
    return ["### Accuracy on labelled data", _table(heading, rows)]


def _format_score(score: float) -> str:
    return f"{score:.2f}" if score > 2 else f"{score:.3f}"


def _render_reasons(
    title: str, models: Sequence[ModelCoverage], reasons_of: Callable[[Outcome], dict[str, str]]
) -> list[str]:
    """Reasons with the models in which they hold, and at how many places."""
    found: dict[str, list[str]] = defaultdict(list)
    for model in models:
        counts = Counter(reasons_of(model.outcomes[OURS]).values())
        for reason, places in counts.items():
            found[reason].append(f"{model.name} ({places})")
    return _list_reasons(title, found)


def _render_failures(models: Sequence[ModelCoverage]) -> list[str]:
    found: dict[str, list[str]] = defaultdict(list)
    for model in models:
        for name, outcome in model.outcomes.items():
            if outcome.failed_at is None:
                continue
            # Both engines of the legacy mode fail alike mostly.
            reason = f"{name.partition(',')[0]}, {outcome.failed_at}: `{outcome.error}`"
            if model.name not in found[reason]:
                found[reason].append(model.name)
    return _list_reasons("Where tools fail", found)


def _list_reasons(title: str, found: dict[str, list[str]]) -> list[str]:
    if not found:
        return []
    lines = [f"- {reason}: {', '.join(names)}" for reason, names in sorted(found.items())]
    return [f"### {title}", "\n".join(lines)]


def _table(heading: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [heading, ["---"] * len(heading), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
