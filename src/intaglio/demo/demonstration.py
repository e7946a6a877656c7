"""Run the whole demo: fetch what is missing, compare both networks, report.

Imports: the demo's other modules. Neighbours: the command line calls `run_demo` and draws its report.
"""

from __future__ import annotations

import time
from pathlib import Path

import torch

import intaglio
from intaglio.demo.carriers import CARRIERS, cache_folder, locate
from intaglio.demo.comparison import compare_minilm, compare_voice_encoder
from intaglio.demo.fetching import OnProgress
from intaglio.demo.results import DemoReport
from intaglio.demo.subjects import SUBJECTS
from intaglio.demo.text_tasks import QUERIES, read_text_tasks
from intaglio.demo.voice_tasks import VoiceTask, read_voice_task, synthetic_task
from intaglio.demo.voices import find_voices
from intaglio.demo.wordpiece import WordPiece
from intaglio.machine import describe_machine

__all__ = ["run_demo"]


def run_demo(
    *,
    queries: int = QUERIES,
    cache: Path | None = None,
    on_progress: OnProgress = lambda label, done, total: None,
) -> DemoReport:
    """Compare MiniLM and the voice encoder in float32 and int8 on real data.

    Parameters
    ----------
    queries
        how many of BoolQ's questions to ask.
    cache
        where to keep what is fetched; `cache_folder()` if None.
    on_progress
        called with what is being done, how much is done, and how much there is.

    Raises
    ------
    CarrierError
        weights or data are not on this machine and cannot be fetched.
    """
    start = time.perf_counter()
    cache = cache or cache_folder()
    files: dict[str, Path] = {}
    for carrier in CARRIERS:
        files |= locate(carrier, cache, on_progress)
    voices = find_voices(cache, on_progress)
    models = {key: subject.load(files[subject.weights]) for key, subject in SUBJECTS.items()}
    tasks = read_text_tasks(files, WordPiece(files["vocab.txt"]), queries=queries)
    speech: VoiceTask = read_voice_task(voices.folders) if voices.folders else synthetic_task()
    return DemoReport(
        models=(
            compare_minilm(models["minilm"], tasks, on_progress),
            compare_voice_encoder(models["voice"], speech, voices.missing, on_progress),
        ),
        machine=describe_machine(),
        versions={"intaglio": intaglio.__version__, "torch": torch.__version__},
        seconds=time.perf_counter() - start,
    )
