"""`intaglio doctor`: what it prints, its JSON, and each piece of advice."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from click.testing import Result

from intaglio import _core
from intaglio.cli import diagnosis
from intaglio.cli.diagnosis import Diagnosis, diagnose
from intaglio.machine import Limits, Machine
from intaglio.timing import Timing

Run = Callable[..., Result]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnosis, "LAYERS", ((1, 64, 64), (8, 64, 128)))
    monkeypatch.setattr(diagnosis, "SECONDS_A_LAYER", 0.0)
    monkeypatch.setattr(diagnosis, "measure_limits", lambda: _LIMITS)


_LIMITS = Limits("avx512_vnni", 1e12, 0.25e12, {2**14: 4e11, 2**19: 2e11, 2**28: 3e10})
_MACHINE = Machine("CPU", 4, "avx512_vnni", ("scalar", "avx2", "avx512_vnni"), None, 4, ("/a/libgomp.so.1",))


def test_table(run: Run) -> None:
    result = run("doctor")
    assert result.exit_code == 0
    for word in (_core.active_isa(), torch.__version__, "1000 GOP/s", "4.0 x", "1, 64, 64", "8, 64, 128"):
        assert word in result.stdout
    assert "measuring" not in result.stdout


def test_json(run: Run) -> None:
    found = json.loads(run("doctor", "--json").stdout)
    assert found["machine"]["isa"] == _core.active_isa()
    assert found["versions"]["torch"] == torch.__version__
    assert found["limits"]["int8_ops"] == 1e12
    assert [layer["rows"] for layer in found["expectations"]] == [1, 8]
    assert all(layer["int8"]["median_ms"] > 0 for layer in found["expectations"])


def test_limit_of_a_layer() -> None:
    one_row, eight_rows = diagnose().expectations
    # One row waits for its weights, eight for the multipliers; 64 x 64 weights lie in the first level.
    assert one_row.limit_ms == pytest.approx(1e3 * 64 * 64 / 4e11)
    assert eight_rows.limit_ms == pytest.approx(1e3 * max(2 * 8 * 64 * 128 / 1e12, 64 * 128 / 4e11))


def test_threads_are_put_back() -> None:
    torch.set_num_threads(2)
    diagnose()
    assert torch.get_num_threads() == 2


def _advice(monkeypatch: pytest.MonkeyPatch, machine: Machine, **timing: float) -> Diagnosis:
    monkeypatch.setattr(diagnosis, "describe_machine", lambda: machine)
    even = Timing(1.0, 1.0, 1.0, 10)
    timings = {"float32": even, "int8": replace(even, **timing)}
    monkeypatch.setattr(diagnosis, "time_in_turn", lambda calls, seconds: timings)
    return diagnose()


def test_nothing_to_mend(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _advice(monkeypatch, _MACHINE).advice == ()


@pytest.mark.parametrize(
    ("changes", "advice"),
    [
        (
            {"isa": "avx2", "forced_isa": "avx2"},
            "INTAGLIO_ISA=avx2 holds this CPU back: without it avx512_vnni",
        ),
        ({"isa": "avx2", "available_isas": ("scalar", "avx2")}, "no VNNI"),
        ({"openmp": ("/a/libgomp.so.1", "/b/libiomp5.so")}, "/a/libgomp.so.1, /b/libiomp5.so"),
        ({"threads": 8}, "8 threads on 4 cores: torch.set_num_threads(4)"),
    ],
)
def test_advice(monkeypatch: pytest.MonkeyPatch, changes: dict[str, object], advice: str) -> None:
    (line,) = _advice(monkeypatch, replace(_MACHINE, **changes)).advice
    assert advice in line


def test_a_busy_machine_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    (line,) = _advice(monkeypatch, _MACHINE, high_ms=2.5).advice
    assert "busy" in line
    assert "2.5 x" in line
