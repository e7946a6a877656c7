"""What `intaglio doctor` finds out: the machine, its limits, and how near real layers come to them.

For a few Linear layers the time that the measured limits allow is set against the time taken, in int8
and in float32, on one thread. Imports: torch, intaglio's public names, `machine`, `timing`.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from typing import Any

import torch
from torch import nn

import intaglio
from intaglio.machine import Limits, Machine, describe_machine, measure_limits
from intaglio.timing import Timing, time_in_turn

__all__ = ["Diagnosis", "Expectation", "diagnose"]

# Rows, in_features, out_features: one token, one sentence, one batch, of a small Transformer.
LAYERS = ((1, 768, 768), (32, 768, 768), (256, 768, 3072))
SECONDS_A_LAYER = 0.7
BUSY = 1.5

OnProgress = Callable[[str, float, float], None]


@dataclass(frozen=True)
class Expectation:
    """One Linear layer: the time that the limits allow and the times taken, on one thread.

    `limit_ms` is the greater of the multiply-adds at the measured int8 peak and the reading of the weights
    at the measured bandwidth of the smallest level that holds them.
    """

    rows: int
    in_features: int
    out_features: int
    limit_ms: float
    int8: Timing
    float32: Timing

    @property
    def spread(self) -> float:
        """How many times the median the slowest tenth of the calls took, at least."""
        return max(timing.high_ms / timing.median_ms for timing in (self.int8, self.float32))


@dataclass(frozen=True)
class Diagnosis:
    """All of it, and in `advice` what is worth changing."""

    versions: dict[str, str]
    machine: Machine
    limits: Limits
    expectations: tuple[Expectation, ...]
    advice: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """The diagnosis in JSON's types."""
        return asdict(self)


def diagnose(on_progress: OnProgress = lambda label, done, total: None) -> Diagnosis:
    """Describe the machine and measure it, in about three seconds."""
    steps = len(LAYERS) + 1
    on_progress("measuring", 0, steps)
    machine, limits = describe_machine(), measure_limits()
    expectations = []
    for done, shape in enumerate(LAYERS):
        on_progress("measuring", done + 1, steps)
        expectations.append(_measure_layer(*shape, limits))
    on_progress("measuring", steps, steps)
    names = ("intaglio", "torch", "numpy", "safetensors")
    return Diagnosis(
        versions={"python": platform.python_version()} | {name: version(name) for name in names},
        machine=machine,
        limits=limits,
        expectations=tuple(expectations),
        advice=tuple(_advise(machine, limits, expectations)),
    )


def _measure_layer(rows: int, in_features: int, out_features: int, limits: Limits) -> Expectation:
    layer = nn.Linear(in_features, out_features).eval()
    forms = {"float32": layer, "int8": intaglio.quantize_dynamic(layer)}
    example = torch.randn(rows, in_features)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        with torch.inference_mode():
            calls = {name: partial(form, example) for name, form in forms.items()}
            timings = time_in_turn(calls, seconds=SECONDS_A_LAYER)
    finally:
        torch.set_num_threads(threads)
    computing = 2 * rows * in_features * out_features / limits.int8_ops
    reading = in_features * out_features / _bandwidth(in_features * out_features, limits)
    return Expectation(rows, in_features, out_features, 1e3 * max(computing, reading), **timings)


def _bandwidth(size: int, limits: Limits) -> float:
    """That of the smallest measured working set which holds `size` bytes, or of the largest."""
    fitting = [measured for measured in limits.read_bandwidth if measured >= size]
    return limits.read_bandwidth[min(fitting, default=max(limits.read_bandwidth))]


def _advise(machine: Machine, limits: Limits, expectations: Sequence[Expectation]) -> list[str]:
    advice = []
    best = machine.available_isas[-1]
    if machine.forced_isa and machine.isa != best:
        advice.append(f"INTAGLIO_ISA={machine.forced_isa} holds this CPU back: without it {best} is used.")
    if not any("vnni" in isa for isa in machine.available_isas):
        advice.append(
            "This CPU has no VNNI instructions: int8 still makes files and memory four times smaller, but "
            f"layers run at most {limits.int8_ops / limits.float32_ops:.1f} x as fast as perfect float32."
        )
    if machine.openmp is not None and len(machine.openmp) > 1:
        advice.append(
            "More than one OpenMP runtime is loaded, so torch and intaglio each have their threads and get "
            f"in each other's way: {', '.join(machine.openmp)}."
        )
    if machine.threads > machine.cores:
        advice.append(
            f"torch uses {machine.threads} threads on {machine.cores} cores: "
            f"torch.set_num_threads({machine.cores}) will be faster."
        )
    widest = max(expectations, key=lambda expectation: expectation.spread)
    if widest.spread > BUSY:
        advice.append(
            f"This machine is busy: the slowest tenth of the calls took {widest.spread:.1f} x the median or "
            "more. Measure again when it is not."
        )
    return advice
