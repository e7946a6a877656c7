"""One tool at one model: quantize, compare with float32, compile, time in turn, score.

What was found is told as it is found, so that a tool which fails late or takes too long keeps what it had.
Neighbours: `processes` runs this in a process of its own.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_leaves

from benchmarks.coverage.candidates import OUR_NAME, Candidate
from benchmarks.coverage.records import Outcome
from benchmarks.coverage.subjects import Subject
from benchmarks.timing import Pace, Spread, time_in_turn
from intaglio.graph_passes.examples import Call

__all__ = ["describe_error", "measure_candidate", "measure_sqnr"]

MOST_DB = 200.0
"""What equal outputs have: infinity is no JSON."""
_ERROR_LENGTH = 160

Tell = Callable[..., None]


def measure_candidate(
    subject: Subject,
    candidate: Candidate,
    *,
    is_dynamic: bool,
    is_compiled: bool,
    pace: Pace,
    tell: Tell,
) -> None:
    """Measure, and `tell(step=...)` what comes next and `tell(outcome=...)` what is known so far.

    A candidate that has to compile is timed only if `is_compiled`.
    """
    outcome = Outcome(others=len(subject.others))
    begin = time.perf_counter()
    quantized = candidate.quantize(subject, is_dynamic=is_dynamic, on_step=lambda step: tell(step=step))
    tell(step="run")
    outcome = dataclasses.replace(
        outcome,
        quantized=candidate.is_quantized(quantized),
        sqnr=_compare(subject, quantized, subject.compared),
        **candidate.describe(quantized),
    )
    seconds = time.perf_counter() - begin
    others = _compare_others(subject, quantized)
    outcome = dataclasses.replace(outcome, sqnr_others=min(others, default=None), others_taken=len(others))
    tell(outcome=outcome)
    if is_compiled or not candidate.compiles:
        tell(step="compile" if candidate.compiles else "time")
        begin = time.perf_counter()
        compiled = candidate.compile(quantized, subject.compared[0])
        seconds += time.perf_counter() - begin
        if candidate.compiles:
            outcome = dataclasses.replace(outcome, sqnr=_compare(subject, compiled, subject.compared))
            tell(step="time")
        outcome = dataclasses.replace(outcome, preparation_seconds=seconds, **_time(subject, compiled, pace))
        tell(outcome=outcome)
    tell(step="score")
    if candidate.name == OUR_NAME:
        outcome = dataclasses.replace(outcome, float_scores=subject.score(subject.module))
    outcome = dataclasses.replace(outcome, scores=_score(subject, candidate, quantized))
    tell(outcome=outcome)


def measure_sqnr(expected: Any, found: Any) -> float:
    """Signal to noise in dB over all float tensors: `20 log10(|expected| / |expected - found|)`.

    Raises:
        ValueError: they have other tensors, or the second has values that are not finite.
    """
    pairs = list(zip(_floats_of(expected), _floats_of(found), strict=True))
    if not pairs:
        raise ValueError("the output has no float tensor")
    signal = noise = 0.0
    for before, after in pairs:
        if before.shape != after.shape:
            raise ValueError(f"the output has shape {tuple(after.shape)}, not {tuple(before.shape)}")
        signal += float(before.double().square().sum())
        noise += float((before.double() - after.double()).square().sum())
    if not math.isfinite(noise):
        raise ValueError("the output is not finite")
    if noise == 0:
        return MOST_DB
    return 10 * math.log10(signal / noise) if signal else -MOST_DB


def describe_error(error: BaseException) -> str:
    """Its type and the first line of its message."""
    line = str(error).strip().partition("\n")[0]
    text = f"{type(error).__name__}: {line}" if line else type(error).__name__
    return text if len(text) <= _ERROR_LENGTH else text[: _ERROR_LENGTH - 3] + "..."


def _floats_of(output: Any) -> list[Tensor]:
    # A dataclass is a leaf to torch.
    values = vars(output) if dataclasses.is_dataclass(output) else output
    return [x for x in tree_leaves(values) if isinstance(x, Tensor) and x.is_floating_point()]


def _compare(subject: Subject, form: Any, calls: Sequence[Call]) -> float:
    return statistics.mean(measure_sqnr(call.run(subject.module), call.run(form)) for call in calls)


def _compare_others(subject: Subject, form: Any) -> list[float]:
    """The figures of those calls that `form` takes."""
    found = []
    for call in subject.others:
        try:
            found.append(measure_sqnr(call.run(subject.module), call.run(form)))
        except Exception:  # whatever is raised for sizes that a form does not take
            continue
    return found


def _time(subject: Subject, form: Any, pace: Pace) -> dict[str, Any]:
    call = subject.compared[0].copied()
    runs = {
        "float": partial(subject.module, *call.args, **call.kwargs),
        "form": partial(form, *call.args, **call.kwargs),
    }
    rounds = time_in_turn(runs, {}, pace)
    before, after = rounds.seconds["float"], rounds.seconds["form"]
    return {
        "float_seconds": Spread.of(before),
        "seconds": Spread.of(after),
        "ratio": Spread.of([x / y for x, y in zip(before, after, strict=True)]),
        "disturbance": statistics.mean(rounds.disturbance),
    }


def _score(subject: Subject, candidate: Candidate, form: Any) -> dict[str, float]:
    """The scores; a peer that does not take the task's inputs has none, and for us that is an error."""
    try:
        return subject.score(form)
    except Exception:
        if candidate.name == OUR_NAME:
            raise
        return {}
