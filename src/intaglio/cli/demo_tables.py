"""The demo's report as tables for a terminal: one a network, float32 beside int8.

Imports: rich, and the report's data. Neighbours: `commands`.
"""

from __future__ import annotations

from pathlib import Path

from rich import box
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from intaglio.demo.results import DemoReport, Latency, ModelReport, Pair, Score
from intaglio.timing import Timing

__all__ = ["draw_demo"]

NAME_WIDTH = 24
"""Columns that the rows' names keep on a narrow terminal, where the figures then take two lines."""


def draw_demo(report: DemoReport, output: Path) -> RenderableType:
    """Draw the whole report; `output` is where its figures were written."""
    machine = report.machine
    versions = ", ".join(f"{name} {version}" for name, version in report.versions.items())
    threads = f"{machine.threads} thread{'s' if machine.threads > 1 else ''}"
    where = Text(f"{machine.cpu}, {machine.isa}, {threads}; {versions}", style="dim")
    end = Text(f"{report.seconds:.0f} s in all, downloads included. Figures: {output}", style="dim")
    tables = (Padding(_draw_model(model), (1, 0, 0, 0)) for model in report.models)
    return Group(where, *tables, Padding(end, (1, 0, 0, 0)))


def _draw_model(model: ModelReport) -> Table:
    title = f"{model.name}: {model.description}"
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    table.add_column("", min_width=NAME_WIDTH)
    for name in ("float32", "int8", "change"):
        table.add_column(name, justify="right")
    table.add_row("file", *_draw_bytes(model.file_bytes, "smaller"))
    if model.resident_bytes is None:
        table.add_row("resident memory", "?", "?", "not told by this platform")
    else:
        table.add_row("resident memory of the model", *_draw_bytes(model.resident_bytes, "smaller"))
    table.add_section()
    for latency in model.latencies:
        table.add_row(*_draw_latency(latency))
    table.add_section()
    for score in model.scores:
        table.add_row(*_draw_score(score))
    table.add_section()
    for fidelity in model.fidelity:
        table.add_row(
            f"SQNR of {fidelity.embeddings} embeddings, {fidelity.name}",
            "",
            f"{fidelity.sqnr_db:.1f} dB",
            f"cosine {fidelity.mean_cosine:.4f}, lowest {fidelity.lowest_cosine:.4f}",
        )
    table.caption = f"{model.quantized} of {model.layers} layers with weights quantized. {model.data}."
    table.caption_justify = "left"
    return table


def _draw_bytes(pair: Pair, word: str) -> tuple[str, str, str]:
    return f"{pair.float32 / 1e6:.1f} MB", f"{pair.int8 / 1e6:.1f} MB", f"{pair.ratio:.2f} x {word}"


def _draw_latency(latency: Latency) -> tuple[str, str, str, str]:
    shape = f"latency, {latency.batch} x {latency.length} {latency.unit}"
    faster = (
        f"{latency.speedup:.2f} x faster" if latency.speedup >= 1 else f"{1 / latency.speedup:.2f} x slower"
    )
    return shape, _draw_timing(latency.float32), _draw_timing(latency.int8), faster


def _draw_timing(timing: Timing) -> str:
    return f"{timing.median_ms:.2f} ms [dim]({timing.low_ms:.2f} to {timing.high_ms:.2f})[/dim]"


def _draw_score(score: Score) -> tuple[str, str, str, str]:
    before, after = score.value.float32, score.value.int8
    change = round(after - before, 4) + 0.0  # no minus before a zero
    return score.name, f"{before:.4f}", f"{after:.4f}", f"{change:+.4f}"
