"""The example that trains on Fashion-MNIST: its records and table, and a quick run on the real pictures."""

from __future__ import annotations

import gzip
import re
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from examples.fashion_mnist import __main__ as command
from examples.fashion_mnist.data import _read_idx, read_fashion_mnist
from examples.fashion_mnist.report import Run, Score, render_markdown, spread_of
from examples.fashion_mnist.study import _Pace
from examples.fashion_mnist.train import Network, augment, normalize, predict
from intaglio.demo.errors import CarrierError

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "examples" / "fashion_mnist" / "results"


@pytest.fixture
def run() -> Run:
    scores = [
        Score(0, "float", 32, 92.0),
        Score(0, "PTQ", 4, 90.0),
        Score(0, "QAT", 4, 91.5, simulated=91.51, changed=3),
        Score(1, "float", 32, 91.0),
        Score(1, "PTQ", 4, 90.5),
        Score(1, "QAT", 4, 91.5, simulated=91.49, changed=5),
    ]
    about = {
        "date": "2026-01-02",
        "cpu": "A CPU",
        "isa": "avx2",
        "versions": {"torch": "2.13.0"},
        "judged": 10_000,
        "training": "60,000 pictures.",
    }
    return Run(about, scores)


def test_idx_files_are_read(tmp_path: Path) -> None:
    values = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    path = tmp_path / "images.gz"
    path.write_bytes(
        gzip.compress(bytes([0, 0, 8, 3]) + np.array([2, 3, 4], ">u4").tobytes() + values.tobytes())
    )
    assert torch.equal(_read_idx(path), torch.from_numpy(values))


def test_the_network_is_as_large_as_it_says() -> None:
    assert sum(parameter.numel() for parameter in Network().parameters()) == 70_330


def test_half_of_the_pictures_are_mirrored() -> None:
    pixels = torch.randint(0, 256, (64, 1, 28, 28), dtype=torch.uint8)
    augmented = augment(pixels, torch.Generator().manual_seed(0))
    mirrored = [not torch.equal(new, old) for new, old in zip(augmented, pixels, strict=True)]
    assert 16 < sum(mirrored) < 48
    assert all(torch.equal(augmented[i], pixels[i].flip(2)) for i in range(64) if mirrored[i])


def test_predictions_do_not_depend_on_the_batch() -> None:
    model = Network().eval()
    pixels = torch.randint(0, 256, (10, 1, 28, 28), dtype=torch.uint8)
    with torch.inference_mode():
        expected = model(normalize(pixels))
    assert torch.allclose(predict(model, pixels, batch=3), expected, atol=1e-5)


def test_differences_are_taken_seed_by_seed(run: Run) -> None:
    spread = spread_of(run.scores, "PTQ", 4, minus_float=True)
    assert spread is not None
    assert (spread.mean, spread.deviation) == (-1.25, pytest.approx(1.0607, abs=1e-4))
    assert spread_of(run.scores, "PTQ", 8) is None


def test_runs_round_trip_and_the_table_says_it_all(run: Run, tmp_path: Path) -> None:
    run.write(tmp_path / "results.json")
    assert Run.read(tmp_path / "results.json") == run
    text = render_markdown(run)
    assert "float32: 91.50 ± 0.71" in text
    assert (
        "| 4 bits | 90.25 ± 0.35 | 91.50 ± 0.00 | -1.25 ± 1.06 | 0.00 ± 0.71 | 91.50 ± 0.01 | 3, 5 |" in text
    )


def test_the_picture_is_the_same_for_the_same_figures(run: Run, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from examples.fashion_mnist.plot import draw_accuracy

    paths = [tmp_path / "first.svg", tmp_path / "second.svg"]
    for path in paths:
        draw_accuracy(run, path)
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert b"</svg>" in paths[0].read_bytes()


def test_the_page_says_what_was_found() -> None:
    found = Run.read(RESULTS / "results.json")
    page = (ROOT / "docs" / "fashion-mnist.md").read_text(encoding="utf-8")
    scores = found.scores
    rows = [
        f"| {bits} bits | {spread_of(scores, 'PTQ', bits)} % | {spread_of(scores, 'QAT', bits)} % "
        f"| {spread_of(scores, 'QAT', bits, minus_float=True)} |"
        for bits in (8, 4, 3, 2)
    ]
    assert [line for line in page.splitlines() if re.match(r"\| \d bits", line)] == rows
    assert f"Float32: {spread_of(found.scores, 'float', 32)} %" in page
    changed = [score.changed for score in found.scores if score.method == "QAT"]
    assert (sum(changed), len(changed)) == (0, 12) or "none\nwas classed differently" not in page
    picture = (ROOT / "docs" / "fashion-mnist.svg").read_bytes()
    assert picture == (RESULTS / "accuracy.svg").read_bytes()
    assert (RESULTS / "RESULTS.md").read_text(encoding="utf-8") == render_markdown(found)


def test_progress_says_how_long_all_networks_take(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, float, float]] = []
    monkeypatch.setattr(time, "monotonic", lambda: 50.0)  # when 50 of 600 steps are done
    pace = _Pace(600, lambda *step: seen.append(step), began=0.0)
    first = pace.follow("float", 100)
    for _ in range(50):
        first(0.0)
    assert seen[0] == ("float", 0, 100)
    assert seen[-1] == ("all networks: about 10 min", 50, 600)
    pace.follow("4 bits", 50)(0.0)
    assert seen[-2:] == [("4 bits; about 9 min to go", 1, 50), ("all networks: about 10 min", 51, 600)]


@pytest.mark.real
def test_a_quick_run_learns_and_converts_what_it_learned(tmp_path: Path) -> None:
    try:
        read_fashion_mnist(lambda label, done, total: None)
    except CarrierError as error:
        pytest.skip(str(error))
    result = CliRunner().invoke(command.main, ["--quick", "--output", str(tmp_path)], catch_exceptions=False)
    assert result.exit_code == 0
    assert {"results.json", "RESULTS.md"} <= {path.name for path in tmp_path.iterdir()}
    run = Run.read(tmp_path / "results.json")
    assert [(score.method, score.bits) for score in run.scores] == [
        ("float", 32),
        ("PTQ", 8),
        ("QAT", 8),
        ("PTQ", 4),
        ("QAT", 4),
    ]
    for score in run.scores:
        assert score.accuracy > 60  # chance is 10
        if score.method == "QAT":
            assert score.simulated == pytest.approx(score.accuracy, abs=0.25)  # of 2000 pictures, 5
            assert score.changed is not None
            assert score.changed <= 10
