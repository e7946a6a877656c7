"""Distillation without labels: a quantized network learns to answer as its own float self does.

EfficientNet-Lite0 with its ImageNet weights, and twenty photos. The student is the network with the rounding
in the loop, the teacher the same network in float, and what the student learns from are crops of ten photos,
whose labels are never looked at. Judged by the other ten; then the halves change places. `distill` is what to
copy. Imports: the demo's network and photos, click, rich.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import click
import torch
import torch.nn.functional as F
from rich.table import Table
from torch import Tensor, nn

import intaglio
from intaglio.cli.console import report_errors, show, show_progress
from intaglio.demo.carriers import EFFICIENTNET_LITE0, PHOTOS, cache_folder, locate
from intaglio.demo.efficientnet import load_efficientnet_lite0
from intaglio.demo.photos import read_photos
from intaglio.demo.scoring import sqnr_db

BATCH = 8
LEARNING_RATE = 1e-5
FORMS = ("quantized after training", "distilled")

Draw = Callable[[], Tensor]
"""Gives a batch of inputs, another at each call."""


def distill(
    teacher: nn.Module,
    draw: Draw,
    *,
    steps: int,
    bits: int = 8,
    on_step: Callable[[float], None] | None = None,
) -> nn.Module:
    """The int8 form of `teacher`, trained to give its outputs: float model in, int8 model out, no labels.

    `bits` are those of the weights; activations have 8. `on_step` is called with each loss, the power of the
    error over the power of the output.
    """
    student = intaglio.fuse_modules_qat(copy.deepcopy(teacher).train())
    student.qconfig = _qconfig(bits)
    student = intaglio.prepare_qat(student)
    # A few photos say nothing of the statistics of a million: the batch norms stay what they are throughout.
    schedule = intaglio.FreezeSchedule(student, observers_after=steps // 2, batch_norm_after=0)
    optimizer = torch.optim.Adam(student.parameters(), lr=LEARNING_RATE)
    rate = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        inputs = draw()
        with torch.no_grad():
            expected = teacher(inputs)
        loss = F.mse_loss(student(inputs), expected) / expected.square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        rate.step()
        schedule.step()
        if on_step is not None:
            on_step(loss.item())
    return intaglio.convert(student.eval())


def quantize_after_training(model: nn.Module, batches: list[Tensor], *, bits: int = 8) -> nn.Module:
    """The int8 form of `model` without training, to compare with."""
    fused = intaglio.fuse_modules(model)
    fused.qconfig = intaglio.get_default_qconfig("x86")
    if bits < 8:
        weight = intaglio.PerChannelMSEObserver.with_args(
            dtype="int8", qscheme=torch.per_channel_symmetric, **_integers(bits)
        )
        fused.qconfig = intaglio.QConfig(activation=fused.qconfig.activation, weight=weight)
    prepared = intaglio.prepare(fused)
    with torch.inference_mode():
        for batch in batches:
            prepared(batch)
    return intaglio.convert(prepared)


def draw_crops(photos: Tensor, *, seed: int) -> Draw:
    """Batches of crops: each a part of a photo, half as wide or more, perhaps mirrored, in another light."""
    generator = torch.Generator().manual_seed(seed)
    size = photos.shape[-1]

    def draw() -> Tensor:
        crops = []
        for index in torch.randint(len(photos), (BATCH,), generator=generator).tolist():
            side = int(torch.randint(size // 2, size + 1, (), generator=generator))
            top, left = torch.randint(size - side + 1, (2,), generator=generator).tolist()
            crop = photos[index : index + 1, :, top : top + side, left : left + side]
            crop = F.interpolate(crop, (size, size), mode="bilinear", antialias=True)
            if torch.rand((), generator=generator) < 0.5:
                crop = crop.flip(3)
            light = 0.8 + 0.4 * torch.rand((), generator=generator)
            crops.append((crop * light).clamp(-1, 1))
        return torch.cat(crops)

    return draw


def _qconfig(bits: int) -> intaglio.QConfig:
    if bits == 8:
        return intaglio.get_default_qat_qconfig("x86")
    weight = intaglio.LearnedFakeQuantize.with_args(dtype="int8", ch_axis=0, **_integers(bits))
    return intaglio.QConfig(activation=intaglio.default_fake_quant, weight=weight)


def _integers(bits: int) -> dict[str, int]:
    """The integers that a weight of so many bits takes; they are stored as int8."""
    return {"quant_min": -(1 << (bits - 1)), "quant_max": (1 << (bits - 1)) - 1}


@click.command()
@click.option("--steps", type=click.IntRange(1), default=100, show_default=True, help="Of training, a half.")
@click.option("--bits", type=click.IntRange(2, 8), multiple=True, default=(8,), help="Of the weights.")
def main(steps: int, bits: tuple[int, ...]) -> None:
    """Signal to noise of the logits and answers on photos that were not learned from, before and after."""
    with report_errors(as_json=False), show_progress() as on_progress:
        weights, files = (
            locate(carrier, cache_folder(), on_progress) for carrier in (EFFICIENTNET_LITE0, PHOTOS)
        )
        teacher = load_efficientnet_lite0(next(iter(weights.values())))
        photos, labels = read_photos(files)
        with torch.inference_mode():
            expected = teacher(photos)
        found = {}
        for width in bits:
            for form in FORMS:
                found[width, form] = torch.empty_like(expected)
            for half in range(2):
                label = f"{width} bits, half {half + 1}"
                learned, judged = photos[half::2], photos[1 - half :: 2]
                steps_done = _count(label, steps, on_progress)
                forms = (
                    quantize_after_training(teacher, [*learned.split(1)], bits=width),
                    distill(
                        teacher, draw_crops(learned, seed=half), steps=steps, bits=width, on_step=steps_done
                    ),
                )
                for form, model in zip(FORMS, forms, strict=True):
                    with torch.inference_mode():
                        found[width, form][1 - half :: 2] = model(judged)
    show(_make_table(expected, labels, found))


def _count(
    label: str, steps: int, on_progress: Callable[[str, float, float], None]
) -> Callable[[float], None]:
    done = 0

    def on_step(loss: float) -> None:
        nonlocal done
        done += 1
        on_progress(label, done, steps)

    return on_step


def _make_table(expected: Tensor, labels: Tensor, found: dict[tuple[int, str], Tensor]) -> Table:
    table = Table(title="EfficientNet-Lite0 on photos that it was not fitted to")
    for column in ("weights", "", "SQNR of the logits", "same answer as float", "right answer"):
        table.add_column(column)
    answers = expected.argmax(1)
    table.add_row("float32", "", "", "", f"{int((answers == labels).sum())} of {len(labels)}")
    for (bits, form), logits in found.items():
        mine = logits.argmax(1)
        table.add_row(
            f"{bits} bits",
            form,
            f"{sqnr_db(expected, logits):.1f} dB",
            f"{int((mine == answers).sum())} of {len(labels)}",
            f"{int((mine == labels).sum())} of {len(labels)}",
        )
    return table


if __name__ == "__main__":
    main()
