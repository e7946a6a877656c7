"""The parts of the benchmark that turn measurements into claims: rounds, goals, JSON and the report."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.goals import GOALS, Goal
from benchmarks.report import render_markdown
from benchmarks.results import CaseResult, Entry, Run
from benchmarks.timing import Pace, Rounds, Spread, time_in_turn


def _spread(median: float) -> Spread:
    return Spread(median, 0.9 * median, 1.1 * median)


def _entry(seconds: float, ratio: float) -> Entry:
    return Entry(_spread(seconds), _spread(ratio), _spread(0.92 / ratio), sqnr=30.0)


@pytest.fixture
def linear() -> CaseResult:
    return CaseResult(
        group="kernels",
        network="Linear(384, 1536)",
        case="16 x 384 x 1536",
        threads=1,
        operations=2 * 16 * 384 * 1536,
        rounds=9,
        disturbance=0.0,
        limit="int8 peak",
        limit_rate=_spread(5e11),
        entries={
            "intaglio": _entry(4e-5, 1.0),
            "intaglio's kernel": _entry(3.8e-5, 0.95),
            "torch float32": Entry(_spread(3e-4), _spread(7.5)),
            "legacy fbgemm": _entry(6e-5, 1.5),
            "ONNX Runtime": _entry(3e-5, 0.75),
        },
    )


@pytest.fixture
def run(linear: CaseResult) -> Run:
    model = replace(
        linear,
        group="minilm",
        network="MiniLM-L6",
        case="1x32",
        disturbance=0.5,
        entries=linear.entries | {"torchao compiled": Entry(refusal="no compiler | found")},
    )
    return Run(_environment(), {"intaglio": "defaults"}, [linear, model])


def _environment() -> dict[str, Any]:
    return {
        "date": "2026-01-02",
        "cpu": "A CPU",
        "cpus": 2,
        "caches": {"L1": "32K"},
        "isa": "avx2",
        "system": "Linux",
        "versions": {"torch": "2.13.0"},
        "load_before": 0.1,
    }


def _goal_about(text: str) -> Goal:
    return next(goal for goal in GOALS if text in goal.text)


def test_goals_name_the_worst_case(linear: CaseResult) -> None:
    entries = linear.entries | {"intaglio's kernel": _entry(7e-5, 1.84)}
    slow = replace(linear, case="32 x 384 x 384", entries=entries)
    verdict = _goal_about("share of the int8 peak").judge([linear, slow])
    assert verdict is not None
    assert (verdict.met, verdict.cases, verdict.worst, verdict.worst_case) == (1, 2, 0.5, "32 x 384 x 384")


def test_a_goal_about_peers_looks_at_the_fastest_of_them(linear: CaseResult) -> None:
    verdict = _goal_about("Linear: the best of").judge([linear])
    assert verdict is not None
    assert (verdict.met, verdict.worst) == (0, 0.75)


def test_a_goal_that_no_case_concerns_has_no_verdict(linear: CaseResult) -> None:
    assert _goal_about("LSTM, batch 1:").judge([linear]) is None


def test_goals_of_convolutions_read_the_layer(linear: CaseResult) -> None:
    entries = {
        "intaglio": _entry(4e-5, 1.0),
        "intaglio's kernel": _entry(3.6e-5, 0.9),
        "intaglio's direct form": _entry(5.4e-5, 1.35),
        "legacy fbgemm": _entry(6e-5, 1.5),
    }
    labels = ("56x56x64 to 64, 3x3 / 1", "7x7x512 to 512, 3x3 / 1", "14x14x96 to 576, 1x1 / 1")
    dense, small, pointwise = (
        replace(linear, group="convolutions", case=label, entries=entries) for label in labels
    )
    depthwise = replace(dense, case="56x56x144 to 144, 3x3 / 1 depthwise")
    results = [dense, small, pointwise, depthwise]
    counts = {
        "direct form: share": 2,
        "Winograd's form where": 1,
        "1x1 convolutions of 96": 1,
        "convolutions: the best of legacy": 4,
    }
    for text, cases in counts.items():
        verdict = _goal_about(text).judge(results)
        assert verdict is not None
        assert verdict.cases == cases, text
    gain = _goal_about("Winograd's form where").judge(results)
    assert gain is not None
    assert gain.worst == pytest.approx(1.5)
    report = render_markdown(Run(_environment(), {"intaglio": "defaults"}, results))
    assert (
        "| 56x56x64 to 64, 3x3 / 1 | 40.0 (36.0 to 44.0) | 472 | 0.92 | 1.02 | 0.68 | 1.50 | 30.0 |" in report
    )


def test_a_run_survives_its_file(run: Run, tmp_path: Path) -> None:
    run.write(tmp_path / "results.json")
    assert Run.read(tmp_path / "results.json") == run


def test_the_report_shows_defeats_refusals_and_noise(run: Run) -> None:
    report = render_markdown(run)
    assert "| 16 x 384 x 1536 | 40.0 (36.0 to 44.0) | 472 | 0.92 | 0.97 | 7.50 | 1.50 | **0.75** |" in report
    assert "cannot: no compiler \\| found" in report
    assert "1 of 2, marked *" in report
    for table in report.split("\n\n"):
        if table.startswith("|"):
            assert len({line.replace("\\|", "").count("|") for line in table.splitlines()}) == 1


def test_disturbed_rounds_do_not_count_while_there_are_others() -> None:
    rounds = Rounds({"a": [1.0, 9.0, 2.0, 8.0]}, {"g": [1.0, 2.0, 3.0, 4.0]}, [0.0, 0.9, 0.05, 0.5])
    assert rounds.keep_quietest(2).seconds == {"a": [1.0, 2.0]}
    assert rounds.keep_quietest(2).readings == {"g": [1.0, 3.0]}
    assert rounds.keep_quietest(3).disturbance == [0.0, 0.05, 0.5]


def test_every_contestant_and_gauge_has_a_turn_in_every_round() -> None:
    calls = []
    rounds = time_in_turn({"run": lambda: calls.append(1)}, {"gauge": lambda: 7.0}, Pace(seconds=0, rounds=2))
    assert len(rounds.seconds["run"]) == len(rounds.readings["gauge"]) == len(rounds.disturbance) == 2
    assert rounds.readings["gauge"] == [7.0, 7.0]
    assert calls
