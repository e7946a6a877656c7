"""Recorded speech with its pauses, and how well a detector tells the two apart.

Nobody has marked where speech is in the recordings: a chunk counts as speech where it is loud for its
recording. Such labels are weak, and a better network would not score much higher; they serve to compare a
network with its own quantized self.
Imports: torch, `mel`, `scoring`. Neighbours: `voices` finds the recordings, `voice_activity` has the network.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from intaglio.demo.errors import CarrierError
from intaglio.demo.mel import read_wav
from intaglio.demo.scoring import area_under_curve
from intaglio.demo.voice_activity import CHUNK, detect_speech

__all__ = ["ActivityTask", "read_activity_task", "score_activity"]

RECORDINGS = 4
# A chunk this much quieter than the loudest of its recording is a pause.
PAUSE_DB = 40.0
THRESHOLD = 0.5
# Long enough to hold pauses: the shorter prompts are single words.
_LEAST_BYTES = 44 + 2 * 16_000


@dataclass(frozen=True)
class ActivityTask:
    """Recordings of `(samples,) float32` at 16 kHz, and for each the `(chunks,) bool` that are speech."""

    recordings: Sequence[Tensor]
    labels: Sequence[Tensor]


def read_activity_task(folders: Mapping[str, Path], *, recordings: int = RECORDINGS) -> ActivityTask:
    """Take recordings of at least two seconds, spread evenly over each voice's by name.

    Raises
    ------
    CarrierError
        a voice has too few of them.
    """
    samples: list[Tensor] = []
    for name, folder in folders.items():
        paths = [path for path in sorted(folder.rglob("*.wav")) if _holds_pauses(path)]
        if len(paths) < recordings:
            raise CarrierError(f"{folder}: {len(paths)} recordings of {name} found, {recordings} needed")
        chosen = [paths[place * len(paths) // recordings] for place in range(recordings)]
        samples += [read_wav(path) for path in chosen]
    return ActivityTask(samples, [_loud_chunks(recording) for recording in samples])


def score_activity(model: nn.Module, task: ActivityTask) -> dict[str, float]:
    """Judge every chunk and score the judgements, by name of the figure."""
    found = torch.cat([detect_speech(model, recording) for recording in task.recordings])
    labels = torch.cat(list(task.labels))
    return {
        "voice activity, area under the ROC curve": area_under_curve(found[labels], found[~labels]),
        "voice activity, accuracy": float(((found > THRESHOLD) == labels).double().mean()),
    }


def _loud_chunks(samples: Tensor) -> Tensor:
    chunks = F.pad(samples, (0, -len(samples) % CHUNK)).view(-1, CHUNK)
    power = chunks.double().square().mean(1)
    return power.gt(power.max() * 10.0 ** (-PAUSE_DB / 10.0))


def _holds_pauses(path: Path) -> bool:
    return path.parent.name != "silence" and path.stat().st_size >= _LEAST_BYTES
