"""SmolLM2: a small one by its invariances, the real one by the perplexities that are known of it."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from gguf import GGUFWriter
from tokenizers import Tokenizer
from torch import Tensor, nn

from intaglio.demo.carriers import BOOLQ, SIMILARITIES, SMOLLM2
from intaglio.demo.errors import CarrierError
from intaglio.demo.language_model import LanguageModel, load_language_model, load_tokenizer
from intaglio.demo.language_tasks import perplexity, read_passages, score_passages
from tests.demo.conftest import _files

VOCABULARY = 11


@pytest.fixture(autouse=True)
def _one_thread(_same_start: None) -> None:
    """On a busy machine the threads of small ops wait longer for each other than one would compute."""
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def gguf_file() -> Path:
    return next(iter(_files(SMOLLM2).values()))


@pytest.fixture(scope="module")
def smollm2(gguf_file: Path) -> LanguageModel:
    return load_language_model(gguf_file).requires_grad_(False)


@pytest.fixture(scope="module")
def tokenizer(gguf_file: Path) -> Tokenizer:
    return load_tokenizer(gguf_file)


@pytest.fixture
def small() -> LanguageModel:
    return LanguageModel(vocabulary=30, width=32, heads=4, key_heads=2, feedforward=48, layers=2).eval()


class Uniform(nn.Module):
    """Knows nothing, and counts what it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[int] = []

    def forward(self, ids: Tensor) -> Tensor:
        self.asked += ids[0].tolist()
        return torch.zeros(*ids.shape, VOCABULARY)


def _write_gguf(path: Path, tensors: dict[str, np.ndarray]) -> Path:
    writer = GGUFWriter(path, "llama")
    for name, tensor in tensors.items():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_what_comes_later_changes_nothing_before(small: LanguageModel) -> None:
    ids = torch.randint(0, 30, (2, 12))
    other = ids.clone()
    other[:, 7:] = (other[:, 7:] + 1) % 30
    torch.testing.assert_close(small(ids)[:, :7], small(other)[:, :7])
    assert not torch.allclose(small(ids)[:, 7:], small(other)[:, 7:])


def test_order_matters_and_the_output_is_tied(small: LanguageModel) -> None:
    assert not torch.allclose(
        small(torch.tensor([[1, 2, 3]]))[:, -1], small(torch.tensor([[2, 1, 3]]))[:, -1]
    )
    assert small.output.weight is small.embedding.weight


def test_perplexity_predicts_every_token_but_the_first_once() -> None:
    ids = torch.arange(30) % VOCABULARY
    for context in (1, 7, 29, 30, 100):
        model = Uniform()
        assert perplexity(model, ids, context=context) == pytest.approx(VOCABULARY)
        assert model.asked == ids[:-1].tolist()


def test_files_of_other_networks_and_none(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    for load in (load_language_model, load_tokenizer):
        with pytest.raises(CarrierError, match="the weights of SmolLM2-135M cannot be read"):
            load(path)
    for damage in (b"", b"garbage" * 100, b"GGUF" + bytes(8)):
        path.write_bytes(damage)
        with pytest.raises(CarrierError, match="cannot be read"):
            load_language_model(path)
    _write_gguf(path, {"blk.0.attn_q.weight": np.zeros((64, 32), np.float32)})
    with pytest.raises(CarrierError, match="not the weights of SmolLM2-135M"):
        load_language_model(path)
    with pytest.raises(CarrierError, match="not the tokenizer of SmolLM2-135M"):
        load_tokenizer(path)


def test_texts_that_are_short_or_damaged(tmp_path: Path) -> None:
    words = SimpleNamespace(encode=lambda text: SimpleNamespace(ids=list(range(len(text.split())))))
    files = {"lee_background.cor": tmp_path / "news", "test.jsonl": tmp_path / "articles"}
    with pytest.raises(CarrierError, match="the texts cannot be read"):
        read_passages(files, words, tokens=4)
    files["lee_background.cor"].write_text("one two three four five")
    files["test.jsonl"].write_text("\n".join(json.dumps({"text": word}) for word in ("one", "two three")))
    with pytest.raises(CarrierError, match="Wikipedia: 3 tokens found, 4 needed"):
        read_passages(files, words, tokens=4)
    news, articles = read_passages(files, words, tokens=3)
    assert news.ids.tolist() == articles.ids.tolist() == [0, 1, 2]
    files["test.jsonl"].write_text('{"title": "one"}')
    with pytest.raises(CarrierError, match="KeyError"):
        read_passages(files, words, tokens=3)


@pytest.mark.real
def test_the_tokenizer_gives_the_text_back(tokenizer: Tokenizer) -> None:
    text = "In 1998, Zoë paid £25.\n\tWhy?"
    encoded = tokenizer.encode(text)
    assert tokenizer.decode(encoded.ids) == text
    # Each digit is a token of its own.
    assert [token for token in encoded.tokens if token.isdigit()] == list("199825")


@pytest.mark.real
def test_it_knows_the_capital_of_france(smollm2: LanguageModel, tokenizer: Tokenizer) -> None:
    assert sum(parameter.numel() for parameter in smollm2.parameters()) == 134_515_008
    ids = tokenizer.encode("The capital of France is").ids
    with torch.inference_mode():
        assert tokenizer.decode([int(smollm2(torch.tensor([ids]))[0, -1].argmax())]) == " Paris"


@pytest.mark.real
def test_perplexity_of_real_text(smollm2: LanguageModel, tokenizer: Tokenizer) -> None:
    # The first 257 tokens of each; all 2048 have 34.20 and 40.83.
    files = _files(BOOLQ, SIMILARITIES)
    passages = read_passages(files, tokenizer, tokens=257)
    scores = score_passages(smollm2, passages)
    assert scores == {
        "Lee's news, perplexity": pytest.approx(31.95, rel=2e-3),
        "Wikipedia, perplexity": pytest.approx(75.98, rel=2e-3),
    }
