"""Distillation without labels: a quantized network learns to answer as its own float self does.

The student is the network with the rounding in the loop, the teacher the same network in float; what the
student learns from are inputs alone. `distill` is what to copy: it needs torch, intaglio and a function that
gives inputs. The rest of the file does it to EasyOCR's recogniser, for which words are drawn without end, and
compares with quantization after training on words that neither has seen; `distillation.json` is what came
out, by `--output`. Imports: the demo's network and words, click, rich.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import torch
from rich.table import Table
from torch import Tensor, nn

import intaglio
from intaglio.cli.console import report_errors, show, show_progress
from intaglio.demo.carriers import EASYOCR, cache_folder, locate
from intaglio.demo.recogniser import decode, load_recogniser
from intaglio.demo.rendered_text import draw_words
from intaglio.demo.scoring import sqnr_db

STEPS = 150
LEARNING_RATE = 1.6e-3
"""Of weights of no bits: halved with each bit, as the distance between two weights is."""
CALIBRATION = 8
"""Batches of which the ranges of activations are taken."""

Draw = Callable[[], Tensor]
"""Gives a batch of inputs, another at each call."""


# ---- The recipe --------------------------------------------------------------------------------------------


def distill(
    teacher: nn.Module,
    draw: Draw,
    *,
    steps: int,
    bits: int = 8,
    layers: Sequence[str] = (),
    learning_rate: float | None = None,
    on_step: Callable[[float], None] | None = None,
) -> nn.Module:
    """The int8 form of `teacher`, trained to give its outputs: float model in, int8 model out, no labels.

    Parameters
    ----------
    teacher : nn.Module
        A float model with stubs, in eval mode. Have it without dropout, which would set in as the student
        trains.
    draw : callable
        Gives batches of inputs like those to come.
    steps : int
        Batches to train on.
    bits : int
        Of the weights, which are stored as int8; activations have 8.
    layers : sequence of str
        Paths of modules whose outputs shall agree too: a few, along the way.
    learning_rate : float, optional
        The highest, of Adam; by default smaller for more bits, as the steps between two weights are.
    on_step : callable, optional
        Called with each loss, the power of the error over the power of the output, summed over `layers`.
    """
    student = _begin(teacher, [draw() for _ in range(CALIBRATION)], bits)
    learning_rate = learning_rate or LEARNING_RATE / 2**bits
    # Adam moves every parameter alike, but of a scale's little step all the weights of a channel take part.
    scales = [parameter for name, parameter in student.named_parameters() if name.endswith(".scale")]
    others = [parameter for name, parameter in student.named_parameters() if not name.endswith(".scale")]
    optimizer = torch.optim.Adam(
        [{"params": others, "lr": learning_rate}, {"params": scales, "lr": learning_rate / 50}]
    )
    rate = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    with _watch(teacher, layers) as expected, _watch(student, layers) as found:
        for _ in range(steps):
            inputs = draw()
            with torch.no_grad():
                expected[""] = teacher(inputs)
            found[""] = student(inputs)
            loss = sum(
                (
                    (found[name] - target).square().mean() / target.square().mean()
                    for name, target in expected.items()
                ),
                torch.zeros(()),
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            rate.step()
            if on_step is not None:
                on_step(loss.item())
    return intaglio.convert(student.eval())


def _begin(teacher: nn.Module, batches: Sequence[Tensor], bits: int) -> nn.Module:
    """The student before its first step: as good as quantization without training."""
    # Batch norms are folded: who shall answer as the teacher has no use for other statistics.
    fused = intaglio.fuse_modules(copy.deepcopy(teacher))
    student = intaglio.round_weights(fused, batches, _narrow_qconfig(bits)).requires_grad_()
    student.qconfig = intaglio.QConfig(
        activation=intaglio.FakeQuantize.with_args(observer=intaglio.HistogramObserver, dtype="uint8"),
        weight=intaglio.LearnedFakeQuantize.with_args(dtype="int8", ch_axis=0, **_integers(bits)),
    )
    student = intaglio.prepare_qat(student)
    # Ranges of what nothing has rounded, by a histogram of all batches; held from here on.
    intaglio.disable_fake_quant(student)
    with torch.no_grad():
        for batch in batches:
            student(batch)
    intaglio.enable_fake_quant(student)
    intaglio.disable_observer(student)
    return student.train()


@contextmanager
def _watch(model: nn.Module, paths: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """The last outputs of the modules at `paths`, by path."""
    outputs: dict[str, Tensor] = {}

    def keep(path: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Tensor) -> None:
            outputs[path] = output

        return hook

    handles = [model.get_submodule(path).register_forward_hook(keep(path)) for path in paths]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


def _narrow_qconfig(bits: int) -> intaglio.QConfig:
    """The default for quantization after training, with weights of so many bits."""
    weight = intaglio.PerChannelMSEObserver.with_args(
        dtype="int8", qscheme=torch.per_channel_symmetric, **_integers(bits)
    )
    return intaglio.QConfig(activation=intaglio.get_default_qconfig("x86").activation, weight=weight)


def _integers(bits: int) -> dict[str, int]:
    """The integers that a weight of so many bits takes; they are stored as int8."""
    return {"quant_min": -(1 << (bits - 1)), "quant_max": (1 << (bits - 1)) - 1}


# ---- What it is compared with ------------------------------------------------------------------------------

FORMS: dict[str, dict[str, bool]] = {
    "after training": {},
    "`round_weights`": {"rounds_weights": True},
    "`equalize`, `round_weights`": {"equalizes": True, "rounds_weights": True},
    "`round_weights`, `correct_bias`": {"rounds_weights": True, "corrects_bias": True},
}
"""Quantization without training, and the tools before it."""
DISTILLED = "distilled"


def quantize_after_training(
    model: nn.Module,
    batches: Sequence[Tensor],
    *,
    bits: int = 8,
    equalizes: bool = False,
    rounds_weights: bool = False,
    corrects_bias: bool = False,
) -> nn.Module:
    """The int8 form of `model` without training."""
    qconfig = _narrow_qconfig(bits)
    fused = intaglio.fuse_modules(model)
    if equalizes:
        fused = intaglio.equalize(fused, batches)
    if rounds_weights:
        fused = intaglio.round_weights(fused, batches, qconfig)
    if corrects_bias:
        fused = intaglio.correct_bias(fused, batches, qconfig)
    fused.qconfig = qconfig
    prepared = intaglio.prepare(fused)
    with torch.inference_mode():
        for batch in batches:
            prepared(batch)
    return intaglio.convert(prepared)


# ---- The recogniser ----------------------------------------------------------------------------------------

BATCH = 8
LAYERS = ("features", "sequence.0", "sequence.1")
JUDGED = 20
"""Words in a batch that is judged."""
FIRST_SEED = {"calibration": 1_000_000, "training": 2_000_000, "judged": 3_000_000}

OnProgress = Callable[[str, float, float], None]


def draw_from(part: str) -> Draw:
    """Batches of words of one part, which shares none of its noise with the others."""
    seed = FIRST_SEED[part]

    def draw() -> Tensor:
        nonlocal seed
        seed += 1
        return _draw(BATCH, seed)[0]

    return draw


def _draw(count: int, seed: int) -> tuple[Tensor, list[str]]:
    # Hard enough to read for a worse network to read worse.
    return draw_words(count, noise=0.2, blur=1.0, seed=seed)


class Judge:
    """How a form of the recogniser reads words that none was fitted to, beside its float self."""

    def __init__(self, teacher: nn.Module, words: int, on_progress: OnProgress) -> None:
        self.on_progress = on_progress
        seeds = range(FIRST_SEED["judged"], FIRST_SEED["judged"] + -(-words // JUDGED))
        self.batches = [_draw(JUDGED, seed) for seed in seeds]
        self.texts = [text for _, texts in self.batches for text in texts]
        self.logits = self._read(teacher, "float32: judged")
        self.readings = [text for logits in self.logits for text in decode(logits)]

    def _read(self, model: nn.Module, label: str) -> list[Tensor]:
        found = []
        with torch.inference_mode():
            for done, (images, _) in enumerate(self.batches):
                self.on_progress(label, done, len(self.batches))
                found.append(model(images))
        self.on_progress(label, len(self.batches), len(self.batches))
        return found

    def float_score(self) -> dict[str, Any]:
        """How the float network reads."""
        return {"bits": 32, "form": "float32", "right": self._share(self.readings, self.texts)}

    def score(self, model: nn.Module, bits: int, form: str) -> dict[str, Any]:
        """Decibels over all logits, and percent of the words."""
        found = self._read(model, f"{bits} bits, {form}: judged")
        readings = [text for logits in found for text in decode(logits)]
        logits = (torch.cat([part.flatten() for part in parts]) for parts in (self.logits, found))
        return {
            "bits": bits,
            "form": form,
            "sqnr_db": round(sqnr_db(*logits), 2),
            "same": self._share(readings, self.readings),
            "right": self._share(readings, self.texts),
        }

    @staticmethod
    def _share(first: list[str], second: list[str]) -> float:
        return round(100 * sum(a == b for a, b in zip(first, second, strict=True)) / len(first), 2)


@click.command()
@click.option("--steps", type=click.IntRange(1), default=STEPS, show_default=True, help="Of training.")
@click.option(
    "--bits",
    type=click.IntRange(2, 8),
    multiple=True,
    default=(8, 4),
    show_default=True,
    help="Of the weights.",
)
@click.option("--words", type=click.IntRange(1), default=500, show_default=True, help="To judge by.")
@click.option("--quick", is_flag=True, help="Two steps, few words, few forms: to see that it works.")
@click.option("--output", type=click.Path(path_type=Path), help="File for the figures, as JSON.")
def main(steps: int, bits: tuple[int, ...], words: int, quick: bool, output: Path | None) -> None:
    """How EasyOCR's recogniser reads when it is quantized after training, and when it is distilled."""
    forms = FORMS
    if quick:
        steps, words, forms = 2, JUDGED, {form: tools for form, tools in FORMS.items() if not tools}
    with report_errors(as_json=False), show_progress() as on_progress:
        teacher = load_recogniser(locate(EASYOCR, cache_folder(), on_progress)["english_g2.pth"])
        judge = Judge(teacher.requires_grad_(False), words, on_progress)
        scores = [judge.float_score()]
        for width in bits:
            for form, model in _make_forms(teacher, forms, steps, width, on_progress):
                scores.append(judge.score(model, width, form))
    if output is not None:
        about = {"steps": steps, "words": len(judge.texts), "batch": BATCH}
        output.write_text(json.dumps({"about": about, "scores": scores}, indent=1) + "\n", encoding="utf-8")
    show(_make_table(scores))


