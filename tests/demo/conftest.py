"""Fixtures of the demo's tests: the carriers' files, fetched once, or skipped where that is impossible."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch import nn

from intaglio.demo.carriers import BOOLQ, MINILM, SIMILARITIES, VOICE_ENCODER, Carrier, cache_folder, locate
from intaglio.demo.errors import CarrierError
from intaglio.demo.minilm import load_minilm
from intaglio.demo.text_tasks import TextTasks, read_text_tasks
from intaglio.demo.voice_encoder import load_voice_encoder
from intaglio.demo.voice_tasks import VoiceTask, read_voice_task
from intaglio.demo.voices import find_voices
from intaglio.demo.wordpiece import WordPiece


def _ignore(label: str, done: float, total: float) -> None:
    pass


def _files(*carriers: Carrier) -> dict[str, Path]:
    files: dict[str, Path] = {}
    try:
        for carrier in carriers:
            files |= locate(carrier, cache_folder(), _ignore)
    except CarrierError as error:
        pytest.skip(str(error))
    return files


@pytest.fixture(scope="session")
def minilm_files() -> dict[str, Path]:
    return _files(MINILM)


@pytest.fixture(scope="session")
def text_files(minilm_files: dict[str, Path]) -> dict[str, Path]:
    return minilm_files | _files(BOOLQ, SIMILARITIES)


@pytest.fixture(scope="session")
def tokenizer(minilm_files: dict[str, Path]) -> WordPiece:
    return WordPiece(minilm_files["vocab.txt"])


@pytest.fixture(scope="session")
def minilm(minilm_files: dict[str, Path]) -> nn.Module:
    return load_minilm(minilm_files["model.safetensors"])


@pytest.fixture(scope="session")
def text_tasks(text_files: dict[str, Path], tokenizer: WordPiece) -> TextTasks:
    """A fifth of the demo's questions, which is what CI has time for; all of the rest."""
    return read_text_tasks(text_files, tokenizer, queries=120)


@pytest.fixture(scope="session")
def voice_encoder() -> nn.Module:
    return load_voice_encoder(_files(VOICE_ENCODER)["pretrained.pt"])


@pytest.fixture(scope="session")
def voice_task() -> VoiceTask:
    voices = find_voices(cache_folder(), _ignore)
    if not voices.folders:
        pytest.skip(voices.missing)
    return read_voice_task(voices.folders)
