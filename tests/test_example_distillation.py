"""The example that distils: the recipe on a small network, its page, and a short run on the recogniser."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from torch import Tensor, nn

import intaglio
from examples import distillation
from intaglio.demo.carriers import EASYOCR
from intaglio.demo.scoring import sqnr_db
from tests.demo.conftest import _files

ROOT = Path(__file__).parent.parent


@pytest.fixture
def teacher() -> nn.Module:
    torch.manual_seed(0)
    return intaglio.QuantWrapper(
        nn.Sequential(
            nn.Conv2d(3, 32, 3, padding=1, bias=False),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.Conv2d(32, 32, 3, stride=2),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(288, 10),
        )
    ).eval()


def draw() -> Tensor:
    return torch.rand(16, 3, 8, 8)


def test_distilled_beats_quantized_after_training(teacher: nn.Module) -> None:
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    inputs = torch.rand(256, 3, 8, 8)
    with torch.inference_mode():
        expected = teacher(inputs)
    batches = [draw() for _ in range(8)]
    losses: list[float] = []
    distilled = distillation.distill(
        teacher, draw, steps=100, bits=4, layers=("module.4",), learning_rate=3e-4, on_step=losses.append
    )
    rounded = distillation.quantize_after_training(teacher, batches, bits=4, rounds_weights=True)
    plain = distillation.quantize_after_training(teacher, batches, bits=4)
    found = [sqnr_db(expected, model(inputs)) for model in (distilled, rounded, plain)]
    assert found[0] > found[1] + 0.8
    assert found[0] > found[2] + 0.8
    assert len(losses) == 100
    assert sum(losses[-10:]) < 0.9 * sum(losses[:10])
    # The teacher is as it was, and nothing hangs on it.
    after = teacher.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert not any(module._forward_hooks for module in teacher.modules())
    assert not any(module._forward_hooks for module in distilled.modules())


def test_the_page_says_what_was_found() -> None:
    found = json.loads((ROOT / "examples" / "distillation.json").read_text(encoding="utf-8"))
    page = (ROOT / "docs" / "distillation.md").read_text(encoding="utf-8")
    table = [line for line in page.splitlines() if line.startswith(("| float32", "| 8 bits", "| 4 bits"))]
    assert table == [f"| {' | '.join(row)} |" for row in distillation.rows_of(found["scores"])]
    assert f"{found['about']['words']} words that no form was fitted to" in page
    assert found["about"]["steps"] == distillation.STEPS


@pytest.mark.real
def test_a_short_run_on_the_recogniser(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _files(EASYOCR)
    # Most of the time of so short a run, and tested by itself.
    monkeypatch.setattr(intaglio, "round_weights", lambda fused, batches, qconfig: fused)
    output = tmp_path / "found.json"
    arguments = ["--quick", "--bits", "4", "--output", str(output)]
    result = CliRunner().invoke(distillation.main, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    scores = json.loads(output.read_text(encoding="utf-8"))["scores"]
    assert [score["form"] for score in scores] == ["float32", "after training", "distilled"]
    assert all(score["sqnr_db"] > 13.0 for score in scores[1:])