def _make_forms(
    teacher: nn.Module,
    forms: dict[str, dict[str, bool]],
    steps: int,
    bits: int,
    on_progress: OnProgress,
) -> Iterator[tuple[str, nn.Module]]:
    draw = draw_from("calibration")
    batches = [draw() for _ in range(CALIBRATION)]
    for form, tools in forms.items():
        on_progress(f"{bits} bits, {form}", 0, 1)
        yield form, quantize_after_training(teacher, batches, bits=bits, **tools)
        on_progress(f"{bits} bits, {form}", 1, 1)
    label, done = f"{bits} bits, {DISTILLED}", 0

    def on_step(loss: float) -> None:
        nonlocal done
        done += 1
        on_progress(label, done, steps)

    yield (
        DISTILLED,
        distill(teacher, draw_from("training"), steps=steps, bits=bits, layers=LAYERS, on_step=on_step),
    )


def rows_of(scores: Sequence[dict[str, Any]]) -> list[tuple[str, ...]]:
    """The cells of the table: weights, form, SQNR, same reading as float, right reading."""
    rows: list[tuple[str, ...]] = []
    for score in scores:
        if score["bits"] == 32:
            rows.append(("float32", "", "", "", f"{score['right']:.1f} %"))
        else:
            rows.append(
                (
                    f"{score['bits']} bits",
                    score["form"],
                    f"{score['sqnr_db']:.1f} dB",
                    f"{score['same']:.1f} %",
                    f"{score['right']:.1f} %",
                )
            )
    return rows


def _make_table(scores: Sequence[dict[str, Any]]) -> Table:
    table = Table(title="EasyOCR's recogniser on words that it was not fitted to")
    for column in ("weights", "", "SQNR of the logits", "same reading as float", "right reading"):
        table.add_column(column)
    for row in rows_of(scores):
        table.add_row(*row)
    return table


if __name__ == "__main__":
    main()
