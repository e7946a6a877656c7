"""Where the command line's words go: results, progress bars, errors.

Standard output carries results alone, so that `--json` can be piped; standard error carries the rest.
Imports: click, rich. Neighbours: `commands` uses all of it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import click
from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeElapsedColumn

from intaglio.errors import IntaglioError

__all__ = ["report_errors", "show", "show_progress"]

FILE_WIDTH = 120
"""Columns of tables that go to a file or a pipe, which say nothing of their width."""


def show(result: Mapping[str, Any] | RenderableType) -> None:
    """Print a result: a mapping as JSON, anything else as rich draws it."""
    if isinstance(result, Mapping):
        click.echo(json.dumps(result, indent=2))
    else:
        console = Console()
        if not console.is_terminal and "COLUMNS" not in os.environ:
            console.width = FILE_WIDTH
        console.print(result)


@contextmanager
def report_errors(as_json: bool) -> Iterator[None]:
    """Turn an error that was raised on purpose into a message and exit status 1."""
    try:
        yield
    except IntaglioError as error:
        if as_json:
            click.echo(json.dumps({"error": {"type": type(error).__name__, "message": str(error)}}, indent=2))
        raise click.ClickException(str(error)) from error


@contextmanager
def show_progress() -> Iterator[Callable[[str, float, float], None]]:
    """Progress bars, one a label; gives the function to call with a label, what is done and what there is.

    Where standard error is no terminal, each label is a line when its work begins.
    """
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
    )
    bars: dict[str, TaskID] = {}
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:

        def on_progress(label: str, done: float, total: float) -> None:
            if label not in bars:
                bars[label] = progress.add_task(label, total=total)
                if not console.is_terminal:
                    click.echo(label, err=True)
            progress.update(bars[label], completed=done, total=total)

        yield on_progress
