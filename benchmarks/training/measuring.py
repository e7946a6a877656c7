"""Steps in turn in one process, and the memory of each in a process of its own. Imports `timing`, `steps`."""

from __future__ import annotations

import copy
import ctypes
import gc
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.timing import Pace, Spread, time_in_turn
from benchmarks.training.records import FLOAT, StepCost, TrainingRow
from benchmarks.training.steps import BATCH, NETWORKS, TRAINERS, Trainer, make_batch, make_step

__all__ = ["list_rows", "measure_rows", "report_memory"]

LAYOUTS = {"contiguous": torch.contiguous_format, "channels last": torch.channels_last}
PACE = Pace(seconds=30, rounds=9)
QUICK_PACE = Pace(seconds=0.2, rounds=2)
STEPS_OF_MEMORY = 3


def list_rows(*, quick: bool = False) -> list[tuple[str, str]]:
    """The networks and memory layouts of a run."""
    rows = [(network, layout) for network in NETWORKS for layout in LAYOUTS]
    return rows[2:3] if quick else rows


def measure_rows(*, quick: bool, doing: Callable[[str], None]) -> Iterator[TrainingRow]:
    """Measure one row after the other."""
    for network, layout in list_rows(quick=quick):
        costs: dict[str, StepCost] = {}
        steps: dict[str, Callable[[], object]] = {}
        for kind in TRAINERS:
            doing(f"training {network}, {layout}: {kind.name}")
            trainer = kind()
            try:
                prepared = _prepare(trainer, network, layout)
                costs[kind.name] = replace(
                    _compare(trainer, copy.deepcopy(prepared), layout),
                    bytes=_memory_of(network, layout, kind.name),
                )
                steps[kind.name] = make_step(prepared, make_batch(LAYOUTS[layout]))
            except Exception as error:  # whatever is raised by tools that are not ours
                costs[kind.name] = StepCost(refusal=f"{type(error).__name__}: {error}".splitlines()[0])
        doing(f"training {network}, {layout}: {len(steps)} contestants in turn")
        rounds = time_in_turn(steps, {}, QUICK_PACE if quick else PACE)
        for name, seconds in rounds.seconds.items():
            paired = [own / base for own, base in zip(seconds, rounds.seconds[FLOAT], strict=True)]
            costs[name] = replace(costs[name], seconds=Spread.of(seconds), ratio=Spread.of(paired))
        yield TrainingRow(network, layout, BATCH, len(rounds.disturbance), costs)


def _prepare(trainer: Trainer, network: str, layout: str) -> nn.Module:
    torch.manual_seed(0)
    model = NETWORKS[network]().to(memory_format=LAYOUTS[layout]).train()
    return trainer.prepare(model, make_batch(LAYOUTS[layout])[0])


def _compare(trainer: Trainer, prepared: nn.Module, layout: str) -> StepCost:
    """How the int8 model differs from the model that trained, after a step."""
    batch = make_batch(LAYOUTS[layout])
    make_step(prepared, batch)()
    converted = trainer.convert(prepared.eval())
    if converted is None:
        return StepCost()
    with torch.no_grad():
        expected, found = prepared(batch[0]), converted(batch[0])
    difference = (expected - found).abs()
    return StepCost(
        differs=float((difference > 0).double().mean()),
        most_steps=float(difference.max() / _smallest_step(found)),
    )


def _smallest_step(values: Tensor) -> Tensor:
    """The step of the scale that values are multiples of: the least difference between two of them."""
    distinct = values.unique()
    return (distinct[1:] - distinct[:-1]).min()


def _memory_of(network: str, layout: str, trainer: str) -> int:
    """What a process that trains grows by, at its largest."""
    command = [
        *(sys.executable, "-c"),
        "import sys; from benchmarks.training import report_memory; report_memory(*sys.argv[1:])",
    ]
    # Else the allocator keeps what is freed, in amounts that hang on the order of sizes.
    exact = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    done = subprocess.run(
        [*command, network, layout, trainer],
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
        env=os.environ | exact,
    )
    found: int = json.loads(done.stdout.splitlines()[-1])
    return found


def report_memory(network: str, layout: str, trainer: str) -> None:
    """Print by how many bytes a few steps made this process larger than it was before there was a model."""
    kind = next(kind for kind in TRAINERS if kind.name == trainer)
    torch.set_num_threads(1)
    # What torch and its libraries load at their first call is no part of a model.
    warm = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.LazyLinear(10))
    make_step(warm, (torch.randn(2, 3, 8, 8), torch.arange(2)))()
    before = _size("VmRSS")
    step = make_step(_prepare(kind(), network, layout), make_batch(LAYOUTS[layout]))
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what preparing took and gave back is no part of a step
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # the largest size begins anew
    for _ in range(STEPS_OF_MEMORY):
        step()
    print(json.dumps(_size("VmHWM") - before))


def _size(name: str) -> int:
    """Bytes of this process, now (VmRSS) or at its largest (VmHWM)."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return 1024 * int(next(line for line in status.splitlines() if line.startswith(name)).split()[1])
