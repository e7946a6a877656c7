"""The demo's models with their real weights, and their labelled tasks, as subjects.

What a model was calibrated on is not among what it is scored on. Stubs, which eager mode wants, are taken
out: every tool gets the plain model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

import intaglio
from benchmarks.coverage.subjects import CALIBRATION_CALLS, COMPARED_CALLS, Subject
from intaglio.demo import carriers
from intaglio.demo.efficientnet import load_efficientnet_lite0
from intaglio.demo.language_model import load_language_model, load_tokenizer
from intaglio.demo.language_tasks import perplexity, read_passages
from intaglio.demo.minilm import load_minilm
from intaglio.demo.photos import read_photos
from intaglio.demo.recogniser import decode, load_recogniser
from intaglio.demo.rendered_text import draw_page, draw_words, find_boxes, match_boxes
from intaglio.demo.text_detector import load_text_detector
from intaglio.demo.text_tasks import embed, read_text_tasks
from intaglio.demo.voice_activity import detect_speech, load_voice_activity
from intaglio.demo.voice_activity_tasks import ActivityTask, read_activity_task, score_activity
from intaglio.demo.voice_encoder import load_voice_encoder
from intaglio.demo.voice_tasks import read_voice_task, score_voices
from intaglio.demo.voices import find_voices
from intaglio.demo.wordpiece import WordPiece
from intaglio.graph_passes.examples import Call

__all__ = ["REAL_MODELS"]

WORDS = 100
PAGES = 4
PAGE_SIZE = {"width": 320, "height": 256}
ENROLLED, TESTED = 10, 15
TOKENS = 64
PASSAGE_TOKENS = 16 * TOKENS + 1

_USED = CALIBRATION_CALLS + COMPARED_CALLS


class _Functions(nn.Module):
    """The functions of `FloatFunctional` that the demo's models call, as plain ones."""

    def add(self, x: Tensor, y: Tensor) -> Tensor:
        return x + y

    def cat(self, tensors: list[Tensor], dim: int) -> Tensor:
        return torch.cat(tensors, dim)


def _without_stubs(model: nn.Module) -> nn.Module:
    plain: dict[type[nn.Module], type[nn.Module]] = {
        intaglio.QuantStub: nn.Identity,
        intaglio.DeQuantStub: nn.Identity,
        intaglio.FloatFunctional: _Functions,
    }
    for path, part in list(model.named_modules()):
        if type(part) in plain:
            model.set_submodule(path, plain[type(part)]())
    return model.eval()


def _subject(
    module: nn.Module,
    rows: Sequence[Tensor],
    score: Callable[[Any], dict[str, float]],
    others: Sequence[Call] = (),
) -> Subject:
    """A subject from inputs of batch 1: the first calibrate, the next are compared."""
    calls = [Call((row,), {}) for row in rows[:_USED]]
    return Subject(module, calls[:CALIBRATION_CALLS], calls[CALIBRATION_CALLS:], others, score)


def make_efficientnet() -> Subject:
    """ImageNet photos: eight for calibration, twelve to classify."""
    images, labels = read_photos(_locate(carriers.PHOTOS))
    files = _locate(carriers.EFFICIENTNET_LITE0)
    rows = images.split(1)

    def score(model: nn.Module) -> dict[str, float]:
        found = torch.cat([model(row).argmax(1) for row in rows[CALIBRATION_CALLS:]])
        return {"photos classified rightly": float((found == labels[CALIBRATION_CALLS:]).double().mean())}

    others = [Call((images[-2:],), {}), Call((images[-1:, :, 16:-16, :],), {})]
    return _subject(_without_stubs(load_efficientnet_lite0(next(iter(files.values())))), rows, score, others)


