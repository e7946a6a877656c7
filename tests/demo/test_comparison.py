"""The comparison from a network to its report, on tiny networks and a few inputs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from intaglio.demo import comparison
from intaglio.demo.comparison import compare_minilm, compare_voice_encoder
from intaglio.demo.footprint import Footprint
from intaglio.demo.scoring import spearman
from intaglio.demo.subjects import SUBJECTS
from intaglio.demo.text_tasks import Retrieval, Similarity, TextTasks
from intaglio.demo.voice_tasks import VoiceTask, synthetic_task

Told = list[tuple[str, float, float]]


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small shapes, no time spent on timing, and no process of its own for memory."""

    def measure(key: str, form: str, file: Path) -> Footprint:
        assert file.stat().st_size > 0
        return Footprint(model=400 if form == "float32" else 100, process=1000, peak=2000)

    subjects = {
        key: replace(subject, shapes=tuple((batch, 4) for batch, _ in subject.shapes))
        for key, subject in SUBJECTS.items()
    }
    monkeypatch.setattr(comparison, "SUBJECTS", subjects)
    monkeypatch.setattr(comparison, "LATENCY_SECONDS", 0.0)
    monkeypatch.setattr(comparison, "measure_footprint", measure)


@pytest.fixture
def tiny_text() -> nn.Module:
    return SUBJECTS["minilm"].build_tiny().eval()


def _tasks() -> TextTasks:
    texts = [[1, 2, 3], [4, 5], [6, 7, 8, 1], [2]]
    verdicts = torch.tensor([3.0, 1.0, 2.0], dtype=torch.float64)
    pairs = Similarity("Pairs", texts, torch.tensor([[0, 1, 2], [1, 2, 3]]), verdicts, spearman)
    return TextTasks(Retrieval(texts, texts[:3], torch.tensor([0, 1, 2, 0])), (pairs,))


def test_text_model(tiny_text: nn.Module) -> None:
    told: Told = []
    before = {name: tensor.clone() for name, tensor in tiny_text.state_dict().items()}
    report = compare_minilm(tiny_text, _tasks(), lambda *what: told.append(what))
    assert report.quantized == 9  # 6 Linear, 3 Embedding
    assert report.layers == 12
    assert report.data == "BoolQ: 4 questions, each to find its passage among 3"
    assert report.file_bytes.ratio > 1.5
    assert report.resident_bytes is not None
    assert report.resident_bytes.ratio == 4.0
    assert [(latency.batch, latency.length) for latency in report.latencies] == [(1, 4), (1, 4), (8, 4)]
    assert all(latency.int8.calls == 10 for latency in report.latencies)
    scores = {score.name: score.value for score in report.scores}
    assert scores["BoolQ retrieval, accuracy at 1"].float32 >= 0.75  # three ask for themselves
    assert "Pairs, Spearman" in scores
    assert [(found.name, found.embeddings) for found in report.fidelity] == [
        ("questions", 4),
        ("passages", 3),
        ("Pairs", 4),
    ]
    assert all(20.0 < found.sqnr_db < 80.0 for found in report.fidelity)
    assert all(0.99 < found.lowest_cosine <= found.mean_cosine < 1.0 for found in report.fidelity)
    # Every bar ends full, and the float model is as it was.
    last = {label: (done, total) for label, done, total in told}
    assert all(done == total for done, total in last.values())
    assert all(torch.equal(before[name], tensor) for name, tensor in tiny_text.state_dict().items())


def test_voice_encoder_without_voices() -> None:
    model = SUBJECTS["voice"].build_tiny().eval()
    task = synthetic_task(voices=2, utterances=11)
    report = compare_voice_encoder(model, task, "there are none", lambda *what: None)
    assert report.scores == ()
    assert "no recorded voices (there are none)" in report.data
    assert report.fidelity[0].embeddings == 22


def test_voice_encoder_with_voices() -> None:
    model = SUBJECTS["voice"].build_tiny().eval()
    frames = torch.rand(3, 12, 160, 40)
    report = compare_voice_encoder(
        model, VoiceTask(("a_A", "b_B", "c_C"), frames, 10), "", lambda *what: None
    )
    assert [score.name.partition(",")[0] for score in report.scores] == [
        "voice identification",
        "voice verification",
    ]
    assert report.data == "3 voices; of each, 10 utterances enrolled, 2 tested"


def test_report_is_json(tiny_text: nn.Module) -> None:
    from intaglio.demo.results import DemoReport
    from intaglio.machine import describe_machine

    model = compare_minilm(tiny_text, _tasks(), lambda *what: None)
    report = DemoReport(describe_machine(), {"torch": torch.__version__}, (model,), 1.0)
    again = json.loads(json.dumps(report.to_dict()))
    assert again["models"][0]["latencies"][0]["int8"]["calls"] == 10
    assert again["machine"]["isa"] in again["machine"]["available_isas"]
