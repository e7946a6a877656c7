"""The two networks that the demo quantizes, and all that differs between them outside their scores.

Imports: torch, intaglio's public names, `minilm`, `voice_encoder`. Neighbours: `footprint`
measures a subject, `comparison` puts the figures together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

import intaglio
from intaglio.demo.minilm import MiniLM, load_minilm
from intaglio.demo.voice_encoder import VoiceEncoder, load_voice_encoder

__all__ = ["SUBJECTS", "Subject"]


@dataclass(frozen=True)
class Subject:
    """A network: how to build it, load it, what to quantize in it, and at which shapes to time it.

    `build` makes it without its weights, `build_tiny` a small one that runs the same code; `make_input`
    makes an input of a batch and a length.
    """

    name: str
    description: str
    weights: str
    build: Callable[[], nn.Module]
    build_tiny: Callable[[], nn.Module]
    load: Callable[[Path], nn.Module]
    make_input: Callable[[int, int, nn.Module], Tensor]
    spec: Mapping[type[nn.Module], intaglio.QConfig] = field(repr=False)
    shapes: tuple[tuple[int, int], ...]
    unit: str

    def quantize(self, model: nn.Module) -> nn.Module:
        """The int8 form of `model`, which stays as it is."""
        return intaglio.quantize_dynamic(model, self.spec)


def _make_ids(batch: int, length: int, model: nn.Module) -> Tensor:
    word = model.get_submodule("word")
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, int(word.num_embeddings), (batch, length), generator=generator)  # type: ignore[arg-type]


def _make_mels(batch: int, length: int, model: nn.Module) -> Tensor:
    lstm = model.get_submodule("lstm")
    return torch.rand(batch, length, int(lstm.input_size), generator=torch.Generator().manual_seed(0))  # type: ignore[arg-type]


SUBJECTS: Mapping[str, Subject] = {
    "minilm": Subject(
        name="MiniLM",
        description="all-MiniLM-L6-v2, sentence embeddings, 6 Transformer layers, 22.6 M parameters",
        weights="model.safetensors",
        build=MiniLM,
        build_tiny=lambda: MiniLM(vocabulary=9, width=64, heads=2, feedforward=128, layers=1),
        load=load_minilm,
        make_input=_make_ids,
        spec={
            nn.Linear: intaglio.default_dynamic_qconfig,
            nn.Embedding: intaglio.float_qparams_weight_only_qconfig,
        },
        shapes=((1, 32), (1, 128), (8, 128)),
        unit="tokens",
    ),
    "voice": Subject(
        name="Voice encoder",
        description="Resemblyzer, voice embeddings, 3 LSTM layers, 1.4 M parameters",
        weights="pretrained.pt",
        build=VoiceEncoder,
        build_tiny=lambda: VoiceEncoder(mels=40, width=64, layers=1),
        load=load_voice_encoder,
        make_input=_make_mels,
        spec={
            nn.LSTM: intaglio.default_dynamic_qconfig,
            nn.Linear: intaglio.default_dynamic_qconfig,
        },
        shapes=((1, 160), (4, 160), (16, 160)),
        unit="frames",
    ),
}
