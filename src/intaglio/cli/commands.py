"""The commands, their options, and what each prints.

Results go to the standard output, as tables or with `--json` as JSON; progress and errors go to the
standard error. Imports: click, and the rest of `intaglio.cli`, which draws.
"""

from __future__ import annotations

import click

import intaglio as package
from intaglio.cli.console import report_errors, show, show_progress
from intaglio.cli.diagnosis import diagnose
from intaglio.cli.doctor_tables import draw_diagnosis

__all__ = ["intaglio"]

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package.__version__, prog_name="intaglio")
def intaglio() -> None:
    """PyTorch models in int8 on ordinary CPUs."""


@intaglio.command()
@json_option
def doctor(as_json: bool) -> None:
    """Say what this machine is, what was chosen for it, and what speed to expect."""
    with report_errors(as_json):
        with show_progress() as on_progress:
            diagnosis = diagnose(on_progress)
        show(diagnosis.to_dict() if as_json else draw_diagnosis(diagnosis))
