"""Resemblyzer's voice encoder: three LSTM layers that turn 1.6 s of speech into a 256-wide embedding.

Plain `torch.nn`; the checkpoint's own names are kept, so loading is `load_state_dict` and nothing else.
Source: Wan et al., "Generalized End-to-End Loss for Speaker Verification" (2018).
Neighbours: `mel` makes the frames, `voice_tasks` scores the embeddings.
"""

from __future__ import annotations

import pickle
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from intaglio.demo.errors import CarrierError

__all__ = ["VoiceEncoder", "load_voice_encoder"]

# Parameters of the training loss, which the encoder itself does not have.
_LOSS_PARAMETERS = {"similarity_weight", "similarity_bias"}


class VoiceEncoder(nn.Module):
    """Mel frames in, voice embeddings of length one out.

    >>> VoiceEncoder(mels=4, width=8, layers=1)(torch.rand(2, 10, 4)).shape
    torch.Size([2, 8])
    """

    def __init__(self, *, mels: int = 40, width: int = 256, layers: int = 3) -> None:
        super().__init__()
        self.lstm = nn.LSTM(mels, width, layers, batch_first=True)
        self.linear = nn.Linear(width, width)
        self.relu = nn.ReLU()

    def forward(self, mels: Tensor) -> Tensor:
        """`(B, T, mels) float32` to `(B, width) float32`, from the last layer's last state."""
        _, (last, _) = self.lstm(mels)
        return F.normalize(self.relu(self.linear(last[-1])), dim=-1)


def load_voice_encoder(path: Path) -> VoiceEncoder:
    """Read the model from Resemblyzer's `pretrained.pt`, in eval mode.

    Raises
    ------
    CarrierError
        the file is missing or damaged, or holds another network.
    """
    try:
        # weights_only: tensors and plain containers, no code.
        checkpoint = torch.load(path, weights_only=True, map_location="cpu")["model_state"]
    except (OSError, RuntimeError, KeyError, EOFError, pickle.UnpicklingError) as error:
        raise CarrierError(f"{path}: the voice encoder's weights cannot be read: {error}") from error
    state = {name: tensor for name, tensor in checkpoint.items() if name not in _LOSS_PARAMETERS}
    model = VoiceEncoder()
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise CarrierError(f"{path}: these are not the weights of Resemblyzer's encoder: {error}") from error
    return model.eval()
