"""The recipe over seeds and bits: which networks are trained, and how each is judged.

Imports: torch, and the records of `report`. Neighbours: `train` is what it calls, `__main__` calls it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

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


def run_study(study: Study, train: Pictures, judged: Pictures, on_progress: OnProgress) -> Iterator[Score]:
    """Train and judge one network after the other; those of a seed start from its float network."""
    for seed in study.seeds:
        steps = study.float_recipe.steps(len(train.pixels))
        on_step = _count_steps(f"seed {seed}: float", steps, on_progress)
        model = train_float(*train, study.float_recipe, seed=seed, on_step=on_step)
        yield Score(seed, "float", 32, _accuracy(predict(model, judged.pixels), judged.labels))
        for bits in study.bits:
            few = train.pixels[: study.calibration]
            quantized: nn.Module = quantize_after_training(model, few, bits=bits)
            yield Score(seed, "PTQ", bits, _accuracy(predict(quantized, judged.pixels), judged.labels))
            steps = study.quantized_recipe.steps(len(train.pixels))
            on_step = _count_steps(f"seed {seed}: {bits} bits", steps, on_progress)
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


def _count_steps(label: str, steps: int, on_progress: OnProgress) -> OnStep:
    done = 0

    def on_step(loss: float) -> None:
        nonlocal done
        done += 1
        on_progress(label, done, steps)

    on_progress(label, 0, steps)
    return on_step
