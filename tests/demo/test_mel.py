"""Reading, resampling and the mel spectrum; the reference's numbers are librosa's (0.11)."""

from __future__ import annotations

import math
import wave
from pathlib import Path

import pytest
import torch

from intaglio.demo.errors import CarrierError
from intaglio.demo.mel import SAMPLE_RATE, mel_filterbank, mel_frames, read_wav, resample


def _write_wav(path: Path, data: bytes, *, channels: int = 1, width: int = 2, rate: int = 8000) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(width)
        file.setframerate(rate)
        file.writeframes(data)
    return path


def test_filterbank_has_slaneys_numbers() -> None:
    filters = mel_filterbank()
    assert filters.shape == (40, 201)
    for (band, frequency), value in REFERENCE_FILTERS.items():
        assert filters[band, frequency].item() == pytest.approx(value, rel=1e-5)
    assert torch.count_nonzero(filters) == REFERENCE_NONZERO


def test_filters_have_equal_area() -> None:
    # In the upper bands, where there are many bins to a filter.
    areas = mel_filterbank()[30:].sum(1) * SAMPLE_RATE / 400
    assert torch.allclose(areas, torch.ones(10), atol=0.01)


def test_a_tone_lands_in_its_band() -> None:
    time = torch.arange(SAMPLE_RATE) / SAMPLE_RATE
    frames = mel_frames(0.1 * torch.sin(2 * math.pi * 1000.0 * time))
    assert frames.shape == (101, 40)
    loudest = frames[50].argmax().item()
    assert mel_filterbank()[loudest].argmax().item() * SAMPLE_RATE / 400 == pytest.approx(1000.0, abs=40)


def test_quiet_speech_is_raised_and_loud_speech_left() -> None:
    noise = torch.randn(SAMPLE_RATE)
    quiet, quieter, loud = (mel_frames(gain * noise) for gain in (1e-3, 1e-4, 0.2))
    torch.testing.assert_close(quiet, quieter, rtol=1e-4, atol=0.0)
    torch.testing.assert_close(loud, mel_frames(0.1 * noise) * 4, rtol=1e-4, atol=0.0)


def test_silence_is_finite() -> None:
    assert torch.equal(mel_frames(torch.zeros(SAMPLE_RATE)), torch.zeros(101, 40))


@pytest.mark.parametrize(("rate", "new_rate"), [(8000, 16000), (16000, 8000), (44100, 16000)])
def test_resampling_keeps_a_tone(rate: int, new_rate: int) -> None:
    # A whole number of periods, so that the Fourier method is exact.
    tone = torch.sin(2 * math.pi * 440.0 * torch.arange(rate, dtype=torch.float64) / rate)
    wanted = torch.sin(2 * math.pi * 440.0 * torch.arange(new_rate, dtype=torch.float64) / new_rate)
    torch.testing.assert_close(resample(tone, rate=rate, new_rate=new_rate), wanted, atol=1e-9, rtol=0)


def test_wav_is_read(tmp_path: Path) -> None:
    path = _write_wav(
        tmp_path / "a.wav", torch.tensor([0, 16384, -32768], dtype=torch.int16).numpy().tobytes(), rate=16000
    )
    assert read_wav(path).tolist() == [0.0, 0.5, -1.0]


def test_beginning_of_a_wav_is_read(tmp_path: Path) -> None:
    path = _write_wav(tmp_path / "a.wav", bytes(2 * 16000), rate=16000)
    assert read_wav(path, seconds=0.25).shape == (4000,)
    assert read_wav(path, seconds=9.0).shape == (16000,)


def test_wav_without_samples(tmp_path: Path) -> None:
    assert read_wav(_write_wav(tmp_path / "a.wav", b"")).shape == (0,)


@pytest.mark.parametrize(
    ("channels", "width", "found"), [(2, 2, "2 channels of 16 bits"), (1, 1, "1 channels of 8 bits")]
)
def test_wav_of_another_kind(tmp_path: Path, channels: int, width: int, found: str) -> None:
    path = _write_wav(tmp_path / "a.wav", bytes(8), channels=channels, width=width)
    with pytest.raises(CarrierError, match=rf"a\.wav: {found} found, 1 of 16 expected"):
        read_wav(path)


@pytest.mark.parametrize("data", [b"", b"RIFF", b"RIFF\x10\0\0\0WAVEfmt ", b"no sound at all"])
def test_wav_that_is_none(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(data)
    with pytest.raises(CarrierError, match=r"a\.wav: not a WAV file"):
        read_wav(path)


REFERENCE_NONZERO = 383
REFERENCE_FILTERS = {
    (0, 1): 0.0073902095,
    (0, 3): 0.0050143115,
    (7, 13): 0.00092543347,
    (7, 16): 0.0040888777,
    (15, 28): 0.00091278274,
    (15, 32): 0.0017423324,
    (20, 41): 0.00081763975,
    (20, 47): 0.00067759858,
    (39, 172): 2.0722595e-05,
    (39, 199): 0.0001215154,
}
