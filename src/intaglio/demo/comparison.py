"""The demo's main job: float32 against int8 on one network, from its weights to its scores.

Size of the file, memory of a process that runs it, latency at three shapes, accuracy on labelled data,
and how near the embeddings stay. Imports: torch, intaglio's public names, and the demo's other modules.
Neighbours: `results` is what is found, `demonstration` runs both networks.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import intaglio
from intaglio.demo.fetching import OnProgress
from intaglio.demo.footprint import measure_footprint
from intaglio.demo.results import Fidelity, Latency, ModelReport, Pair, Score
from intaglio.demo.scoring import row_cosines, sqnr_db
from intaglio.demo.subjects import SUBJECTS, Subject
from intaglio.demo.text_tasks import TextTasks, embed, score_texts
from intaglio.demo.voice_tasks import VoiceTask, embed_voices, score_voices
from intaglio.timing import time_in_turn

__all__ = ["compare_minilm", "compare_voice_encoder"]

LATENCY_SECONDS = 2.0

Embed = Callable[[nn.Module, Callable[[int], None]], Mapping[str, Tensor]]
"""Embeds the whole of a network's data by name, telling how much each step did."""
ScoreAll = Callable[[Mapping[str, Tensor]], Mapping[str, float]]


@dataclass(frozen=True)
class _Data:
    """What a network is scored on: how many items, how they are embedded and scored, and what they are."""

    items: int
    embed: Embed
    score: ScoreAll
    note: str


def compare_minilm(model: nn.Module, tasks: TextTasks, on_progress: OnProgress) -> ModelReport:
    """Compare the text model, already loaded in float32, with its int8 form."""
    questions, passages = len(tasks.retrieval.questions), len(tasks.retrieval.passages)
    data = _Data(
        items=sum(len(texts) for texts in tasks.parts.values()),
        embed=lambda model, on_batch: {
            name: embed(model, texts, on_batch=on_batch) for name, texts in tasks.parts.items()
        },
        score=lambda embeddings: score_texts(tasks, embeddings),
        note=f"BoolQ: {questions} questions, each to find its passage among {passages}",
    )
    return _compare("minilm", model, data, on_progress)


def compare_voice_encoder(
    model: nn.Module, task: VoiceTask, missing: str, on_progress: OnProgress
) -> ModelReport:
    """Compare the voice encoder, already loaded in float32, with its int8 form."""
    voices, utterances = task.frames.shape[:2]
    note = (
        f"{voices} voices; of each, {task.enrolled} utterances enrolled, {utterances - task.enrolled} tested"
        if task.names
        else f"no recorded voices ({missing}): fidelity alone, on {voices * utterances} synthetic tones"
    )
    data = _Data(
        items=voices * utterances,
        embed=lambda model, on_batch: {"voices": embed_voices(model, task, on_batch=on_batch)},
        score=lambda embeddings: score_voices(task, embeddings["voices"]),
        note=note,
    )
    return _compare("voice", model, data, on_progress)


def _compare(key: str, model: nn.Module, data: _Data, on_progress: OnProgress) -> ModelReport:
    subject = SUBJECTS[key]
    quantized = subject.quantize(model)
    forms = {"float32": model, "int8": quantized}
    file_bytes, resident = _measure_sizes(key, forms, on_progress)
    summary = intaglio.summary(quantized)
    latencies = _measure_latencies(subject, forms, on_progress)
    embeddings = _embed_both(subject, forms, data, on_progress)
    before, after = (data.score(embeddings[form]) for form in forms)
    return ModelReport(
        name=subject.name,
        description=subject.description,
        quantized=summary.to_dict()["quantized_layers"],
        layers=len(summary.layers),
        data=data.note,
        file_bytes=file_bytes,
        resident_bytes=resident,
        latencies=latencies,
        scores=tuple(Score(name, Pair(before[name], after[name])) for name in before),
        fidelity=_measure_fidelity(embeddings["float32"], embeddings["int8"]),
    )


def _measure_sizes(
    key: str, forms: Mapping[str, nn.Module], on_progress: OnProgress
) -> tuple[Pair, Pair | None]:
    """Bytes of both forms on disk, and in the memory of a process that loaded one and called it."""
    sizes, residents = [], []
    with tempfile.TemporaryDirectory(prefix="intaglio-demo-") as folder:
        for done, (form, model) in enumerate(forms.items()):
            on_progress(f"{SUBJECTS[key].name}: file and memory", done, len(forms))
            file = Path(folder) / f"{form}.safetensors"
            if form == "int8":
                intaglio.save(model, file)
            else:
                save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, file)
            sizes.append(file.stat().st_size)
            footprint = measure_footprint(key, form, file)
            if footprint is not None:
                residents.append(footprint.model)
    on_progress(f"{SUBJECTS[key].name}: file and memory", len(forms), len(forms))
    return Pair(*sizes), Pair(*residents) if residents else None


def _measure_latencies(
    subject: Subject, forms: Mapping[str, nn.Module], on_progress: OnProgress
) -> tuple[Latency, ...]:
    latencies = []
    for done, (batch, length) in enumerate(subject.shapes):
        on_progress(f"{subject.name}: latency", done, len(subject.shapes))
        example = subject.make_input(batch, length, forms["float32"])
        calls = {form: partial(model, example) for form, model in forms.items()}
        with torch.inference_mode():
            timings = time_in_turn(calls, seconds=LATENCY_SECONDS)
        latencies.append(Latency(batch, length, subject.unit, timings["float32"], timings["int8"]))
    on_progress(f"{subject.name}: latency", len(subject.shapes), len(subject.shapes))
    return tuple(latencies)


def _embed_both(
    subject: Subject, forms: Mapping[str, nn.Module], data: _Data, on_progress: OnProgress
) -> dict[str, Mapping[str, Tensor]]:
    embeddings = {}
    for form, model in forms.items():
        done = 0

        def on_batch(count: int, form: str = form) -> None:
            nonlocal done
            done += count
            on_progress(f"{subject.name}: accuracy in {form}", done, data.items)

        embeddings[form] = data.embed(model, on_batch)
    return embeddings


def _measure_fidelity(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> tuple[Fidelity, ...]:
    found = []
    for name in before:
        first, second = before[name].flatten(0, -2), after[name].flatten(0, -2)
        cosines = row_cosines(first, second)
        found.append(
            Fidelity(name, len(first), sqnr_db(first, second), cosines.mean().item(), cosines.min().item())
        )
    return tuple(found)
