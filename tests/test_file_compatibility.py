"""Files of earlier versions load for ever: pytorch/ao#2948, #2967 dropped theirs after nine months."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import intaglio
from intaglio.files.recipe import FORMAT_VERSION
from tests.file_models import assert_same

DATA = Path(__file__).parent / "data"
FILES = sorted(file for file in DATA.glob("format-*.safetensors") if ".expected." not in file.name)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_loads(file: Path) -> None:
    expected = load_file(file.with_suffix(".expected.safetensors"))
    loaded = intaglio.load(file)
    state = {f"state.{name}": tensor for name, tensor in loaded.state_dict().items()}
    assert state.keys() == expected.keys() - {"x", "y"}
    for name, tensor in state.items():
        assert_same(tensor, expected[name])
    # LayerNorm and GELU are torch's, whose bits may change from one of its versions to the next.
    torch.testing.assert_close(loaded(expected["x"]), expected["y"], rtol=1e-6, atol=1e-6)


def test_there_are_files_of_this_version() -> None:
    version = "{}.{}".format(*FORMAT_VERSION)
    assert {file.name for file in FILES} >= {
        f"format-{version}-{way}.safetensors" for way in ("modules", "graph")
    }
    assert all(file.stat().st_size < 10_000 for file in DATA.iterdir() if file.is_file())