def make_recogniser() -> Subject:
    """Drawn words, noisy and blurred, all of one width."""
    words, texts = draw_words(CALIBRATION_CALLS + WORDS, noise=0.2, blur=1.0, seed=1)
    rows = words.split(1)

    def score(model: nn.Module) -> dict[str, float]:
        found = [text for row in rows[CALIBRATION_CALLS:] for text in decode(model(row))]
        hits = [a == b for a, b in zip(found, texts[CALIBRATION_CALLS:], strict=True)]
        return {"words read exactly": sum(hits) / len(hits)}

    others = [Call((words[-2:],), {}), Call((words[-1:, :, :, :-40],), {})]
    model = load_recogniser(_locate(carriers.EASYOCR)["english_g2.pth"])
    return _subject(_without_stubs(model), rows, score, others)


def make_text_detector() -> Subject:
    """Drawn pages with words at known places."""
    pages = [draw_page(**PAGE_SIZE, seed=seed) for seed in range(CALIBRATION_CALLS + PAGES)]

    def score(model: nn.Module) -> dict[str, float]:
        judged = pages[CALIBRATION_CALLS:]
        pairs = [match_boxes(find_boxes(model(page.image)[0]), page.boxes) for page in judged]
        recall, precision = (sum(side) / len(pairs) for side in zip(*pairs, strict=True))
        return {"words found, recall": recall, "words found, precision": precision}

    others = [Call((draw_page(width=256, height=320, seed=99).image,), {})]
    model = load_text_detector(_locate(carriers.EASYOCR)["craft_mlt_25k.pth"])
    return _subject(_without_stubs(model), [page.image for page in pages], score, others)


