"""Reading labelled data and scoring on it, with a few lines of each file's layout."""

from __future__ import annotations

import json
import wave
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from intaglio.demo.errors import CarrierError
from intaglio.demo.text_tasks import TextTasks, embed, read_text_tasks, score_texts
from intaglio.demo.voice_tasks import VoiceTask, embed_voices, read_voice_task, score_voices, synthetic_task
from intaglio.demo.wordpiece import WordPiece

LETTERS = "abcdefgh"


@pytest.fixture
def tokenizer(tmp_path: Path) -> WordPiece:
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *LETTERS]))
    return WordPiece(path)


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """Questions a, b, c about passages `a h`, `b h`, `a h` again; words and documents of one letter."""
    rows = [{"question": q, "passage": p} for q, p in (("a", "a h"), ("b", "b h"), ("c", "a h"), ("d", "d"))]
    contents = {
        "dev.jsonl": "".join(json.dumps(row) + "\n" for row in rows).encode(),
        "lee.cor": "a\nb \xa3\nc\n".encode("latin-1"),
        "similarities0-1.txt": b"1 0.5 0.25\n0 1 0.75\n0 0 1\n",
        "wordsim353.tsv": b"# comment\na\tb\t1.5\nb\tc\t9\na\tc\t2\n",
        "simlex999.txt": b"# comment\na\ta\t9\nb\tc\t1\na\td\t0\n",
    }
    paths = {}
    for name, content in contents.items():
        paths[name] = tmp_path / name
        paths[name].write_bytes(content)
    return paths


class _Letters(nn.Module):
    """Embeds a text as the share of each letter in it."""

    def forward(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        counts = F.one_hot(ids, 4 + len(LETTERS))[..., 4:].sum(1).float()
        return F.normalize(counts, dim=-1)


@pytest.fixture
def tasks(files: dict[str, Path], tokenizer: WordPiece) -> TextTasks:
    return read_text_tasks(files, tokenizer, queries=3)


def test_labels_are_read(tasks: TextTasks) -> None:
    assert len(tasks.retrieval.questions) == 3
    assert len(tasks.retrieval.passages) == 2
    assert tasks.retrieval.answers.tolist() == [0, 1, 0]
    lee, wordsim, simlex = tasks.similarities
    assert lee.pairs.tolist() == [[0, 0, 1], [1, 2, 2]]
    assert lee.verdicts.tolist() == [0.5, 0.25, 0.75]
    assert wordsim.pairs.tolist() == [[0, 1, 0], [1, 2, 2]]
    assert wordsim.verdicts.tolist() == [1.5, 9.0, 2.0]
    assert len(simlex.texts) == 4


def test_scores(tasks: TextTasks) -> None:
    embeddings = {name: embed(_Letters(), texts) for name, texts in tasks.parts.items()}
    scores = score_texts(tasks, embeddings)
    # Questions a and b find their passages; c has no letter of its own, and a tie goes to the first.
    assert scores["BoolQ retrieval, accuracy at 1"] == 1.0
    assert scores["SimLex999, Spearman"] == pytest.approx(3**0.5 / 2)
    assert set(scores) == {
        "BoolQ retrieval, accuracy at 1",
        "BoolQ retrieval, mean reciprocal rank",
        "Lee50, Pearson",
        "WordSim353, Spearman",
        "SimLex999, Spearman",
    }


def test_embeddings_come_in_the_texts_order() -> None:
    texts = [[4 + i % 8] * (1 + i * 7 % 13) for i in range(30)]
    told: list[int] = []
    embeddings = embed(_Letters(), texts, on_batch=told.append)
    assert embeddings.argmax(1).tolist() == [i % 8 for i in range(30)]
    assert sum(told) == 30


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("dev.jsonl", b'{"question": 1}\n'),
        ("dev.jsonl", b"not json\n"),
        ("simlex999.txt", b"a b 1\n"),
        ("similarities0-1.txt", b"1 2\nx 1\n"),
    ],
)
def test_damaged_data(files: dict[str, Path], tokenizer: WordPiece, name: str, content: bytes) -> None:
    files[name].write_bytes(content)
    with pytest.raises(CarrierError, match="the labelled texts cannot be read"):
        read_text_tasks(files, tokenizer, queries=3)


def _record(folder: Path, count: int, seconds: float = 1.8) -> None:
    folder.mkdir(parents=True)
    for index in range(count):
        with wave.open(str(folder / f"{index:02}.wav"), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(8000)
            noise = torch.randint(-9000, 9000, (int(8000 * seconds),), dtype=torch.int16)
            file.writeframes(noise.numpy().tobytes())


def test_utterances_are_chosen(tmp_path: Path) -> None:
    _record(tmp_path / "en_X", 5)
    _record(tmp_path / "en_X" / "short", 20, seconds=1.0)
    _record(tmp_path / "en_X" / "silence", 20)
    _record(tmp_path / "fr_Y", 9)
    folders = {"en_X": tmp_path / "en_X", "fr_Y": tmp_path / "fr_Y"}
    task = read_voice_task(folders, enrolled=2, tested=3)
    assert task.frames.shape == (2, 5, 160, 40)
    assert task.names == ("en_X", "fr_Y")
    with pytest.raises(CarrierError, match=r"en_X: 5 utterances of en_X found, 6 needed"):
        read_voice_task(folders, enrolled=2, tested=4)


def test_voices_are_told_apart() -> None:
    # Two people of three voices: the first and the second are one.
    embeddings = torch.zeros(3, 4, 3)
    embeddings[0, :, 0] = embeddings[1, :, 0] = embeddings[2, :, 2] = 1.0
    embeddings[1, :, 1] = 0.5
    task = VoiceTask(("en_Ann", "es_Ann", "fr_Bob"), torch.zeros(3, 4, 160, 40), enrolled=2)
    scores = score_voices(task, F.normalize(embeddings, dim=-1))
    assert scores == {
        "voice identification, accuracy": 1.0,
        "voice verification, equal error rate": 0.0,
    }
    embeddings[2, 3] = embeddings[0, 0]
    scores = score_voices(task, F.normalize(embeddings, dim=-1))
    assert scores["voice identification, accuracy"] == pytest.approx(5 / 6)
    assert scores["voice verification, equal error rate"] > 0.0


def test_synthetic_audio_is_the_same_everywhere_and_names_nobody() -> None:
    task = synthetic_task(voices=1, utterances=3)
    assert task.frames.shape == (1, 3, 160, 40)
    assert torch.equal(task.frames, synthetic_task(voices=1, utterances=3).frames)
    assert torch.isfinite(task.frames).all()
    told: list[int] = []
    embeddings = embed_voices(_MeanFrame(), task, on_batch=told.append)
    assert embeddings.shape == (1, 3, 40)
    assert sum(told) == 3
    assert score_voices(task, embeddings) == {}


class _MeanFrame(nn.Module):
    def forward(self, mels: Tensor) -> Tensor:
        return mels.mean(1)
