"""A process for each tool at each model, with a time limit for each of its steps.

Processes are forked from one that has imported everything, so that a new one costs nothing; a tool that
crashes, hangs or leaves torch changed harms no other. Neighbours: `measuring` is what they run.
"""

from __future__ import annotations

import contextlib
import dataclasses
import multiprocessing
import os
import signal
import tempfile
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from typing import Any

import torch

from benchmarks.coverage.candidates import CANDIDATES, OUR_NAME, Candidate
from benchmarks.coverage.measuring import describe_error, measure_candidate
from benchmarks.coverage.records import ModelCoverage, Outcome
from benchmarks.coverage.subjects import SubjectName, list_subjects
from benchmarks.timing import Pace

__all__ = ["measure_models"]

PACE = Pace(seconds=1.0, rounds=7)
QUICK_PACE = Pace(seconds=0.2, rounds=3)
STEP_SECONDS = 150
"""A step that takes longer is given up, and that is a result."""


def measure_models(*, quick: bool, doing: Callable[[str], None]) -> Iterator[ModelCoverage]:
    """Measure one model after the other, on one thread."""
    with tempfile.TemporaryDirectory(prefix="intaglio-coverage-") as cache:
        # Programs that an earlier run compiled would make this one's compiling look quick.
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache
        for subject in list_subjects(quick=quick):
            outcomes = {}
            for kind in CANDIDATES:
                doing(f"{subject.name}: {kind.name}")
                outcomes[kind.name] = _measure_apart(subject, kind, QUICK_PACE if quick else PACE)
            yield ModelCoverage(subject.name, subject.is_real, subject.is_dynamic, outcomes)


def _measure_apart(subject: SubjectName, kind: type[Candidate], pace: Pace) -> Outcome:
    """What the process told last, and where it failed if it did."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_run, args=(subject, kind, pace, theirs))
    process.start()
    theirs.close()
    told: dict[str, Any] = {}
    try:
        while ours.poll(STEP_SECONDS):
            told |= ours.recv()
        told["error"] = f"over {STEP_SECONDS} s"
    except EOFError:
        process.join()
        if "done" not in told and "error" not in told:
            told["error"] = f"the process died with {process.exitcode}"
    finally:
        _end(process)
        ours.close()
    outcome: Outcome = told.get("outcome", Outcome())
    if "error" not in told:
        return outcome
    if kind.name == OUR_NAME:
        print(f"{subject.name}: {kind.name}: {told['step']}: {told['error']}", flush=True)
    return dataclasses.replace(outcome, failed_at=told.get("step", "start"), error=told["error"])


def _run(subject: SubjectName, kind: type[Candidate], pace: Pace, channel: Connection) -> None:
    os.setsid()  # so that compilers which it starts can be ended with it

    def tell(**message: Any) -> None:
        channel.send(message)

    tell(step="make the model")
    try:
        torch.manual_seed(0)
        made = subject.make()
        measure_candidate(
            made,
            kind(),
            is_dynamic=subject.is_dynamic,
            is_compiled=subject.is_compiled,
            pace=pace,
            tell=tell,
        )
        tell(done=True)
    except Exception as error:  # whatever is raised by tools that are not ours
        tell(error=describe_error(error))
    finally:
        channel.close()


def _end(process: Any) -> None:
    """End a process and all that it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.kill()  # if it was too early for a group of its own
    process.join()
