"""The command line as a whole: help, versions, errors, where words go."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

from click.testing import Result

import intaglio

Run = Callable[..., Result]


def test_help_names_every_command(run: Run) -> None:
    result = run("--help")
    assert result.exit_code == 0
    for name in ("doctor",):
        assert name in result.stdout
        assert "--json" in run(name, "-h").stdout


def test_version(run: Run) -> None:
    assert run("--version").stdout == f"intaglio, version {intaglio.__version__}\n"


def test_unknown_command(run: Run) -> None:
    assert run("engrave").exit_code == 2


def test_without_its_libraries_it_says_how_to_get_them() -> None:
    script = "import sys; sys.modules['rich'] = None; from intaglio.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "pip install 'intaglio[demo]'" in done.stderr
    assert "Traceback" not in done.stderr
