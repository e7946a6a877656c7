"""One process of the benchmark: one group of workloads at one number of threads.

It tells its parent what it does, and every result, as JSON lines on standard output; whatever the runtimes
print goes to standard error, so that nothing but messages reaches the parent.
"""

from __future__ import annotations

import json
import os
import statistics
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial

import torch
from torch import Tensor

from benchmarks.contestants import Contestant, Intaglio, Program, TorchFloat, contestants_of
from benchmarks.coverage import measure_models
from benchmarks.limits import Limits
from benchmarks.results import CaseResult, Entry
from benchmarks.timing import Pace, Spread, time_in_turn
from benchmarks.training import measure_rows
from benchmarks.workloads import Case, Network, make_networks

__all__ = ["run_worker"]

PACES = {
    "kernels": Pace(seconds=0.8, rounds=7),
    "convolutions": Pace(seconds=0.8, rounds=7),
    "minilm": Pace(seconds=10, rounds=9),
    "lstm": Pace(seconds=10, rounds=9),
    "vision": Pace(seconds=10, rounds=9),
}
QUICK_PACE = Pace(seconds=0.3, rounds=5)

PEAK, BANDWIDTH = "int8 peak", "read bandwidth"

Say = Callable[..., None]


def run_worker(group: str, threads: int, *, quick: bool) -> None:
    """Measure the group; messages to standard output."""
    torch.set_num_threads(threads)
    torch.set_grad_enabled(False)
    warnings.simplefilter("ignore")
    if group in WHOLE_MODELS:
        WHOLE_MODELS[group](quick=quick)
        return
    pace = QUICK_PACE if quick else PACES[group]
    limits = Limits(threads)
    with _open_channel() as say:
        for network in make_networks(group, quick=quick):
            field, refusals = _prepare_field(network, threads, say)
            for case in network.cases:
                say(doing=f"{network.name}, {case.label}: preparing")
                programs, entries = _bind_field(field, case)
                say(doing=f"{network.name}, {case.label}: {len(programs)} contestants in turn")
                result = _measure(network, case, limits, pace, programs, refusals | entries)
                say(result=asdict(result))


def _measure_coverage(*, quick: bool) -> None:
    with _open_channel() as say:
        for model in measure_models(quick=quick, doing=lambda what: say(doing=what)):
            say(model=asdict(model))


def _measure_training(*, quick: bool) -> None:
    with _open_channel() as say, torch.enable_grad():
        for row in measure_rows(quick=quick, doing=lambda what: say(doing=what)):
            say(row=asdict(row))


WHOLE_MODELS = {"coverage": _measure_coverage, "training": _measure_training}
"""Groups whose rows are not cases with a limit."""


@contextmanager
def _open_channel() -> Iterator[Say]:
    """A function that sends one message; until the end, descriptor 1 is standard error, for C++ too."""
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as channel:
        os.dup2(2, 1)

        def say(**message: object) -> None:
            channel.write(json.dumps(message) + "\n")
            channel.flush()

        yield say


def _prepare_field(network: Network, threads: int, say: Say) -> tuple[list[Contestant], dict[str, Entry]]:
    """The contestants that take the network, and entries that say why for those that do not."""
    field: list[Contestant] = []
    refusals: dict[str, Entry] = {}
    for kind in contestants_of(network.group):
        say(doing=f"{network.name}: preparing {kind.name}")
        try:
            field.append(kind(network, threads))
        except Exception as error:
            refusals[kind.name] = _refuse(kind.name, error)
    return field, refusals


def _bind_field(field: list[Contestant], case: Case) -> tuple[dict[str, Program], dict[str, Entry]]:
    """The programs that run, and an entry for every contestant: of those that run, without times yet."""
    programs: dict[str, Program] = {}
    entries: dict[str, Entry] = {}
    exact: Tensor | None = None
    for contestant in sorted(field, key=lambda contestant: not isinstance(contestant, TorchFloat)):
        try:
            program = contestant.bind(case.inputs)
            output = program.read().clone()
        except Exception as error:
            entries[contestant.name] = _refuse(contestant.name, error)
            continue
        programs[contestant.name] = program
        stays_float = contestant.network.group in contestant.stays_float
        entries[contestant.name] = Entry(
            sqnr=None if exact is None else _measure_sqnr(exact, output), stays_float=stays_float
        )
        exact = output if exact is None else exact
    return programs, {contestant.name: entries[contestant.name] for contestant in field}


def _refuse(name: str, error: Exception) -> Entry:
    """A peer may fail in any way, and that is a result; we and float32 may not."""
    if name in (Intaglio.name, TorchFloat.name):
        raise error
    reason = str(error).strip().partition("\n")[0] or type(error).__name__
    return Entry(refusal=reason[:200])


def _measure_sqnr(exact: Tensor, output: Tensor) -> float:
    """Signal to quantization noise in dB: `10 log10(sum exact^2 / sum (exact - output)^2)`."""
    noise = (exact - output).double().square().sum().clamp_min(1e-30)
    return float(10 * torch.log10(exact.double().square().sum() / noise))


def _measure(
    network: Network,
    case: Case,
    limits: Limits,
    pace: Pace,
    programs: dict[str, Program],
    entries: dict[str, Entry],
) -> CaseResult:
    """Time the programs in turn, next to the limits of the CPU."""
    limit, work = (BANDWIDTH, case.streamed_bytes) if case.streamed_bytes else (PEAK, case.operations)
    gauges: dict[str, Callable[[], float]] = {
        BANDWIDTH: partial(limits.read_bandwidth, case.streamed_bytes),
        PEAK: limits.peak_int8,
    }
    runs = {name: program.run for name, program in programs.items()}
    rounds = time_in_turn(runs, {limit: gauges[limit]}, pace)
    ours, rates = rounds.seconds[Intaglio.name], rounds.readings[limit]
    for name, seconds in rounds.seconds.items():
        ratios = [theirs / mine for theirs, mine in zip(seconds, ours, strict=True)]
        shares = [work / t / rate for t, rate in zip(seconds, rates, strict=True)]
        entries[name] = replace(
            entries[name], seconds=Spread.of(seconds), ratio=Spread.of(ratios), share=Spread.of(shares)
        )
    return CaseResult(
        group=network.group,
        network=network.name,
        case=case.label,
        threads=limits.threads,
        operations=case.operations,
        rounds=len(ours),
        disturbance=statistics.mean(rounds.disturbance),
        limit=limit,
        limit_rate=Spread.of(rates),
        entries=entries,
    )
