"""The accuracy that is promised, on real weights and real labelled data.

Float32's own figures are pinned first: if they are off, so is everything that is compared with them.
"""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from torch import Tensor, nn

from intaglio.demo.scoring import row_cosines, sqnr_db
from intaglio.demo.subjects import SUBJECTS
from intaglio.demo.text_tasks import TextTasks, embed, score_texts
from intaglio.demo.voice_tasks import VoiceTask, embed_voices, identify_voices, score_voices

pytestmark = pytest.mark.real

Texts = dict[str, Tensor]
Voices = dict[str, Tensor]


@pytest.fixture(scope="module")
def voices(voice_encoder: nn.Module, voice_task: VoiceTask) -> Voices:
    forms = {"float32": voice_encoder, "int8": SUBJECTS["voice"].quantize(voice_encoder)}
    return {form: embed_voices(model, voice_task) for form, model in forms.items()}


@pytest.fixture(scope="module")
def float_texts(minilm: nn.Module, text_tasks: TextTasks) -> Texts:
    return {name: embed(minilm, texts) for name, texts in text_tasks.parts.items()}


@pytest.fixture(scope="module")
def int8_texts(minilm: nn.Module, text_tasks: TextTasks) -> Texts:
    quantized = SUBJECTS["minilm"].quantize(minilm)
    return {name: embed(quantized, texts) for name, texts in text_tasks.parts.items()}


def test_float_scores_are_the_known_ones(text_tasks: TextTasks, float_texts: Texts) -> None:
    assert score_texts(text_tasks, float_texts) == pytest.approx(
        {
            "BoolQ retrieval, accuracy at 1": 0.9583,
            "BoolQ retrieval, mean reciprocal rank": 0.9740,
            "Lee50, Pearson": 0.6564,
            "WordSim353, Spearman": 0.7289,
            "SimLex999, Spearman": 0.4462,
        },
        abs=1e-3,
    )


def test_retrieval_stays(text_tasks: TextTasks, float_texts: Texts, int8_texts: Texts) -> None:
    before, after = _both(text_tasks, float_texts, int8_texts, "BoolQ retrieval, accuracy at 1")
    assert abs(after - before) <= 0.003


@pytest.mark.parametrize("name", ["Lee50, Pearson", "WordSim353, Spearman", "SimLex999, Spearman"])
def test_similarities_stay(text_tasks: TextTasks, float_texts: Texts, int8_texts: Texts, name: str) -> None:
    before, after = _both(text_tasks, float_texts, int8_texts, name)
    assert abs(after - before) <= 0.005


@pytest.mark.parametrize(
    ("name", "least"),
    # Sentences, and single words: in a text of three tokens less noise averages out.
    [("questions", 25.0), ("passages", 25.0), ("Lee50", 25.0), ("WordSim353", 23.0), ("SimLex999", 23.0)],
)
def test_text_embeddings_stay(float_texts: Texts, int8_texts: Texts, name: str, least: float) -> None:
    assert sqnr_db(float_texts[name], int8_texts[name]) >= least
    assert row_cosines(float_texts[name], int8_texts[name]).mean() >= 0.997


def test_float_voice_scores_are_the_known_ones(voice_task: VoiceTask, voices: Voices) -> None:
    assert score_voices(voice_task, voices["float32"]) == pytest.approx(
        {"voice identification, accuracy": 0.976, "voice verification, equal error rate": 0.165}, abs=5e-3
    )


def test_voices_are_recognized_as_before(voice_task: VoiceTask, voices: Voices) -> None:
    scores = {form: score_voices(voice_task, embeddings) for form, embeddings in voices.items()}
    assert scores["int8"]["voice identification, accuracy"] == pytest.approx(
        scores["float32"]["voice identification, accuracy"]
    )
    before, after = (identify_voices(voice_task, embeddings) for embeddings in voices.values())
    assert (before == after).double().mean() >= 0.99


def test_voice_embeddings_stay(voices: Voices) -> None:
    before, after = (embeddings.flatten(0, 1) for embeddings in voices.values())
    assert sqnr_db(before, after) >= 25.0
    assert row_cosines(before, after).mean() >= 0.998


def _both(tasks: TextTasks, before: Texts, after: Texts, name: str) -> tuple[float, float]:
    scores: list[Mapping[str, float]] = [score_texts(tasks, texts) for texts in (before, after)]
    return scores[0][name], scores[1][name]
