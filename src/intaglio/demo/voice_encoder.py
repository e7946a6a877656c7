"""Resemblyzer's voice encoder: three LSTM layers that turn 1.6 s of speech into a 256-wide embedding.

Plain `torch.nn`; the checkpoint's own names are kept, so loading is `load_state_dict` and nothing else.
Source: Wan et al., "Generalized End-to-End Loss for Speaker Verification" (2018).
Neighbours: `mel` makes the frames, `voice_tasks` scores the embeddings.
"""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn
from torch.nn import functional as F

from intaglio.demo.checkpoints import fill_model, read_checkpoint
from intaglio.demo.errors import CarrierError

__all__ = ["VoiceEncoder", "load_voice_encoder"]

# Parameters of the training loss, which the encoder itself does not have.
_LOSS_PARAMETERS = {"similarity_weight", "similarity_bias"}


class VoiceEncoder(nn.Module):
    """Mel frames in, voice embeddings of length one out.

    >>> VoiceEncoder(mels=4, width=8, layers=1)(Tensor(2, 10, 4).fill_(0.5)).shape
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
    checkpoint = read_checkpoint(path, "Resemblyzer's encoder")
    if not isinstance(checkpoint, dict) or "model_state" not in checkpoint:
        raise CarrierError(f"{path}: these are not the weights of Resemblyzer's encoder: no 'model_state'")
    state = {
        name: tensor for name, tensor in checkpoint["model_state"].items() if name not in _LOSS_PARAMETERS
    }
    model = VoiceEncoder()
    fill_model(model, state, path, "Resemblyzer's encoder")
    return model.eval()
