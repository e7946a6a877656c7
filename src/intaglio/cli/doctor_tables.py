"""The doctor's diagnosis as tables for a terminal. Imports: rich. Neighbours: `diagnosis`, `commands`."""

from __future__ import annotations

from rich import box
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from intaglio.cli.diagnosis import Diagnosis, Expectation
from intaglio.machine import Machine

__all__ = ["draw_diagnosis"]


def draw_diagnosis(diagnosis: Diagnosis) -> RenderableType:
    """Draw the machine, its limits, what to expect, and the advice."""
    advice = [Text(f"! {line}", style="yellow") for line in diagnosis.advice] or [Text("Nothing to mend.")]
    return Group(
        _draw_facts(diagnosis),
        Padding(_draw_expectations(diagnosis), (1, 0, 1, 0)),
        *advice,
    )


def _draw_facts(diagnosis: Diagnosis) -> Table:
    machine, limits = diagnosis.machine, diagnosis.limits
    table = Table.grid(padding=(0, 2))
    forced = f", forced by INTAGLIO_ISA={machine.forced_isa}" if machine.forced_isa else ""
    table.add_row("CPU", f"{machine.cpu}, {machine.cores} usable cores")
    table.add_row("kernels", f"{machine.isa}{forced}; available: {', '.join(machine.available_isas)}")
    table.add_row("threads", f"{machine.threads}, {_describe_openmp(machine)}")
    table.add_row("versions", ", ".join(f"{name} {number}" for name, number in diagnosis.versions.items()))
    table.add_row("int8 peak", f"{limits.int8_ops / 1e9:.0f} GOP/s a core")
    table.add_row(
        "float32 peak",
        f"{limits.float32_ops / 1e9:.0f} GFLOP/s a core: int8 can be up to "
        f"{limits.int8_ops / limits.float32_ops:.1f} x perfect float32",
    )
    reads = (f"{_size(size)} {rate / 1e9:.0f}" for size, rate in limits.read_bandwidth.items())
    table.add_row("reading, GB/s", ", ".join(reads))
    return table


def _describe_openmp(machine: Machine) -> str:
    if machine.openmp is None:
        return "OpenMP runtime not told by this platform"
    if len(machine.openmp) == 1:
        return "one OpenMP runtime, shared with torch"
    return f"{len(machine.openmp)} OpenMP runtimes"


def _size(count: int) -> str:
    return f"{count >> 20} MiB" if count >= 1 << 20 else f"{count >> 10} KiB"


def _draw_expectations(diagnosis: Diagnosis) -> Table:
    title = "What to expect of a Linear layer, one thread, microseconds"
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    for name in ("rows, in, out", "int8 at the limit", "int8", "of the limit", "float32", "faster"):
        table.add_column(name, justify="right")
    for expectation in diagnosis.expectations:
        table.add_row(*_draw_expectation(expectation))
    return table


def _draw_expectation(expectation: Expectation) -> tuple[str, ...]:
    int8, float32 = expectation.int8.median_ms, expectation.float32.median_ms
    return (
        f"{expectation.rows}, {expectation.in_features}, {expectation.out_features}",
        f"{1e3 * expectation.limit_ms:.1f}",
        f"{1e3 * int8:.1f}",
        f"{expectation.limit_ms / int8:.0%}",
        f"{1e3 * float32:.1f}",
        f"{float32 / int8:.1f} x",
    )
