"""Real speech, and how well a voice encoder tells its speakers apart.

Each voice is enrolled with a few utterances and must be recognized among all in the others
(identification); pairs of utterances must be told to be of one speaker or of two (verification). Without
recordings there is only synthetic audio, on which float32 and int8 can be compared but nobody recognized.
Imports: torch, `mel`, `scoring`. Neighbours: `voices` finds the recordings, `comparison` calls this.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from intaglio.demo.errors import CarrierError
from intaglio.demo.mel import HOP, SAMPLE_RATE, mel_frames, read_wav
from intaglio.demo.scoring import equal_error_rate, top1_accuracy

__all__ = [
    "VoiceTask",
    "embed_voices",
    "identify_voices",
    "read_voice_task",
    "score_voices",
    "synthetic_task",
]

# 1.6 s, the length that the encoder was trained on; the last frame's window reaches a little further.
FRAMES = 160
READ_SECONDS = 1.64
ENROLLED = 10
TESTED = 35
BATCH = 16


@dataclass(frozen=True)
class VoiceTask:
    """`(voices, utterances, FRAMES, MELS) float32` mel frames; `enrolled` of each voice's are for enrolment.

    `names` says whose they are; it is empty if the audio is synthetic and nobody can be recognized.
    """

    names: tuple[str, ...]
    frames: Tensor
    enrolled: int


def read_voice_task(
    folders: Mapping[str, Path], *, enrolled: int = ENROLLED, tested: int = TESTED
) -> VoiceTask:
    """Take utterances of at least 1.6 s, spread evenly over each voice's recordings by name.

    Raises
    ------
    CarrierError
        a voice has too few of them.
    """
    wanted = enrolled + tested
    voices = []
    for name, folder in folders.items():
        long_enough = [path for path in sorted(folder.rglob("*.wav")) if _is_utterance(path)]
        if len(long_enough) < wanted:
            raise CarrierError(f"{folder}: {len(long_enough)} utterances of {name} found, {wanted} needed")
        chosen = [long_enough[place * len(long_enough) // wanted] for place in range(wanted)]
        voices.append(
            torch.stack([mel_frames(read_wav(path, seconds=READ_SECONDS))[:FRAMES] for path in chosen])
        )
    return VoiceTask(tuple(folders), torch.stack(voices), enrolled)


def synthetic_task(*, voices: int = 6, utterances: int = ENROLLED + TESTED) -> VoiceTask:
    """Gliding harmonic tones, the same on every machine: something to compare, nobody to recognize."""
    generator = torch.Generator().manual_seed(0)
    time = torch.arange((FRAMES - 1) * HOP + 1) / SAMPLE_RATE
    frames = []
    for _ in range(voices * utterances):
        start, end = (90.0 + 160.0 * torch.rand(2, generator=generator)).tolist()
        pitch = start + (end - start) * time / time[-1]
        phase = 2 * math.pi * pitch.cumsum(0) / SAMPLE_RATE
        tilt = 0.5 + torch.rand(1, generator=generator)
        harmonics = torch.arange(1, 20)[:, None]
        tone = (torch.sin(harmonics * phase) * harmonics.pow(-tilt)).sum(0)
        loudness = 0.5 - 0.5 * torch.cos(2 * math.pi * 4.0 * time)
        frames.append(mel_frames(0.05 * tone * loudness))
    return VoiceTask((), torch.stack(frames).view(voices, utterances, FRAMES, -1), ENROLLED)


def embed_voices(
    model: nn.Module, task: VoiceTask, *, on_batch: Callable[[int], None] = lambda done: None
) -> Tensor:
    """Embed every utterance, `(voices, utterances, width) float32`; tells how many each batch had."""
    utterances = task.frames.flatten(0, 1)
    rows: list[Tensor] = []
    with torch.inference_mode():
        for start in range(0, len(utterances), BATCH):
            rows.append(model(utterances[start : start + BATCH]))
            on_batch(len(rows[-1]))
    return torch.cat(rows).view(*task.frames.shape[:2], -1)


def score_voices(task: VoiceTask, embeddings: Tensor) -> dict[str, float]:
    """Score the embeddings of `embed_voices`, by name of the figure; nothing for synthetic audio."""
    if not task.names:
        return {}
    scores, speakers = _against_enrolled(task, embeddings)
    tested = embeddings[:, task.enrolled :].flatten(0, 1)
    first, second = torch.triu_indices(len(tested), len(tested), 1)
    cosines = (tested @ tested.T)[first, second]
    # One person reads two of the sets, in two languages: to a verifier she is one.
    people = _people(task.names)[speakers]
    same = people[first] == people[second]
    return {
        "voice identification, accuracy": top1_accuracy(scores, speakers),
        "voice verification, equal error rate": equal_error_rate(cosines[same], cosines[~same]),
    }


def identify_voices(task: VoiceTask, embeddings: Tensor) -> Tensor:
    """Whom each tested utterance is taken for: `(voices * tested,) int64`."""
    return _against_enrolled(task, embeddings)[0].argmax(1)


def _against_enrolled(task: VoiceTask, embeddings: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines of the tested utterances with each voice's mean, and whose they are."""
    voices = F.normalize(embeddings[:, : task.enrolled].mean(1), dim=-1)
    tested = embeddings[:, task.enrolled :]
    speakers = torch.arange(len(voices)).repeat_interleave(tested.shape[1])
    return tested.flatten(0, 1) @ voices.T, speakers


def _people(names: tuple[str, ...]) -> Tensor:
    """A number for each voice's person, who is the last part of its name: `en_US_f_Allison`."""
    persons = [name.rpartition("_")[2] for name in names]
    return torch.tensor([persons.index(person) for person in persons])


def _is_utterance(path: Path) -> bool:
    """Speech, and long enough: recordings of silence are kept in a folder of that name."""
    header, bytes_a_second = 44, 16_000
    return path.parent.name != "silence" and path.stat().st_size >= header + bytes_a_second * (
        FRAMES * HOP / SAMPLE_RATE
    )
