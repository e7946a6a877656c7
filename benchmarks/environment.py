"""Where a run was measured: CPU, instruction set, versions, date and load. Never the machine's name."""

from __future__ import annotations

import os
import platform
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path

from intaglio import _core

__all__ = ["describe_environment", "read_cpu_clock", "share_stolen"]

PACKAGES = ("intaglio", "torch", "onnxruntime", "onnx", "openvino", "nncf", "torchao", "numpy")
CACHES = Path("/sys/devices/system/cpu/cpu0/cache")


def describe_environment() -> dict[str, object]:
    """What a reader needs to compare with a run of his own."""
    return {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        "cpu": _find_cpu_name(),
        "cpus": len(os.sched_getaffinity(0)),
        "caches": _find_caches(),
        "isa": _core.active_isa(),
        "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "versions": {name: metadata.version(name) for name in PACKAGES},
        "load_before": round(os.getloadavg()[0], 2),
    }


def _find_cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


def _find_caches() -> dict[str, str]:
    sizes = {}
    for index in sorted(CACHES.glob("index*")):
        level, kind, size = ((index / name).read_text().strip() for name in ("level", "type", "size"))
        if kind != "Instruction":
            sizes[f"L{level}"] = size
    return sizes


def read_cpu_clock() -> list[int]:
    """CPU time by purpose, see `proc(5)`: user, nice, system, idle, iowait, irq, softirq, steal."""
    line = Path("/proc/stat").read_text(encoding="utf-8").partition("\n")[0]
    return [int(ticks) for ticks in line.split()[1:9]]


def share_stolen(before: list[int], after: list[int]) -> float:
    """Of the CPU time between two readings, the share that a hypervisor gave to others."""
    spent = [end - start for start, end in zip(before, after, strict=True)]
    return spent[7] / max(1, sum(spent))
