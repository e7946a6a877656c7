"""The parts of the benchmark that turn measurements into claims: rounds, goals, JSON and the report."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchmarks.coverage import processes
from benchmarks.coverage.candidates import Candidate
from benchmarks.coverage.measuring import describe_error, measure_candidate, measure_sqnr
from benchmarks.coverage.records import ModelCoverage, Outcome, model_from_dict
from benchmarks.coverage.subjects import COMPILED, Subject, SubjectName, list_subjects
from benchmarks.coverage.table import better_legacy, render_coverage, summarise
from benchmarks.goals import GOALS, Goal
from benchmarks.report import render_markdown
from benchmarks.results import CaseResult, Entry, Run
from benchmarks.timing import Pace, Rounds, Spread, time_in_turn
from intaglio.graph_passes.examples import Call


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


# ---- Coverage ------------------------------------------------------------------------------------------


@dataclass
class Answer:
    logits: Tensor
    classes: Tensor
    features: tuple[Tensor, ...]


class Fake(Candidate):
    """Quantizes to `form`, and tells of two steps on the way."""

    name = "fake"
    configuration = "-"

    def __init__(self, form: Any) -> None:
        self.form = form

    def quantize(self, subject: Subject, *, is_dynamic: bool, on_step: Any) -> Any:
        on_step("prepare")
        on_step("convert")
        return self.form

    def is_quantized(self, model: Any) -> bool:
        return True


def _subject(*, others: Sequence[Call] = ()) -> Subject:
    calls = [Call((torch.full((1, 2), 1.0 + seed),), {}) for seed in range(4)]
    return Subject(
        nn.Identity(), calls[:2], calls[2:], others, lambda form: {"sum": float(form(torch.ones(2)).sum())}
    )


def _measure(candidate: Candidate, subject: Subject, **keywords: Any) -> tuple[list[str], Outcome]:
    steps: list[str] = []
    outcomes: list[Outcome] = []

    def tell(*, step: str | None = None, outcome: Outcome | None = None) -> None:
        steps.extend([step] if step else [])
        outcomes.extend([outcome] if outcome else [])

    settings = {"is_dynamic": False, "is_compiled": True, "pace": Pace(0, 2)} | keywords
    measure_candidate(subject, candidate, tell=tell, **settings)
    return steps, outcomes[-1]


def _outcome(sqnr: float, ratio: float | None, **keywords: Any) -> Outcome:
    spread = None if ratio is None else _spread(ratio)
    fields = {"quantized": True, "float_seconds": _spread(5e-3), "disturbance": 0.0}
    return Outcome(sqnr=sqnr, ratio=spread, **(fields | keywords))


@pytest.fixture
def models() -> list[ModelCoverage]:
    refused = Outcome(failed_at="prepare", error="TraceError: a | b", others=2)
    plain = {
        "intaglio": _outcome(
            25.0, 4.0, graphs=[""], macs=200, int8_macs=190, others=2, others_taken=2, sqnr_others=22.0
        ),
        "legacy FX, x86": _outcome(19.0, 3.0, others=2, others_taken=1),
        "legacy FX, onednn": _outcome(19.5, 2.0, others=2, others_taken=2),
        "torchao PT2E": _outcome(21.0, None, others=2),
    }
    hard = {
        "intaglio": _outcome(
            14.0,
            0.25,
            graphs=["", "a", "b"],
            left={"": "it loops"},
            floats={"a.x": "no int8 form", "a.y": "no int8 form"},
            others=1,
            scores={"hits": 0.5},
            float_scores={"hits": 0.75, "perplexity": 30.0},
        ),
        "legacy FX, x86": refused,
        "legacy FX, onednn": refused,
        "torchao PT2E": _outcome(200.0, 1.0, quantized=False),
    }
    return [ModelCoverage("Plain", False, False, plain), ModelCoverage("Hard", True, True, hard)]


def test_sqnr_is_that_of_all_float_tensors_together() -> None:
    exact = Answer(torch.tensor([3.0, 0.0]), torch.tensor([1]), (torch.tensor([4.0]),))
    found = Answer(torch.tensor([3.0, 0.3]), torch.tensor([2]), (torch.tensor([4.4]),))
    assert measure_sqnr(exact, found) == pytest.approx(20 * math.log10(5.0 / 0.5))
    assert measure_sqnr({"a": torch.ones(2), "b": 7}, {"a": torch.full((2,), 1.1), "b": 8}) == pytest.approx(
        20.0
    )
    assert measure_sqnr(exact, exact) == 200.0
    assert measure_sqnr(torch.zeros(1), torch.ones(1)) == -200.0


def test_outputs_that_cannot_be_compared_have_no_sqnr() -> None:
    with pytest.raises(ValueError, match="no float tensor"):
        measure_sqnr(torch.tensor([1]), torch.tensor([1]))
    with pytest.raises(ValueError, match=r"shape \(1, 2\), not \(2,\)"):
        measure_sqnr(torch.ones(2), torch.ones(1, 2))
    with pytest.raises(ValueError, match="not finite"):
        measure_sqnr(torch.ones(2), torch.tensor([1.0, torch.nan]))
    with pytest.raises(ValueError, match="argument 2 is shorter"):
        measure_sqnr([torch.ones(2), torch.ones(2)], [torch.ones(2)])


def test_errors_are_told_in_one_line() -> None:
    assert describe_error(ValueError("no\nmore")) == "ValueError: no"
    assert describe_error(KeyError()) == "KeyError"
    assert len(describe_error(ValueError("x" * 1000))) == 160


def test_a_tool_is_compared_timed_and_scored() -> None:
    others = [Call((torch.ones(3, 2),), {}), Call((torch.ones(1, 3),), {})]

    def form(x: Tensor) -> Tensor:
        assert x.shape[-1] == 2
        return x * (1.01 if len(x) > 1 else 1.1)

    steps, outcome = _measure(Fake(form), _subject(others=others))
    assert steps == ["prepare", "convert", "run", "time", "score"]
    assert outcome.sqnr == pytest.approx(20.0, abs=1e-4)
    assert outcome.sqnr_others == pytest.approx(40.0, abs=1e-3)
    assert (outcome.others, outcome.others_taken) == (2, 1)
    assert outcome.ratio is not None
    assert outcome.scores == {"sum": pytest.approx(2.02)}
    assert outcome.converts


def test_what_has_to_be_compiled_is_timed_only_where_that_is_wanted() -> None:
    class Compiler(Fake):
        compiles = True

        def compile(self, model: Any, call: Call) -> Any:
            return lambda x: 1.01 * model(x)

    steps, outcome = _measure(Compiler(lambda x: x), _subject())
    assert steps == ["prepare", "convert", "run", "compile", "time", "score"]
    assert outcome.sqnr == pytest.approx(40.0, abs=1e-3)
    steps, outcome = _measure(Compiler(lambda x: x), _subject(), is_compiled=False)
    assert steps == ["prepare", "convert", "run", "score"]
    assert (outcome.ratio, outcome.sqnr) == (None, 200.0)
    assert outcome.converts


def test_the_legacy_engine_shown_is_the_better_one(models: list[ModelCoverage]) -> None:
    plain, hard = models
    # Within 1 dB the faster one.
    assert better_legacy(plain) is plain.outcomes["legacy FX, x86"]
    accurate = plain.outcomes | {"legacy FX, onednn": _outcome(30.0, 0.5)}
    assert better_legacy(replace(plain, outcomes=accurate)) is accurate["legacy FX, onednn"]
    failing = plain.outcomes | {"legacy FX, x86": hard.outcomes["legacy FX, x86"]}
    assert better_legacy(replace(plain, outcomes=failing)) is plain.outcomes["legacy FX, onednn"]
    assert better_legacy(hard) is hard.outcomes["legacy FX, x86"]


def test_the_summary_counts_what_converts(models: list[ModelCoverage]) -> None:
    assert summarise(models) == [
        ["intaglio", "2 of 2", "1", "1", "1.00", "1 of 2", "1"],
        ["legacy FX", "1 of 2", "0", "1", "3.00", "0 of 1", "0"],
        ["torchao PT2E", "1 of 2", "1", "1", "-", "0 of 0", "0"],
    ]


def test_the_table_of_coverage_shows_defeats_and_reasons(models: list[ModelCoverage]) -> None:
    report = "\n\n".join(render_coverage(models))
    assert (
        "| Plain | whole | 95% | 0 | 0 | 25.0 | 22.0 (2 of 2) | 5.0 | 4.00 | 19.0 | 3.00 | 21.0 | - |"
        in report
    )
    assert (
        "| **R** Hard | whole, 2 parts apart | - | 2 | 1 | 14.0 | 0 of 1 | 5.0 | **0.25** "
        "| prepare: TraceError | - | all in float | - |" in report
    )
    assert "| Hard | hits | 0.750 | 0.500 | - | - |" in report
    assert "| Hard | perplexity | 30.00 | - | - | - |" in report
    assert "- no int8 form: Hard (2)" in report
    assert "- it loops: Hard (1)" in report
    assert "- legacy FX, prepare: `TraceError: a | b`: Hard\n" in report + "\n"
    for table in report.split("\n\n"):
        if table.startswith("|"):
            assert len({line.replace("\\|", "").count("|") for line in table.splitlines()}) == 1


def test_coverage_survives_its_file(run: Run, models: list[ModelCoverage], tmp_path: Path) -> None:
    run.coverage += models
    run.write(tmp_path / "results.json")
    assert Run.read(tmp_path / "results.json") == run
    assert [model_from_dict(asdict(model)) for model in models] == models
    assert "## Coverage" in render_markdown(run)
    alone = render_markdown(Run(_environment(), {}, coverage=models))
    assert "## Goals" not in alone
    assert "marked *" not in alone


class Fails(Fake):
    """Ends as told, after a step."""

    name = "fails"

    def __init__(self) -> None:
        super().__init__(None)

    def quantize(self, subject: Subject, *, is_dynamic: bool, on_step: Any) -> Any:
        on_step("prepare")
        return self.end()

    def end(self) -> Any:
        raise RuntimeError("cannot\nat all")


class Crashes(Fails):
    def end(self) -> Any:
        os._exit(3)


class Hangs(Fails):
    def end(self) -> Any:
        time.sleep(60)


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
@pytest.mark.parametrize(
    ("kind", "error"),
    [
        (Fails, "RuntimeError: cannot"),
        (Crashes, "the process died with 3"),
        (Hangs, "over 0.5 s"),
    ],
)
def test_a_tool_that_fails_ends_no_other(
    kind: type[Candidate], error: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "STEP_SECONDS", 0.5)
    monkeypatch.setattr(processes, "CANDIDATES", (kind,))
    monkeypatch.setattr(processes, "list_subjects", lambda quick: [SubjectName("Plain", _subject)])
    (model,) = processes.measure_models(quick=True, doing=lambda what: None)
    outcome = model.outcomes["fails"]
    assert (outcome.failed_at, outcome.error) == ("prepare", error)
    assert not outcome.converts


def test_every_architecture_is_covered_and_calibrates_on_inputs_of_its_own() -> None:
    names = list_subjects()
    assert len({name.name for name in names}) == len(names) >= 48
    assert {name.name for name in names if name.is_compiled} == COMPILED
    subject = next(name for name in names if name.name == "Text CNN").make()
    assert (len(subject.calibration), len(subject.compared), len(subject.others)) == (8, 4, 2)
    seen = [call.args[0] for call in (*subject.calibration, *subject.compared)]
    assert not any(torch.equal(x, y) for i, x in enumerate(seen) for y in seen[:i])
