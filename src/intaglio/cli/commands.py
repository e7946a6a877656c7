"""The commands, their options, and what each prints.

Results go to the standard output, as tables or with `--json` as JSON; progress and errors go to the
standard error. Imports: click, and the rest of `intaglio.cli`, which draws.
"""

from __future__ import annotations

import json
from pathlib import Path

import click
import torch

import intaglio as package
from intaglio.cli.console import report_errors, show, show_progress
from intaglio.cli.demo_tables import draw_demo
from intaglio.cli.diagnosis import diagnose
from intaglio.cli.doctor_tables import draw_diagnosis
from intaglio.cli.inspection_tables import draw_description
from intaglio.serialization import read_recipe

__all__ = ["intaglio"]

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package.__version__, prog_name="intaglio")
def intaglio() -> None:
    """PyTorch models in int8 on ordinary CPUs."""


@intaglio.command()
@click.option(
    "--output",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    default=Path("intaglio-demo.json"),
    show_default=True,
    help="Where to write the figures as JSON.",
)
@click.option(
    "--queries",
    type=click.IntRange(2, 3270),
    default=600,
    show_default=True,
    help="How many of BoolQ's questions to ask; fewer is quicker.",
)
@click.option(
    "--threads",
    type=click.IntRange(1),
    help="Threads for both forms; torch's own choice by default.",
)
@json_option
def demo(output: Path, queries: int, threads: int | None, as_json: bool) -> None:
    """Compare two real networks on real data in float32 and int8.

    Size, memory, latency and accuracy of a Transformer and an LSTM. What is not installed is fetched on the
    first run (about 260 MB) and kept; INTAGLIO_CACHE says where.
    """
    with report_errors(as_json):
        try:
            from intaglio.demo import run_demo
        except ModuleNotFoundError as error:
            if error.name != "platformdirs":
                raise
            raise package.IntaglioError(
                "the demo needs platformdirs: pip install 'intaglio[demo]'"
            ) from error
        if threads is not None:
            torch.set_num_threads(threads)
        with show_progress() as on_progress:
            report = run_demo(queries=queries, on_progress=on_progress)
        figures = report.to_dict()
        try:
            output.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
        except OSError as error:
            raise package.IntaglioError(f"the figures cannot be written to {output}: {error}") from error
        show(figures if as_json else draw_demo(report, output))


@intaglio.command()
@json_option
def doctor(as_json: bool) -> None:
    """Say what this machine is, what was chosen for it, and what speed to expect."""
    with report_errors(as_json):
        with show_progress() as on_progress:
            diagnosis = diagnose(on_progress)
        show(diagnosis.to_dict() if as_json else draw_diagnosis(diagnosis))


@intaglio.command()
@click.argument("file", type=click.Path(path_type=Path))
@json_option
def inspect(file: Path, as_json: bool) -> None:
    """Print what a file written by intaglio.save holds, without loading its weights."""
    with report_errors(as_json):
        try:
            description = read_recipe(file)
        except OSError as error:
            raise package.IntaglioError(f"{file} cannot be read: {error.strerror or error}") from error
        show(description.to_dict() if as_json else draw_description(description))
