"""The recipe over seeds and bits: which networks are trained, and how each is judged.

Imports: torch, and the records of `report`. Neighbours: `train` is what it calls, `__main__` calls it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from torch import Tensor, nn

from examples.fashion_mnist.data import Pictures
from examples.fashion_mnist.report import Score
from examples.fashion_mnist.train import (
    FLOAT,
    QUANTIZED,
    OnStep,
    Recipe,
    predict,
    quantize_after_training,
    train_float,
    train_quantized,
)
from intaglio.demo.fetching import OnProgress

__all__ = ["Study", "run_study"]

STEPS_BEFORE_GUESS = 50


@dataclass(frozen=True)
class Study:
    """What is trained, and how often.

    `bits` are those of the weights. `calibration` is the number of pictures over which quantization after
    training watches the ranges of activations.
    """

    seeds: tuple[int, ...] = (0, 1, 2)
    bits: tuple[int, ...] = (8, 4, 3, 2)
    float_recipe: Recipe = FLOAT
    quantized_recipe: Recipe = QUANTIZED
    calibration: int = 2048

    def steps(self, pictures: int) -> int:
        """Of all trainings together; one with rounding costs about as much as one in float."""
        rounded = len(self.bits) * self.quantized_recipe.steps(pictures)
        return len(self.seeds) * (self.float_recipe.steps(pictures) + rounded)


def run_study(study: Study, train: Pictures, judged: Pictures, on_progress: OnProgress) -> Iterator[Score]:
    """Train and judge one network after the other; those of a seed start from its float network."""
    pace = _Pace(study.steps(len(train.pixels)), on_progress)
    for seed in study.seeds:
        steps = study.float_recipe.steps(len(train.pixels))
        on_step = pace.follow(f"seed {seed}: float", steps)
        model = train_float(*train, study.float_recipe, seed=seed, on_step=on_step)
        yield Score(seed, "float", 32, _accuracy(predict(model, judged.pixels), judged.labels))
        for bits in study.bits:
            few = train.pixels[: study.calibration]
            quantized: nn.Module = quantize_after_training(model, few, bits=bits)
            yield Score(seed, "PTQ", bits, _accuracy(predict(quantized, judged.pixels), judged.labels))
            steps = study.quantized_recipe.steps(len(train.pixels))
            on_step = pace.follow(f"seed {seed}: {bits} bits", steps)
            simulated, quantized = train_quantized(
                model, *train, study.quantized_recipe, bits=bits, seed=seed, on_step=on_step
            )
            before, after = predict(simulated, judged.pixels), predict(quantized, judged.pixels)
            yield Score(
                seed,
                "QAT",
                bits,
                _accuracy(after, judged.labels),
                simulated=_accuracy(before, judged.labels),
                changed=int((before.argmax(1) != after.argmax(1)).sum()),
            )


def _accuracy(logits: Tensor, labels: Tensor) -> float:
    """In percent."""
    return round(100 * (logits.argmax(1) == labels).double().mean().item(), 4)


@dataclass
class _Pace:
    """Says how far the networks are, and after some steps how long all of them will take."""

    total: int
    on_progress: OnProgress
    done: int = 0
    began: float = field(default_factory=time.monotonic)
    whole: str = ""

    def follow(self, label: str, steps: int) -> OnStep:
        """What to call at each of the `steps` of a network."""
        if self.whole:
            label = f"{label}; {self._time_for(self.total - self.done)} to go"
        taken = 0

        def on_step(loss: float) -> None:
            nonlocal taken
            taken += 1
            self.done += 1
            self.on_progress(label, taken, steps)
            if not self.whole and self.done >= STEPS_BEFORE_GUESS:
                self.whole = f"all networks: {self._time_for(self.total)}"
            if self.whole:
                self.on_progress(self.whole, self.done, self.total)

        self.on_progress(label, 0, steps)
        return on_step

    def _time_for(self, steps: int) -> str:
        """What so many steps take at the pace so far."""
        minutes = steps * (time.monotonic() - self.began) / self.done / 60
        return "less than a minute" if minutes < 1 else f"about {minutes:.0f} min"
