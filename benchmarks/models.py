"""The models that are timed: MiniLM and the voice encoder, real weights, from the demo's loaders."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.workloads import Case, Inputs, Network
from intaglio.demo.carriers import MINILM, VOICE_ENCODER, Carrier, cache_folder, locate
from intaglio.demo.mel import SAMPLE_RATE, mel_frames
from intaglio.demo.minilm import MiniLM, load_minilm
from intaglio.demo.voice_encoder import load_voice_encoder
from intaglio.demo.wordpiece import WordPiece

__all__ = ["make_minilm", "make_voice_encoder"]

CALIBRATION_BATCHES = 8


def make_minilm(shapes: Sequence[tuple[int, ...]]) -> Iterator[Network]:
    """MiniLM on the words of this repository's licence, at `(batch, tokens)`, and a BERT-base of random
    weights."""
    files = _locate(MINILM)
    module = load_minilm(files["model.safetensors"])
    licence = (Path(__file__).parents[1] / "LICENSE").read_text(encoding="utf-8")
    ids = torch.tensor(WordPiece(files["vocab.txt"])(licence, longest=2**20))
    weights = sum(layer.weight.numel() for layer in module.modules() if isinstance(layer, nn.Linear))

    def take(batch: int, length: int, start: int) -> Inputs:
        wrapped = torch.arange(start, start + batch * length) % len(ids)
        return ids[wrapped].view(batch, length), torch.ones(batch, length, dtype=torch.bool)

    yield Network(
        group="minilm",
        name="MiniLM-L6",
        module=module,
        cases=tuple(Case(f"{b}x{t}", take(b, t, 0), 2 * b * t * weights) for b, t in shapes),
        calibration=tuple(take(1, 128, 1024 + 128 * i) for i in range(CALIBRATION_BATCHES)),
        attention={"num_heads": 12, "hidden_size": 384},
    )
    bert = MiniLM(width=768, feedforward=3072, layers=12).eval()
    weights = sum(layer.weight.numel() for layer in bert.modules() if isinstance(layer, nn.Linear))
    yield Network(
        group="minilm",
        name="BERT-base",
        module=bert,
        cases=(Case("BERT-base, 1x128", take(1, 128, 0), 2 * 128 * weights),),
        calibration=tuple(take(1, 128, 1024 + 128 * i) for i in range(CALIBRATION_BATCHES)),
        attention={"num_heads": 12, "hidden_size": 768},
    )


def make_voice_encoder(shapes: Sequence[tuple[int, ...]]) -> Iterator[Network]:
    """The voice encoder on synthetic voices, at `(batch, frames)`."""
    module = load_voice_encoder(_locate(VOICE_ENCODER)["pretrained.pt"])
    weights = sum(p.numel() for name, p in module.lstm.named_parameters() if "weight" in name)
    yield Network(
        group="lstm",
        name="voice encoder, LSTM 40-256 x 3",
        module=module,
        cases=tuple(Case(f"{b}x{t}", (_make_mels(b, t),), 2 * b * t * weights) for b, t in shapes),
        calibration=tuple((_make_mels(1, shapes[0][1]),) for _ in range(CALIBRATION_BATCHES)),
    )


def _make_mels(batch: int, frames: int) -> Tensor:
    """Frames of synthetic voices, each of another pitch; `(batch, frames, 40)`."""
    pitches = torch.rand(batch) * 140 + 80
    return torch.stack([mel_frames(_sing(float(pitch), frames))[:frames] for pitch in pitches])


def _sing(pitch: float, frames: int) -> Tensor:
    """Four syllables a second: harmonics of a gliding pitch in hertz under moving formants, and breath."""
    time = torch.arange(frames * SAMPLE_RATE // 100) / SAMPLE_RATE
    glide = pitch * (1 + 0.1 * torch.sin(2.5 * time))
    phase = 2 * torch.pi * glide.cumsum(0) / SAMPLE_RATE
    formants = ((500.0, 200.0, 1.0), (1500.0, 500.0, 0.4), (2500.0, 0.0, 0.15))
    voice = 8e-3 * torch.randn_like(time)
    for harmonic in range(1, int(4000 / pitch)):
        for centre, sway, gain in formants:
            distance = (harmonic * glide - centre - sway * torch.sin(6 * time)) / 150
            voice += gain * torch.exp(-distance.square()) * torch.sin(harmonic * phase)
    syllables = torch.sin(4 * torch.pi * time).abs()
    return 0.2 * syllables * voice


def _locate(carrier: Carrier) -> dict[str, Path]:
    """The carrier's files, fetched if they are not on this machine."""
    return locate(carrier, cache_folder(), lambda label, done, total: None)
