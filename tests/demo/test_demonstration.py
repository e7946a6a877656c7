"""The whole demo on real weights and data, with few questions and no time for timing."""

from __future__ import annotations

from pathlib import Path

import pytest

from intaglio.demo import comparison, run_demo
from intaglio.demo.subjects import SUBJECTS

pytestmark = pytest.mark.real


def test_both_networks_are_compared(
    text_files: dict[str, Path], voice_encoder: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(comparison, "LATENCY_SECONDS", 0.0)
    report = run_demo(queries=8)
    assert [model.name for model in report.models] == [subject.name for subject in SUBJECTS.values()]
    for model in report.models:
        assert model.file_bytes.ratio > 3.5
        assert len(model.latencies) == 3
        assert all(0.0 <= score.value.int8 <= 1.0 for score in model.scores)
