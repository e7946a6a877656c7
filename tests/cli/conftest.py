"""A runner that keeps standard output and standard error apart, as a pipe does."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from click.testing import CliRunner, Result

from intaglio.cli.commands import intaglio

Run = Callable[..., Result]


@pytest.fixture
def run() -> Run:
    def run(*arguments: str) -> Result:
        return CliRunner().invoke(intaglio, list(arguments), catch_exceptions=False)

    return run
