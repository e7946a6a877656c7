"""The demo's networks: shapes, padding, and checkpoints that are not theirs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from intaglio.demo.errors import CarrierError
from intaglio.demo.minilm import MiniLM, load_minilm
from intaglio.demo.voice_encoder import VoiceEncoder, load_voice_encoder
from intaglio.demo.wordpiece import pad_batch


@pytest.fixture
def small() -> nn.Module:
    return MiniLM(vocabulary=50, width=16, heads=4, feedforward=32, layers=2, positions=20).eval()


def test_padding_changes_nothing(small: nn.Module) -> None:
    texts = [[1, 2, 3, 4, 5, 6, 7], [8, 9, 10]]
    together = small(*pad_batch(texts))
    alone = torch.cat([small(torch.tensor([text])) for text in texts])
    torch.testing.assert_close(together, alone)
    torch.testing.assert_close(together.norm(dim=1), torch.ones(2))


def test_order_of_words_matters(small: nn.Module) -> None:
    assert not torch.allclose(small(torch.tensor([[1, 2, 3]])), small(torch.tensor([[3, 2, 1]])))


def test_voice_embeddings_have_length_one() -> None:
    embeddings = VoiceEncoder(mels=4, width=8, layers=2)(torch.rand(3, 5, 4))
    assert embeddings.shape == (3, 8)
    torch.testing.assert_close(embeddings.norm(dim=1), torch.ones(3))


def test_damaged_checkpoints(tmp_path: Path) -> None:
    path = tmp_path / "model"
    for load, whose in ((load_minilm, "MiniLM"), (load_voice_encoder, "Resemblyzer's encoder")):
        for damage in (b"", b"garbage" * 100):
            path.write_bytes(damage)
            with pytest.raises(CarrierError, match=f"the weights of {whose} cannot be read"):
                load(path)
        with pytest.raises(CarrierError, match="cannot be read"):
            load(tmp_path / "absent")


def test_checkpoints_of_other_networks(tmp_path: Path) -> None:
    path = tmp_path / "model"
    save_file({"encoder.layer.0.attention.self.query.weight": torch.zeros(4, 4)}, path)
    with pytest.raises(CarrierError, match="not the weights of all-MiniLM-L6-v2"):
        load_minilm(path)
    torch.save({"model_state": VoiceEncoder(width=8).state_dict()}, path)
    with pytest.raises(CarrierError, match="not the weights of Resemblyzer's encoder"):
        load_voice_encoder(path)
    torch.save({"state": {}}, path)
    with pytest.raises(CarrierError, match="no 'model_state'"):
        load_voice_encoder(path)


def test_a_checkpoint_with_code_is_not_run(tmp_path: Path) -> None:
    path = tmp_path / "model"
    torch.save({"model_state": {"a": _RunsCode()}}, path)
    with pytest.raises(CarrierError, match="cannot be read"):
        load_voice_encoder(path)


class _RunsCode:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return pytest.fail, ("code of a checkpoint was run",)
