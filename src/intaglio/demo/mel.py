"""Speech to mel frames, in plain torch: read a WAV file, resample, level, and take the mel power spectrum.

The frames are those the voice encoder was trained on: 16 kHz, Hann windows of 25 ms every 10 ms, 40 bands of
Slaney's filterbank on the power spectrum, no logarithm.
Source: Slaney, "Auditory Toolbox" (1998) for the mel scale and the filters of equal area.
Imports: torch. Neighbours: `voice_encoder` takes the frames.
"""

from __future__ import annotations

import math
import wave
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from intaglio.demo.errors import CarrierError

__all__ = ["SAMPLE_RATE", "mel_filterbank", "mel_frames", "read_wav", "resample"]

SAMPLE_RATE = 16_000
WINDOW = 400
HOP = 160
MELS = 40
LEVEL_DBFS = -30.0

# Slaney's scale: linear below 1 kHz (15 mels), logarithmic above, 27 mels to a factor of 6.4.
_HERTZ_PER_MEL = 200.0 / 3.0
_BREAK_HERTZ = 1000.0
_BREAK_MEL = _BREAK_HERTZ / _HERTZ_PER_MEL
_LOG_STEP = math.log(6.4) / 27.0


def read_wav(path: Path, *, seconds: float = math.inf) -> Tensor:
    """Read a 16-bit mono WAV file, or its first `seconds`: `(samples,) float32` in [-1, 1) at `SAMPLE_RATE`.

    Raises
    ------
    CarrierError
        the file is missing, damaged, or not 16-bit mono.
    """
    try:
        with wave.open(str(path), "rb") as file:
            channels, width, rate = file.getnchannels(), file.getsampwidth(), file.getframerate()
            data = file.readframes(int(min(file.getnframes(), seconds * rate)))
    except (OSError, EOFError, wave.Error) as error:
        raise CarrierError(f"{path}: not a WAV file that can be read: {error}") from error
    if channels != 1 or width != 2:
        raise CarrierError(f"{path}: {channels} channels of {8 * width} bits found, 1 of 16 expected")
    if not data:
        return torch.zeros(0)
    samples = torch.frombuffer(bytearray(data), dtype=torch.int16).float() / 32768.0
    return resample(samples, rate=rate, new_rate=SAMPLE_RATE)


def resample(samples: Tensor, *, rate: int, new_rate: int) -> Tensor:
    """Change the sample rate of `(samples,)` by the Fourier method: exact for a band-limited signal.

    >>> resample(torch.tensor([0.0, 1.0, 0.0, -1.0]), rate=8000, new_rate=16000)[::2].round(decimals=5).abs()
    tensor([0., 1., 0., 1.])
    """
    if rate == new_rate or len(samples) == 0:
        return samples
    length = round(len(samples) * new_rate / rate)
    bins = torch.fft.rfft(samples)
    kept = min(len(bins), length // 2 + 1)
    resampled: Tensor = torch.fft.irfft(bins[:kept], n=length)
    return resampled * (length / len(samples))


def mel_frames(samples: Tensor) -> Tensor:
    """The mel power spectrum of speech: `(samples,) float32` at `SAMPLE_RATE` to `(frames, MELS) float32`."""
    level = samples.square().mean().clamp_min(1e-20).sqrt()
    # Quiet recordings are raised to the level of the training data; loud ones are left.
    gain = (10.0 ** (LEVEL_DBFS / 20.0) / level).clamp_min(1.0)
    spectrum = torch.stft(
        samples * gain,
        n_fft=WINDOW,
        hop_length=HOP,
        window=torch.hann_window(WINDOW),
        center=True,
        pad_mode="constant",
        return_complex=True,
    )
    power = spectrum.abs().square()
    return (mel_filterbank() @ power).T.contiguous()


@lru_cache(maxsize=1)
def mel_filterbank() -> Tensor:
    """Slaney's triangular filters of equal area, up to half the rate: `(MELS, WINDOW // 2 + 1) float32`."""
    bins = torch.linspace(0.0, SAMPLE_RATE / 2, WINDOW // 2 + 1, dtype=torch.float64)
    top = _hertz_to_mel(SAMPLE_RATE / 2)
    edges = _mel_to_hertz(torch.linspace(0.0, top, MELS + 2, dtype=torch.float64))
    lower, centre, upper = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    rising = (bins - lower) / (centre - lower)
    falling = (upper - bins) / (upper - centre)
    triangles = torch.minimum(rising, falling).clamp_min(0.0)
    return (triangles * (2.0 / (upper - lower))).float()


def _hertz_to_mel(hertz: float) -> float:
    if hertz < _BREAK_HERTZ:
        return hertz / _HERTZ_PER_MEL
    return _BREAK_MEL + math.log(hertz / _BREAK_HERTZ) / _LOG_STEP


def _mel_to_hertz(mels: Tensor) -> Tensor:
    linear = mels * _HERTZ_PER_MEL
    logarithmic = _BREAK_HERTZ * torch.exp(_LOG_STEP * (mels - _BREAK_MEL))
    return torch.where(mels < _BREAK_MEL, linear, logarithmic)
