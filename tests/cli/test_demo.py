"""`intaglio demo`: its table, its file, its errors. The demo itself is stood in for: see tests/demo."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import Result

import intaglio.demo
from intaglio.demo.errors import CarrierError
from intaglio.demo.results import DemoReport, Fidelity, Latency, ModelReport, Pair, Score
from intaglio.machine import Machine
from intaglio.timing import Timing

Run = Callable[..., Result]


def _report() -> DemoReport:
    model = ModelReport(
        name="Net",
        description="a network",
        quantized=3,
        layers=5,
        data="some data",
        file_bytes=Pair(4e6, 1e6),
        resident_bytes=None,
        latencies=(
            Latency(1, 32, "tokens", Timing(4.0, 3.5, 5.0, 10), Timing(1.0, 0.9, 1.25, 10)),
            Latency(8, 32, "tokens", Timing(4.0, 3.5, 5.0, 10), Timing(8.0, 7.0, 9.0, 10)),
        ),
        scores=(Score("task, accuracy", Pair(0.895, 0.8938)),),
        fidelity=(Fidelity("texts", 12, 25.21, 0.99851, 0.9912),),
    )
    machine = Machine("CPU", 2, "avx2", ("scalar", "avx2"), None, 1, None)
    return DemoReport(machine, {"torch": "2.13.0"}, (model,), 61.4)


@pytest.fixture(autouse=True)
def told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, object]:
    """A demo that takes no time, in an empty folder; what it was asked for."""
    asked: dict[str, object] = {}

    def run_demo(**arguments: object) -> DemoReport:
        on_progress = arguments.pop("on_progress")
        assert callable(on_progress)
        on_progress("embedding", 1, 2)
        asked.update(arguments, threads=torch.get_num_threads())
        return _report()

    monkeypatch.setattr(intaglio.demo, "run_demo", run_demo)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "150")
    return asked


@pytest.mark.parametrize("columns", ["80", None])
def test_rows_keep_their_names_on_a_narrow_terminal_and_in_a_pipe(
    run: Run, monkeypatch: pytest.MonkeyPatch, columns: str | None
) -> None:
    monkeypatch.delenv("COLUMNS") if columns is None else monkeypatch.setenv("COLUMNS", columns)
    output = run("demo").output
    for name in ("file", "latency, 1 x 32", "task, accuracy", "SQNR of"):
        assert name in output


def test_table_and_file(run: Run, tmp_path: Path, told: dict[str, object]) -> None:
    result = run("demo")
    assert result.exit_code == 0
    for words in (
        "4.0 MB",
        "4.00 x smaller",
        "not told by this platform",
        "4.00 ms (3.50 to 5.00)",
        "4.00 x faster",
        "2.00 x slower",
        "0.8950",
        "-0.0012",
        "25.2 dB",
        "3 of 5 layers",
        "61 s in all",
        "intaglio-demo.json",
    ):
        assert words in result.stdout
    assert "embedding" in result.stderr
    written = json.loads((tmp_path / "intaglio-demo.json").read_text())
    assert written == json.loads(json.dumps(_report().to_dict()))
    assert told["queries"] == 600


def test_json_and_options(run: Run, tmp_path: Path, told: dict[str, object]) -> None:
    result = run("demo", "--json", "--queries", "40", "--threads", "1", "--output", "elsewhere.json")
    assert json.loads(result.stdout) == json.loads((tmp_path / "elsewhere.json").read_text())
    assert told == {"queries": 40, "threads": 1}


def test_a_file_that_cannot_be_written(run: Run) -> None:
    result = run("demo", "--output", "absent/figures.json")
    assert result.exit_code == 1
    assert "cannot be written to absent/figures.json" in result.stderr


def test_without_weights(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(**arguments: object) -> DemoReport:
        raise CarrierError("the weights cannot be fetched: connect to a package index")

    monkeypatch.setattr(intaglio.demo, "run_demo", fail)
    result = run("demo")
    assert result.exit_code == 1
    assert "connect to a package index" in result.stderr
    assert "Traceback" not in result.stderr
