"""Memory of a process that holds one model: measured in real processes, with random weights."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest
from safetensors.torch import save_file

import intaglio
from intaglio.demo.footprint import measure_footprint
from intaglio.demo.subjects import SUBJECTS
from intaglio.errors import IntaglioError

pytestmark = pytest.mark.skipif(platform.system() != "Linux", reason="only Linux tells a process its memory")


def test_int8_takes_less(tmp_path: Path) -> None:
    subject = SUBJECTS["voice"]
    model = subject.build().eval()
    save_file(model.state_dict(), tmp_path / "float32")
    intaglio.save(subject.quantize(model), tmp_path / "int8")
    found = {form: measure_footprint("voice", form, tmp_path / form) for form in ("float32", "int8")}
    before, after = found["float32"], found["int8"]
    assert before is not None
    assert after is not None
    weights = sum(parameter.numel() for parameter in model.parameters()) * 4
    # Room for allocators and for code that is first run by a larger model.
    assert weights <= before.model <= weights + 8e6
    assert weights / 4 <= after.model <= weights / 4 + 4e6
    assert after.model < before.model
    for footprint in (before, after):
        assert footprint.model < footprint.process <= footprint.peak


def test_failure_is_told(tmp_path: Path) -> None:
    (tmp_path / "junk").write_bytes(b"junk")
    with pytest.raises(IntaglioError, match=r"memory of voice in int8 failed: .*FileFormatError"):
        measure_footprint("voice", "int8", tmp_path / "junk")
