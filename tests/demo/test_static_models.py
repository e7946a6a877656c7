"""The accuracy that static quantization promises, on real weights and real or exactly known data.

Each network is quantized in eager mode with the defaults, calibrated on data that it is not judged by.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import intaglio
from intaglio.demo.carriers import EASYOCR, EFFICIENTNET_LITE0, PHOTOS
from intaglio.demo.efficientnet import EfficientNetLite, load_efficientnet_lite0
from intaglio.demo.photos import read_photos
from intaglio.demo.recogniser import Recogniser, decode, load_recogniser
from intaglio.demo.rendered_text import draw_page, draw_words, find_boxes, match_boxes
from intaglio.demo.text_detector import TextDetector, load_text_detector
from tests.demo.conftest import _files

pytestmark = pytest.mark.real


def quantized(model: nn.Module, batches: list[Tensor], *, round_weights: bool = False) -> nn.Module:
    """Fused, calibrated and converted with the defaults, with or without weights rounded on the batches."""
    fused: Any = intaglio.fuse_modules(model, example_inputs=batches[0])
    if round_weights:
        fused = intaglio.round_weights(fused, batches)
    fused.qconfig = intaglio.get_default_qconfig("x86")
    prepared = intaglio.prepare(fused, inplace=True)
    with torch.no_grad():
        for batch in batches:
            prepared(batch)
    return intaglio.convert(prepared, inplace=True)


def sqnr(found: Tensor, expected: Tensor) -> float:
    return float(20 * torch.log10(expected.norm() / (found - expected).norm()))


@pytest.fixture(scope="module")
def photos() -> tuple[Tensor, Tensor]:
    return read_photos(_files(PHOTOS))


@pytest.fixture(scope="module")
def efficientnet() -> EfficientNetLite:
    return load_efficientnet_lite0(next(iter(_files(EFFICIENTNET_LITE0).values()))).requires_grad_(False)


@pytest.fixture(scope="module")
def easyocr_files() -> dict[str, Path]:
    return _files(EASYOCR)


@pytest.fixture(scope="module")
def recogniser(easyocr_files: dict[str, Path]) -> Recogniser:
    return load_recogniser(easyocr_files["english_g2.pth"]).requires_grad_(False)


@pytest.fixture(scope="module")
def detector(easyocr_files: dict[str, Path]) -> TextDetector:
    return load_text_detector(easyocr_files["craft_mlt_25k.pth"]).requires_grad_(False)


def test_efficientnet_lite0(efficientnet: EfficientNetLite, photos: tuple[Tensor, Tensor]) -> None:
    # Calibrated on one half of the photos and judged by the other, both ways.
    images, labels = photos
    expected = efficientnet(images)
    assert int((expected.argmax(1) == labels).sum()) == 18
    found = torch.empty_like(expected)
    for half in (slice(0, 10), slice(10, 20)):
        others = torch.cat([images[: half.start], images[half.stop :]])
        found[half] = quantized(efficientnet, list(others.split(2)))(images[half])
    assert sqnr(found, expected) >= 21.5
    assert int((found.argmax(1) == expected.argmax(1)).sum()) >= 19
    assert int((found.argmax(1) == labels).sum()) >= 17


def test_rounding_weights_together_keeps_efficientnet_lite0_better(
    efficientnet: EfficientNetLite, photos: tuple[Tensor, Tensor]
) -> None:
    images, _ = photos
    known, unknown = list(images[::2].split(2)), images[1::2]
    expected = efficientnet(unknown)
    plain = sqnr(quantized(efficientnet, known)(unknown), expected)
    rounded = sqnr(quantized(efficientnet, known, round_weights=True)(unknown), expected)
    assert rounded >= 23.0
    assert rounded > plain + 0.5


def test_recogniser(recogniser: Recogniser) -> None:
    words, texts = draw_words(200, noise=0.2, blur=1.0, seed=1)
    expected = exact_matches(recogniser, words, texts)
    assert 0.70 <= expected <= 0.95
    calibration, _ = draw_words(48, noise=0.2, blur=1.0, seed=2)
    model = quantized(recogniser, list(calibration.split(8)))
    assert exact_matches(model, words, texts) >= expected - 0.01


def exact_matches(model: nn.Module, words: Tensor, texts: list[str]) -> float:
    found = [text for batch in words.split(20) for text in decode(model(batch))]
    return sum(a == b for a, b in zip(found, texts, strict=True)) / len(texts)


def test_text_detector(detector: TextDetector) -> None:
    pages = [draw_page(seed=seed) for seed in range(3)]
    model = quantized(detector, [draw_page(seed=seed).image for seed in (10, 11)])
    for page in pages:
        recall, precision = match_boxes(find_boxes(detector(page.image)[0]), page.boxes)
        assert min(recall, precision) >= 0.95
        found = match_boxes(find_boxes(model(page.image)[0]), page.boxes)
        assert found[0] >= recall - 0.01
        assert found[1] >= precision - 0.01
