"""Silero's voice activity detector: is somebody speaking in these 32 ms?

A spectrum by convolution, four Conv1d, an LSTMCell that remembers the call so far, and a last Conv1d. Plain
`torch.nn` without stubs. Weights: the 16 kHz network in `silero_vad.jit` of the wheel silero-vad, which is
TorchScript; its storages are read by number and the program in it is not.
Imports: torch. Neighbours: `voice_activity_tasks` scores it.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from intaglio.demo.checkpoints import fill_model, read_storages

__all__ = ["CHUNK", "VoiceActivity", "detect_speech", "load_voice_activity"]

CHUNK = 512
"""Samples judged at a time: 32 ms at 16 kHz."""
CONTEXT = 64
_BINS = 129
_HOP = 128
_WIDTH = 128
_CONVOLUTIONS = ((_BINS, 128, 1), (128, 64, 2), (64, 64, 2), (64, 128, 1))
"""Input channels, output channels and stride of the encoder."""

# The 16 kHz network's storages in the archive stand in the order of the state below, from this number on.
_FIRST_STORAGE = 2

State = tuple[Tensor, Tensor]


class VoiceActivity(nn.Module):
    """The network, for one chunk at a time.

    >>> probability, state = VoiceActivity()(torch.zeros(2, 576))
    >>> probability.shape, state[0].shape
    (torch.Size([2]), torch.Size([2, 128]))
    """

    basis: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("basis", torch.zeros(2 * _BINS, 1, 2 * _HOP))
        layers: list[nn.Module] = []
        for inputs, outputs, stride in _CONVOLUTIONS:
            layers += [nn.Conv1d(inputs, outputs, 3, stride, 1), nn.ReLU()]
        self.encoder = nn.Sequential(*layers)
        self.memory = nn.LSTMCell(_WIDTH, _WIDTH)
        self.decoder = nn.Sequential(nn.ReLU(), nn.Conv1d(_WIDTH, 1, 1), nn.Sigmoid())

    def forward(self, samples: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Judge one chunk.

        Parameters
        ----------
        samples
            `(B, CONTEXT + CHUNK) float32` in -1..1 at 16 kHz: the end of the chunk before, and the chunk.
        state
            What the call before returned; None at the start.

        Returns
        -------
        tuple
            The probability of speech, `(B,)`, and the state for the next chunk, two of `(B, 128)`.
        """
        padded = F.pad(samples.unsqueeze(1), (0, CONTEXT), "reflect")
        spectrum = F.conv1d(padded, self.basis, stride=_HOP)
        real, imaginary = spectrum[:, :_BINS], spectrum[:, _BINS:]
        magnitude = torch.sqrt(real**2 + imaginary**2)
        features = self.encoder(magnitude).squeeze(-1)
        hidden, cell = self.memory(features, state)
        return self.decoder(hidden.unsqueeze(-1)).flatten(), (hidden, cell)


def load_voice_activity(path: Path) -> VoiceActivity:
    """Read the model from `silero_vad.jit`, in eval mode, or raise `CarrierError`."""
    name = "Silero's voice activity detector"
    model = VoiceActivity()
    state = model.state_dict()
    tensors = read_storages(path, _FIRST_STORAGE, [tuple(tensor.shape) for tensor in state.values()], name)
    fill_model(model, dict(zip(state, tensors, strict=True)), path, name)
    return model.eval()


def detect_speech(model: nn.Module, samples: Tensor) -> Tensor:
    """The probability of speech in each chunk: `(samples,) float32` at 16 kHz to `(chunks,) float32`.

    What the last chunk lacks is silence.
    """
    if len(samples) == 0:
        return torch.zeros(0)
    padded = F.pad(samples, (CONTEXT, -len(samples) % CHUNK))
    state: State | None = None
    found = []
    with torch.inference_mode():
        for window in padded.unfold(0, CONTEXT + CHUNK, CHUNK):
            probability, state = model(window[None], state)
            found.append(probability)
    return torch.cat(found)
