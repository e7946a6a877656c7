"""`python -m benchmarks`: the command that runs the workers one after the other and writes the report.

Each group of workloads, at each number of threads, is a process of its own (`worker`): thread pools are
sized once, and one runtime's compiler cannot disturb another group.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.contestants import describe_contestants
from benchmarks.coverage import CANDIDATES, list_subjects, model_from_dict
from benchmarks.environment import describe_environment
from benchmarks.report import render_markdown
from benchmarks.results import Run, case_from_dict
from benchmarks.training import list_rows, row_from_dict
from benchmarks.worker import run_worker
from benchmarks.workloads import GROUPS, list_shapes

COVERAGE, TRAINING = "coverage", "training"
WHOLE_MODELS = (COVERAGE, TRAINING)
"""The groups whose rows are whole models; they are timed on one thread."""
HERE = Path(__file__).parent
PARTIAL = HERE.parent / "build" / "benchmarks"
THREADS = tuple(count for count in (1, 2) if count <= len(os.sched_getaffinity(0)))


@click.command()
@click.option(
    "--only",
    type=click.Choice((*GROUPS, *WHOLE_MODELS)),
    multiple=True,
    help="Only this group; may be repeated.",
)
@click.option("--threads", type=click.IntRange(1), multiple=True, help="Only this many; may be repeated.")
@click.option("--quick", is_flag=True, help="Fewer shapes and rounds: to see that it works, not to quote.")
@click.option("--output", type=click.Path(path_type=Path), help="Folder for RESULTS.md and results.json.")
@click.option("--worker", hidden=True, is_flag=True, help="Be one of the processes.")
def main(
    only: tuple[str, ...], threads: tuple[int, ...], quick: bool, output: Path | None, worker: bool
) -> None:
    """Time intaglio and its peers in turn, and write tables of the ratios.

    A complete run replaces benchmarks/RESULTS.md and results.json; a partial one goes to build/benchmarks,
    unless --output names a folder, and so does what an interrupted run had measured.
    """
    if worker:
        run_worker(only[0], threads[0], quick=quick)
        return
    complete = not (only or threads or quick)
    folder = output or (HERE if complete else PARTIAL)
    plan = [(group, count) for group in only or GROUPS for count in threads or THREADS]
    plan = [(group, count) for group, count in plan if group not in WHOLE_MODELS]
    plan += [(group, 1) for group in WHOLE_MODELS if group in (only or WHOLE_MODELS)]
    console = Console(stderr=True)
    run = Run(describe_environment(), describe_contestants())
    for kind in CANDIDATES:
        before = run.configurations.get(kind.name)
        own = kind.configuration
        run.configurations[kind.name] = f"{before}; for coverage {own}" if before else own
    with _make_progress(console) as progress:
        total = sum(_count_rows(group, quick=quick) for group, _ in plan)
        bar = progress.add_task("starting", total=total)
        for group, count in plan:
            for message in _start_worker(group, count, quick=quick, log=PARTIAL / "peers.log"):
                if "result" in message:
                    run.results.append(case_from_dict(message["result"]))
                    progress.advance(bar)
                elif "row" in message:
                    run.training.append(row_from_dict(message["row"]))
                    progress.advance(bar)
                elif "model" in message:
                    run.coverage.append(model_from_dict(message["model"]))
                    progress.advance(bar)
                    _write(run, PARTIAL)  # a row takes as long as many cases do
                else:
                    progress.update(bar, description=f"{message['doing']} ({count} threads)")
            _write(run, PARTIAL)
    _write(run, folder)
    console.print(f"Written: {folder / 'RESULTS.md'}, {folder / 'results.json'}")


def _count_rows(group: str, *, quick: bool) -> int:
    if group == TRAINING:
        return len(list_rows(quick=quick))
    return len(list_subjects(quick=quick) if group == COVERAGE else list_shapes(group, quick=quick))


def _write(run: Run, folder: Path) -> None:
    run.write(folder / "results.json")
    (folder / "RESULTS.md").write_text(render_markdown(run), encoding="utf-8")


def _start_worker(group: str, threads: int, *, quick: bool, log: Path) -> Iterator[dict[str, Any]]:
    """The messages of a worker process, until it ends.

    Raises:
        click.ClickException: it failed; what it said stands in `log`.
    """
    command = [sys.executable, "-m", "benchmarks", "--worker", "--only", group, "--threads", str(threads)]
    # Read by OpenMP and MKL before torch.set_num_threads can speak: their pools must never be larger.
    # CI: OpenVINO's tools send statistics about their user unless they run in one.
    environment = os.environ | {
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "CI": "true",
    }
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w", encoding="utf-8") as errors:
        worker = subprocess.Popen(
            [*command, "--quick"] if quick else command,
            cwd=HERE.parent,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
        with worker:
            assert worker.stdout is not None
            yield from map(json.loads, worker.stdout)
    if worker.returncode != 0:
        raise click.ClickException(f"{group} at {threads} threads failed; the log is {log}")


def _make_progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
    )


if __name__ == "__main__":
    main()
