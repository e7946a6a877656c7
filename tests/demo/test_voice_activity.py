"""Silero's detector: equal to the program it comes as, and scored on real speech."""

from __future__ import annotations

import math
import warnings
import wave
import zipfile
from pathlib import Path

import pytest
import torch
from torch import Tensor

from intaglio.demo.carriers import VOICE_ACTIVITY, cache_folder
from intaglio.demo.errors import CarrierError
from intaglio.demo.voice_activity import CHUNK, VoiceActivity, detect_speech, load_voice_activity
from intaglio.demo.voice_activity_tasks import ActivityTask, read_activity_task, score_activity
from intaglio.demo.voices import find_voices
from tests.demo.conftest import _files, _ignore


@pytest.fixture(autouse=True)
def _one_thread(_same_start: None) -> None:
    """On a busy machine the threads of small ops wait longer for each other than one would compute."""
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def archive() -> Path:
    return _files(VOICE_ACTIVITY)["silero_vad.jit"]


@pytest.fixture(scope="module")
def folders() -> dict[str, Path]:
    voices = find_voices(cache_folder(), _ignore)
    if not voices.folders:
        pytest.skip(voices.missing)
    return dict(voices.folders)


@pytest.fixture
def random_detector() -> VoiceActivity:
    model = VoiceActivity().eval()
    model.basis.normal_(std=0.1)
    return model


def _archive_of(path: Path, storages: dict[int, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for number, data in storages.items():
            archive.writestr(f"model/data/{number}", data)
    return path


def test_every_chunk_is_judged_and_the_last_is_filled_with_silence(random_detector: VoiceActivity) -> None:
    samples = torch.randn(3 * CHUNK + 100)
    found = detect_speech(random_detector, samples)
    assert found.shape == (4,)
    assert torch.equal(found, detect_speech(random_detector, torch.cat([samples, torch.zeros(CHUNK - 100)])))
    assert torch.equal(found[:3], detect_speech(random_detector, samples[: 3 * CHUNK]))
    assert detect_speech(random_detector, torch.zeros(0)).shape == (0,)


def test_it_remembers(random_detector: VoiceActivity) -> None:
    chunk = torch.randn(2, 64 + CHUNK)
    with torch.no_grad():
        first, state = random_detector(chunk)
        second, _ = random_detector(chunk, state)
        again, _ = random_detector(chunk)
    assert not torch.equal(first, second)
    assert torch.equal(first, again)


def test_archives_of_other_networks_and_none(tmp_path: Path) -> None:
    path = tmp_path / "model.jit"
    with pytest.raises(CarrierError, match="Silero's voice activity detector cannot be read"):
        load_voice_activity(path)
    for damage in (b"", b"garbage" * 100):
        path.write_bytes(damage)
        with pytest.raises(CarrierError, match="cannot be read"):
            load_voice_activity(path)
    for storages in ({}, {0: b""}):
        with pytest.raises(CarrierError, match="cannot be read"):
            load_voice_activity(_archive_of(path, storages))
    with pytest.raises(CarrierError, match=r"not the weights of Silero.*storage 2 has 8 bytes"):
        load_voice_activity(_archive_of(path, {2: bytes(8)}))


def test_an_archive_is_read_by_number(tmp_path: Path) -> None:
    shapes = [tuple(tensor.shape) for tensor in VoiceActivity().state_dict().values()]
    storages = {
        number: torch.full((math.prod(shape),), float(number)).numpy().tobytes()
        for number, shape in enumerate(shapes, start=2)
    }
    model = load_voice_activity(_archive_of(tmp_path / "model.jit", storages))
    for number, tensor in enumerate(model.state_dict().values(), start=2):
        assert torch.equal(tensor, torch.full_like(tensor, number))


def test_quiet_chunks_are_pauses(tmp_path: Path) -> None:
    loud, quiet = torch.randn(20 * CHUNK) * 3000.0, torch.randn(20 * CHUNK) * 3.0
    with wave.open(str(tmp_path / "recording.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes(torch.cat([loud, quiet]).short().numpy().tobytes())
    task = read_activity_task({"somebody": tmp_path}, recordings=1)
    assert task.recordings[0].shape == (40 * CHUNK,)
    assert task.labels[0].tolist() == [True] * 20 + [False] * 20
    with pytest.raises(CarrierError, match="1 recordings of somebody found, 4 needed"):
        read_activity_task({"somebody": tmp_path})


def test_scores_are_those_of_the_labels(random_detector: VoiceActivity) -> None:
    recordings = [torch.randn(2 * CHUNK), torch.randn(3 * CHUNK)]

    def labelled(by: Tensor) -> ActivityTask:
        return ActivityTask(recordings, by.split([2, 3]))

    found = torch.cat([detect_speech(random_detector, recording) for recording in recordings])
    rightly = labelled(found > found.median())
    assert score_activity(random_detector, rightly)["voice activity, area under the ROC curve"] == 1.0
    wrongly = labelled(found < found.median())
    assert score_activity(random_detector, wrongly)["voice activity, area under the ROC curve"] == 0.0
    assert score_activity(random_detector, labelled(found > 0.5))["voice activity, accuracy"] == 1.0


@pytest.mark.real
def test_equal_to_the_program_that_it_comes_as(archive: Path, folders: dict[str, Path]) -> None:
    model = load_voice_activity(archive)
    with warnings.catch_warnings():
        # It is TorchScript, which is deprecated, and what we do without.
        warnings.simplefilter("ignore")
        program = torch.jit.load(str(archive))
    for recording in read_activity_task(folders, recordings=1).recordings:
        found = detect_speech(model, recording)
        expected = program.audio_forward(recording[None], 16_000)[0]
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
        assert found.std() > 0.1


@pytest.mark.real
def test_speech_is_told_from_pauses(archive: Path, folders: dict[str, Path]) -> None:
    task = read_activity_task(folders)
    labels = torch.cat(list(task.labels))
    assert len(labels) > 3000
    assert 0.85 < float(labels.double().mean()) < 0.95
    scores = score_activity(load_voice_activity(archive), task)
    # Weak labels, and yet: 0.899 and 0.939 measured; always saying yes has 0.5 and 0.923.
    assert scores["voice activity, area under the ROC curve"] == pytest.approx(0.899, abs=0.005)
    assert scores["voice activity, accuracy"] == pytest.approx(0.939, abs=0.005)
