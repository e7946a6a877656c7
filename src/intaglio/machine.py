"""The machine at hand, and what its int8 kernels will make of it.

What the processor is, which kernels were chosen for it, how many threads they use, whether they share
torch's thread pool, and the limits that were measured now rather than read from a data sheet.
May import the C++ core and torch. Neighbours: `intaglio doctor` prints it, the demo signs its report with it.
"""

from __future__ import annotations

import os
import platform
import re
from dataclasses import dataclass
from pathlib import Path

import torch

from intaglio import _core

__all__ = ["Limits", "Machine", "describe_machine", "measure_limits"]

KB, MB = 1 << 10, 1 << 20


@dataclass(frozen=True)
class Machine:
    """What there is: the processor, the kernels chosen for it, and the threads.

    `forced_isa` is what `INTAGLIO_ISA` says, if anything. `openmp` lists the OpenMP runtimes in this process;
    more than one means that torch and intaglio do not share their threads. None: the platform cannot tell.
    """

    cpu: str
    cores: int
    isa: str
    available_isas: tuple[str, ...]
    forced_isa: str | None
    threads: int
    openmp: tuple[str, ...] | None


@dataclass(frozen=True)
class Limits:
    """What one core can do, measured: operations a second, and bytes a second by the size of what is read."""

    isa: str
    int8_ops: float
    float32_ops: float
    read_bandwidth: dict[int, float]


def describe_machine() -> Machine:
    """The machine that this process runs on."""
    return Machine(
        cpu=_cpu_name(),
        cores=_usable_cores(),
        isa=_core.active_isa(),
        available_isas=tuple(_core.available_isas()),
        forced_isa=os.environ.get("INTAGLIO_ISA") or None,
        threads=torch.get_num_threads(),
        openmp=_openmp_runtimes(),
    )


def measure_limits(*, seconds: float = 0.25) -> Limits:
    """Measure one core with the kernels in use, for about `seconds` a figure."""
    isa = _core.active_isa()
    return Limits(
        isa=isa,
        int8_ops=_core.measure_peak_int8(isa, seconds),
        float32_ops=_core.measure_peak_f32(isa, seconds),
        read_bandwidth={
            size: _core.measure_read_bandwidth(size, seconds)
            for size in (16 * KB, 512 * KB, 4 * MB, 256 * MB)
        },
    )


def _cpu_name() -> str:
    try:
        listed = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        listed = None
    return listed[1].strip() if listed else platform.processor() or platform.machine()


def _usable_cores() -> int:
    """The cores that this process may run on, which in a container are fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _openmp_runtimes() -> tuple[str, ...] | None:
    try:
        maps = Path("/proc/self/maps").read_text()
    except OSError:
        return None
    return tuple(sorted(set(re.findall(r"/\S*/lib(?:gomp|omp|iomp5)[^/\s]*\.so\S*", maps))))