def make_voice_encoder() -> Subject:
    """Recorded voices: calibrated on some that are enrolled, scored on who is recognised."""
    task = read_voice_task(_voices(), enrolled=ENROLLED, tested=TESTED)
    enrolled, tested = task.frames[:, :ENROLLED].flatten(0, 1), task.frames[:, ENROLLED:].flatten(0, 1)

    def score(model: nn.Module) -> dict[str, float]:
        rows = torch.cat([model(frames) for frames in task.frames.flatten(0, 1).split(1)])
        return score_voices(task, rows.view(*task.frames.shape[:2], -1))

    rows = [*enrolled[:: len(enrolled) // CALIBRATION_CALLS].split(1)[:CALIBRATION_CALLS]]
    rows += tested[:: len(tested) // COMPARED_CALLS].split(1)[:COMPARED_CALLS]
    others = [Call((tested[:3],), {}), Call((tested[:1, :100],), {})]
    return _subject(load_voice_encoder(_locate(carriers.VOICE_ENCODER)["pretrained.pt"]), rows, score, others)


def make_minilm() -> Subject:
    """Passages for calibration and comparison; similarities of other texts as people judged them."""
    files = _locate(carriers.MINILM, carriers.BOOLQ, carriers.SIMILARITIES)
    tasks = read_text_tasks(files, WordPiece(files["vocab.txt"]), queries=100)
    long_enough = [text for text in tasks.retrieval.passages if len(text) >= TOKENS]
    rows = [torch.tensor([text[:TOKENS]]) for text in long_enough[:_USED]]
    calls = [Call((row, torch.ones_like(row, dtype=torch.bool)), {}) for row in rows]

    def score(model: Any) -> dict[str, float]:
        # The task leaves out a mask that hides nothing; all calls are to be of one kind.
        def masked(ids: Tensor, mask: Tensor | None) -> Tensor:
            found: Tensor = model(ids, torch.ones_like(ids, dtype=torch.bool) if mask is None else mask)
            return found

        scores = {}
        for task in tasks.similarities:
            first, second = embed(cast(nn.Module, masked), task.texts)[task.pairs]
            kind = task.correlate.__name__.capitalize()
            scores[f"{task.name}, {kind}"] = task.correlate((first * second).sum(1), task.verdicts)
        return scores

    mask = torch.ones(2, TOKENS, dtype=torch.bool)
    mask[1, TOKENS // 2 :] = False
    others = [Call((torch.cat(rows[:2]), mask), {}), Call((rows[0][:, :17],), {})]
    model = load_minilm(files["model.safetensors"])
    return Subject(model, calls[:CALIBRATION_CALLS], calls[CALIBRATION_CALLS:], others, score)


def make_language_model() -> Subject:
    """Windows of 64 tokens of news and of Wikipedia, each token predicted from those before it."""
    file = next(iter(_locate(carriers.SMOLLM2).values()))
    texts = _locate(carriers.BOOLQ, carriers.SIMILARITIES)
    passages = read_passages(texts, load_tokenizer(file), tokens=_USED * TOKENS + PASSAGE_TOKENS)
    windows = passages[0].ids[: _USED * TOKENS].split(TOKENS)

    def score(model: nn.Module) -> dict[str, float]:
        return {
            f"{passage.name}, perplexity": perplexity(model, passage.ids[_USED * TOKENS :], context=TOKENS)
            for passage in passages
        }

    others = [Call((torch.stack(windows[:2]),), {}), Call((windows[0][None, :17],), {})]
    subject = _subject(load_language_model(file), [window[None] for window in windows], score, others)
    return replace(subject, in_groups=True)


def make_voice_activity() -> Subject:
    """Chunks of recordings, each with the state of the one before; scored on other recordings."""
    model = load_voice_activity(_locate(carriers.VOICE_ACTIVITY)["silero_vad.jit"])
    task = read_activity_task(_voices())
    calibration = _record_calls(model, task.recordings[0], CALIBRATION_CALLS)
    compared = _record_calls(model, task.recordings[1], COMPARED_CALLS)
    judged = ActivityTask(task.recordings[2:], task.labels[2:])
    samples, state = compared[0].args
    others = [Call((samples,), {}), Call((samples.repeat(3, 1), tuple(x.repeat(3, 1) for x in state)), {})]
    return Subject(
        model, calibration, compared, others, lambda form: score_activity(_with_state(form), judged)
    )


def _record_calls(model: nn.Module, recording: Tensor, count: int) -> list[Call]:
    """Calls of the network on chunks evenly spread over a recording."""
    calls: list[Call] = []

    def keep(samples: Tensor, state: tuple[Tensor, Tensor]) -> Any:
        calls.append(Call((samples, state), {}).copied())
        return model(samples, state)

    detect_speech(_with_state(keep), recording)
    return [calls[(2 * place + 1) * len(calls) // (2 * count)] for place in range(count)]


def _with_state(call: Any) -> Any:
    """Give the first chunk the state that stands for none, so that all calls are of one kind."""

    def called(samples: Tensor, state: tuple[Tensor, Tensor] | None) -> Any:
        zeros = torch.zeros(len(samples), 128)
        return call(samples, (zeros, zeros.clone()) if state is None else state)

    return called


def _voices() -> dict[str, Path]:
    voices = find_voices(carriers.cache_folder(), lambda label, done, total: None)
    if not voices.folders:
        raise FileNotFoundError(voices.missing)
    return dict(voices.folders)


def _locate(*wanted: carriers.Carrier) -> dict[str, Path]:
    """The carriers' files, fetched if they are not on this machine."""
    files: dict[str, Path] = {}
    for carrier in wanted:
        files |= carriers.locate(carrier, carriers.cache_folder(), lambda label, done, total: None)
    return files


REAL_MODELS: tuple[tuple[str, Callable[[], Subject], bool], ...] = (
    ("EfficientNet-Lite0", make_efficientnet, False),
    ("OCR recogniser", make_recogniser, False),
    ("CRAFT text detector", make_text_detector, False),
    ("Voice encoder", make_voice_encoder, False),
    ("Silero VAD", make_voice_activity, False),
    ("MiniLM", make_minilm, False),
    ("MiniLM, dynamic", make_minilm, True),
    ("SmolLM2-135M, dynamic", make_language_model, True),
)
"""Name, maker, and whether activations are quantized as they come."""
