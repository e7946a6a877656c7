"""The recipe: train in float, quantize after training, or train on with the rounding in the loop.

Three functions, each of which stands for itself and may be copied: `train_float`, `quantize_after_training`
and `train_quantized`. Imports: torch and intaglio alone. Neighbours: `study` calls them over seeds and bits.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import intaglio

__all__ = [
    "Network",
    "Recipe",
    "evaluate",
    "predict",
    "quantize_after_training",
    "train_float",
    "train_quantized",
]

MEAN, DEVIATION = 0.286, 0.353
"""Of the training pixels, as fractions of 255."""

OnStep = Callable[[float], None]
"""Called with the loss of each step."""


@dataclass(frozen=True)
class Recipe:
    """How to train: epochs, the highest learning rate of the one cycle, and how it gets there."""

    epochs: int
    learning_rate: float
    warm_up: float
    batch: int = 128
    weight_decay: float = 5e-4

    def steps(self, pictures: int) -> int:
        """How many steps that is."""
        return self.epochs * -(-pictures // self.batch)


FLOAT = Recipe(epochs=6, learning_rate=0.2, warm_up=0.3)
QUANTIZED = Recipe(epochs=2, learning_rate=0.02, warm_up=0.1, weight_decay=1e-4)
"""From trained weights on, so a tenth of the rate is enough; few bits suffer from much decay."""


class Network(nn.Module):
    """Five convolutions with batch norm and ReLU, the mean over places, one Linear: 70,330 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.quant, self.dequant = intaglio.QuantStub(), intaglio.DeQuantStub()
        self.features = nn.Sequential(
            _block(1, 16), _block(16, 32, stride=2), _block(32, 32), _block(32, 64, stride=2), _block(64, 64)
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(64, 10)

    def forward(self, images: Tensor) -> Tensor:
        """`(N, 1, 28, 28)` to `(N, 10)` logits."""
        x = self.pool(self.features(self.quant(images)))
        logits: Tensor = self.dequant(self.classifier(torch.flatten(x, 1)))
        return logits


def _block(inputs: int, outputs: int, *, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
    )


def train_float(
    pixels: Tensor, labels: Tensor, recipe: Recipe = FLOAT, *, seed: int = 0, on_step: OnStep | None = None
) -> Network:
    """Train from scratch; the same seed gives the same network on the same machine."""
    torch.manual_seed(seed)
    # A third faster on CPUs: the channels of a place lie side by side.
    model = Network().to(memory_format=torch.channels_last)
    _train(model, pixels, labels, recipe, seed=seed, on_step=on_step)
    return model.eval()


def quantize_after_training(model: Network, pixels: Tensor, *, bits: int = 8) -> nn.Module:
    """Fuse, watch the ranges of activations over `pixels`, and convert. No training, no labels.

    `bits` are those of the weights; activations have 8.
    """
    fused = intaglio.fuse_modules(copy.deepcopy(model).eval())
    qconfig = intaglio.get_default_qconfig("x86")
    if bits < 8:
        narrow = intaglio.PerChannelMSEObserver.with_args(
            dtype="int8", qscheme=torch.per_channel_symmetric, **_integers(bits)
        )
        qconfig = intaglio.QConfig(activation=qconfig.activation, weight=narrow)
    fused.qconfig = qconfig
    prepared = intaglio.prepare(fused)
    with torch.inference_mode():
        for batch in pixels.split(256):
            prepared(normalize(batch))
    return intaglio.convert(prepared)


def train_quantized(
    model: Network,
    pixels: Tensor,
    labels: Tensor,
    recipe: Recipe = QUANTIZED,
    *,
    bits: int = 8,
    seed: int = 0,
    on_step: OnStep | None = None,
) -> tuple[nn.Module, nn.Module]:
    """Train a float model on with every value rounded as the int8 model will round it.

    `bits` are those of the weights; activations have 8. Below 8 bits the step between two values of a weight
    is learned together with the weight (LSQ, https://arxiv.org/abs/1902.08153).

    Returns
    -------
    tuple
        the model that was trained, which computes in float and can be trained on, and the int8 model.
    """
    torch.manual_seed(seed)
    fused = intaglio.fuse_modules_qat(copy.deepcopy(model).train())
    if bits == 8:
        fused.qconfig = intaglio.get_default_qat_qconfig("x86")
    else:
        fused.qconfig = intaglio.QConfig(
            activation=intaglio.default_fake_quant,
            weight=intaglio.LearnedFakeQuantize.with_args(dtype="int8", ch_axis=0, **_integers(bits)),
        )
    prepared = intaglio.prepare_qat(fused)
    # Ranges are watched in the first half alone, and the statistics of the batch norms stay what they are in
    # the last quarter: so the network that is trained at the end is the network that will be converted.
    steps = recipe.steps(len(pixels))
    schedule = intaglio.FreezeSchedule(
        prepared, observers_after=steps // 2, batch_norm_after=steps - steps // 4
    )
    _train(prepared, pixels, labels, recipe, seed=seed, on_step=on_step, schedule=schedule)
    prepared.eval()
    return prepared, intaglio.convert(prepared)


def _integers(bits: int) -> dict[str, int]:
    """The integers that a weight of so many bits takes; they are stored as int8."""
    return {"quant_min": -(1 << (bits - 1)), "quant_max": (1 << (bits - 1)) - 1}


def _train(
    model: nn.Module,
    pixels: Tensor,
    labels: Tensor,
    recipe: Recipe,
    *,
    seed: int,
    on_step: OnStep | None,
    schedule: intaglio.FreezeSchedule | None = None,
) -> None:
    """An ordinary loop: nothing in it knows of quantization but the call of the schedule."""
    model.train()
    draw = torch.Generator().manual_seed(seed)
    # Biases, batch norms and step sizes are few, and nothing is won by pulling them to zero.
    decayed = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in model.parameters() if parameter.ndim <= 1]
    optimizer = torch.optim.SGD(
        [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": others, "weight_decay": 0.0}],
        lr=recipe.learning_rate,
        momentum=0.9,
        nesterov=True,
    )
    rate = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, recipe.learning_rate, total_steps=recipe.steps(len(pixels)), pct_start=recipe.warm_up
    )
    for _ in range(recipe.epochs):
        for chosen in torch.randperm(len(pixels), generator=draw).split(recipe.batch):
            images = normalize(augment(pixels[chosen], draw))
            loss = F.cross_entropy(model(images), labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            rate.step()
            if schedule is not None:
                schedule.step()
            if on_step is not None:
                on_step(loss.item())


def augment(pixels: Tensor, draw: torch.Generator) -> Tensor:
    """Mirror half of the pictures; the left of a shoe is as good as its right."""
    is_mirrored = torch.rand(len(pixels), 1, 1, 1, generator=draw) < 0.5
    return torch.where(is_mirrored, pixels.flip(3), pixels)


def normalize(pixels: Tensor) -> Tensor:
    """Bytes as floats of mean 0 and deviation 1."""
    return (pixels.float() / 255 - MEAN) / DEVIATION


def predict(model: nn.Module, pixels: Tensor, *, batch: int = 500) -> Tensor:
    """`(N, 10)` logits, in batches."""
    with torch.inference_mode():
        return torch.cat([model(normalize(part)) for part in pixels.split(batch)])


def evaluate(model: nn.Module, pixels: Tensor, labels: Tensor) -> float:
    """The accuracy in percent."""
    return 100 * (predict(model, pixels).argmax(1) == labels).double().mean().item()
