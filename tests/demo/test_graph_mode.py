"""Graph mode on real weights and real data: what each network keeps of its accuracy.

Calibrated on data that it is not judged by; the networks are the float ones, whatever stubs they carry.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import intaglio
from intaglio import QConfigMapping
from intaglio.demo.carriers import (
    BOOLQ,
    EASYOCR,
    EFFICIENTNET_LITE0,
    MINILM,
    PHOTOS,
    SIMILARITIES,
    SMOLLM2,
    VOICE_ACTIVITY,
    VOICE_ENCODER,
    cache_folder,
)
from intaglio.demo.efficientnet import load_efficientnet_lite0
from intaglio.demo.language_model import load_language_model, load_tokenizer
from intaglio.demo.language_tasks import read_passages, score_passages
from intaglio.demo.minilm import load_minilm
from intaglio.demo.photos import read_photos
from intaglio.demo.recogniser import decode, load_recogniser
from intaglio.demo.rendered_text import draw_page, draw_words, find_boxes, match_boxes
from intaglio.demo.text_detector import load_text_detector
from intaglio.demo.voice_activity import detect_speech, load_voice_activity
from intaglio.demo.voice_activity_tasks import read_activity_task, score_activity
from intaglio.demo.voice_encoder import load_voice_encoder
from intaglio.demo.voices import find_voices
from intaglio.quantize_fx import graph_record
from tests.demo.conftest import _files, _ignore
from tests.fx.quantized_models import sqnr

pytestmark = pytest.mark.real


@pytest.fixture(autouse=True)
def _quickly(_same_start: None) -> Any:
    torch.set_num_threads(1)
    with torch.no_grad():
        yield


def traced_whole(model: nn.Module) -> bool:
    record = graph_record(model)
    return record is not None and record.graphs == [""] and not record.left


def test_efficientnet_lite0() -> None:
    model = load_efficientnet_lite0(next(iter(_files(EFFICIENTNET_LITE0).values())))
    images, labels = read_photos(_files(PHOTOS))
    expected = model(images)
    found = torch.empty_like(expected)
    for half in (slice(0, 10), slice(10, 20)):
        others = torch.cat([images[: half.start], images[half.stop :]])
        quantized = intaglio.auto_quantize(model, others.split(2), progress=False)
        assert traced_whole(quantized)
        found[half] = quantized(images[half])
    assert sqnr(found, expected) >= 22.0
    assert int((found.argmax(1) == expected.argmax(1)).sum()) >= 19
    assert int((found.argmax(1) == labels).sum()) >= 17


def test_the_recogniser_reads_as_well() -> None:
    model = load_recogniser(_files(EASYOCR)["english_g2.pth"])
    words, _ = draw_words(16, seed=1)
    quantized = intaglio.auto_quantize(model, words.split(4), progress=False)
    assert traced_whole(quantized)
    noisy, texts = draw_words(100, noise=0.2, blur=1.0, seed=5)

    def right(reader: nn.Module) -> int:
        read = [text for batch in noisy.split(20) for text in decode(reader(batch))]
        return sum(a == b for a, b in zip(read, texts, strict=True))

    assert sqnr(quantized(noisy[:20]), model(noisy[:20])) >= 30
    assert abs(right(quantized) - right(model)) <= 1


def test_the_detector_finds_the_words() -> None:
    torch.set_num_threads(2)
    model = load_text_detector(_files(EASYOCR)["craft_mlt_25k.pth"])
    pages = [draw_page(seed=seed) for seed in (0, 2)]
    corner = (pages[0].image[..., :128, :128],)  # what it is traced on; it takes any size
    quantized = intaglio.auto_quantize(model, [pages[0].image], example_inputs=corner, progress=False)
    assert traced_whole(quantized)
    page = pages[1]
    expected, found = model(page.image), quantized(page.image)
    assert sqnr(found, expected) >= 25
    scores = [match_boxes(find_boxes(maps[0]), page.boxes) for maps in (expected, found)]
    assert scores[0] == pytest.approx(scores[1], abs=0.01)


def test_the_voice_encoder() -> None:
    model = load_voice_encoder(next(iter(_files(VOICE_ENCODER).values())))
    mels = torch.rand(4, 160, 40, generator=torch.Generator().manual_seed(0)) * 2
    quantized = intaglio.auto_quantize(model, [mels], progress=False)
    assert traced_whole(quantized)
    longer = torch.rand(2, 200, 40, generator=torch.Generator().manual_seed(1)) * 2
    assert sqnr(quantized(longer), model(longer)) >= 22


@pytest.mark.parametrize("method", ["auto", "dynamic"])
def test_minilm(method: Any) -> None:
    files = _files(MINILM)
    model = load_minilm(next(path for name, path in files.items() if name.endswith(".safetensors")))
    generator = torch.Generator().manual_seed(0)
    batches = [torch.randint(1000, 20000, (2, 32), generator=generator) for _ in range(5)]
    data = [(ids, torch.ones_like(ids, dtype=torch.bool)) for ids in batches]
    quantized = intaglio.auto_quantize(model, data[:4], method=method, progress=False)
    assert traced_whole(quantized)
    ids, mask = data[4]
    mask[1, 20:] = False
    assert sqnr(quantized(ids, mask), model(ids, mask)) >= 20
    longer = torch.randint(1000, 20000, (1, 57), generator=generator)
    whole = torch.ones_like(longer, dtype=torch.bool)
    assert sqnr(quantized(longer, whole), model(longer, whole)) >= 20


def test_smollm2_within_one_percent() -> None:
    path = next(iter(_files(SMOLLM2).values()))
    model, tokenizer = load_language_model(path), load_tokenizer(path)
    passages = read_passages(_files(BOOLQ) | _files(SIMILARITIES), tokenizer)
    quantized = intaglio.auto_quantize(
        model,
        example_inputs=(torch.arange(100, 132)[None],),
        qconfig_mapping=QConfigMapping().set_global(intaglio.per_group_dynamic_qconfig),
        progress=False,
    )
    record = graph_record(quantized)
    assert record is not None
    assert record.graphs == [""]
    assert record.int8_macs > 0.98 * record.macs
    expected = {"Lee's news, perplexity": 34.20, "Wikipedia, perplexity": 40.83}
    found = score_passages(quantized, passages)
    assert found == pytest.approx(expected, rel=0.01)


def test_voice_activity(tmp_path: Path) -> None:
    model = load_voice_activity(_files(VOICE_ACTIVITY)["silero_vad.jit"])
    voices = find_voices(cache_folder(), _ignore)
    if not voices.folders:
        pytest.skip(voices.missing)
    task = read_activity_task(dict(voices.folders))
    calls: list[tuple[Tensor, Any]] = []

    class Listening(nn.Module):
        def forward(self, samples: Tensor, state: Any = None) -> Any:
            calls.append((samples, state))
            return model(samples, state)

    detect_speech(Listening(), task.recordings[0])
    data = [call for call in calls if call[1] is not None]
    quantized = intaglio.auto_quantize(model, data[:60], progress=False)
    assert traced_whole(quantized)
    state = (torch.zeros(1, 128), torch.zeros(1, 128))

    class Started(nn.Module):
        def forward(self, samples: Tensor, given: Any = None) -> Any:
            return quantized(samples, state if given is None else given)

    before, after = score_activity(model, task), score_activity(Started(), task)
    assert all(after[name] >= before[name] - 0.005 for name in before)
