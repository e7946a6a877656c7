"""Where a run was measured: CPU, instruction set, versions, date and load. Never the machine's name."""

from __future__ import annotations

import os
import platform
import time
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path

from intaglio.machine import describe_machine

__all__ = ["ForeignClock", "describe_environment"]

PACKAGES = ("intaglio", "torch", "onnxruntime", "onnx", "openvino", "nncf", "torchao", "numpy")
TICKS = os.sysconf("SC_CLK_TCK")
CACHES = Path("/sys/devices/system/cpu/cpu0/cache")


def describe_environment() -> dict[str, object]:
    """What a reader needs to compare with a run of his own."""
    machine = describe_machine()
    return {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        "cpu": machine.cpu,
        "cpus": machine.cores,
        "caches": _find_caches(),
        "isa": machine.isa,
        "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "versions": {name: metadata.version(name) for name in PACKAGES},
        "load_before": round(os.getloadavg()[0], 2),
    }


def _find_caches() -> dict[str, str]:
    sizes = {}
    for index in sorted(CACHES.glob("index*")):
        level, kind, size = ((index / name).read_text().strip() for name in ("level", "type", "size"))
        if kind != "Instruction":
            sizes[f"L{level}"] = size
    return sizes


class ForeignClock:
    """Counts, from its making on, the CPU time that went to other processes and other guests."""

    def __init__(self) -> None:
        self._busy, self._total = _read_system_seconds()
        self._own = time.process_time()

    def read_share(self) -> float:
        """Of all CPU time so far, the part that others took: 0 is a machine to ourselves."""
        busy, total = _read_system_seconds()
        foreign = busy - self._busy - (time.process_time() - self._own)
        return max(0.0, foreign) / max(total - self._total, 1e-3)


def _read_system_seconds() -> tuple[float, float]:
    """CPU seconds since boot, busy ones and all: `proc(5)`, the first line of /proc/stat."""
    with open("/proc/stat", encoding="utf-8") as file:
        ticks = [int(field) for field in file.readline().split()[1:9]]
    idle = ticks[3] + ticks[4]
    return (sum(ticks) - idle) / TICKS, sum(ticks) / TICKS
