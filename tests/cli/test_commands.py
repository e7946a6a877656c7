"""The command line as a whole: help, versions, errors, where words go; and `intaglio inspect`."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import Result
from torch import nn

import intaglio

Run = Callable[..., Result]


def test_help_names_every_command(run: Run) -> None:
    result = run("--help")
    assert result.exit_code == 0
    for name in ("demo", "doctor", "inspect"):
        assert name in result.stdout
        assert "--json" in run(name, "-h").stdout


def test_version(run: Run) -> None:
    assert run("--version").stdout == f"intaglio, version {intaglio.__version__}\n"


def test_unknown_command(run: Run) -> None:
    assert run("engrave").exit_code == 2


def test_without_its_libraries_it_says_how_to_get_them() -> None:
    script = "import sys; sys.modules['rich'] = None; from intaglio.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "pip install 'intaglio[demo]'" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    model = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.LayerNorm(64), nn.Linear(64, 8))
    path = tmp_path / "model.safetensors"
    intaglio.save(intaglio.quantize_dynamic(model, {"0"}), path)
    return path


def test_inspect(run: Run, saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    result = run("inspect", str(saved))
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    (layer,) = (line for line in lines if "in_features=32" in line)
    # 32 x 64 int8 weights, 64 float32 scales and biases.
    assert "2.56 kB" in layer
    (weight,) = (line for line in lines if "3.weight" in line)
    assert "float32 8 x 64" in weight
    assert "not asked for" in weight
    assert intaglio.__version__ in result.stdout
    assert torch.__version__ in result.stdout


def test_inspect_json(run: Run, saved: Path) -> None:
    found = json.loads(run("inspect", "--json", str(saved)).stdout)
    assert found["intaglio_version"] == intaglio.__version__
    assert [module["path"] for module in found["modules"] if module["quantized"]] == ["0"]
    assert {"name": "3.bias", "dtype": "float32", "shape": [8], "bytes": 32} in found["tensors"]


def test_inspect_of_what_is_no_model(run: Run, saved: Path, tmp_path: Path) -> None:
    truncated = tmp_path / "truncated.safetensors"
    truncated.write_bytes(saved.read_bytes()[:-1])
    for path, message in (
        (truncated, "truncated.safetensors"),
        (tmp_path / "absent", "cannot be read: No such"),
    ):
        result = run("inspect", str(path))
        assert result.exit_code == 1
        assert result.stdout == ""
        assert result.stderr.startswith("Error: ")
        assert message in result.stderr
        assert "Traceback" not in result.stderr


def test_errors_are_json_too(run: Run, tmp_path: Path) -> None:
    (tmp_path / "junk").write_bytes(b"junk")
    result = run("inspect", "--json", str(tmp_path / "junk"))
    assert result.exit_code == 1
    error = json.loads(result.stdout)["error"]
    assert error["type"] == "FileFormatError"
    assert "junk" in error["message"]
