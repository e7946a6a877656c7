"""`python -m examples.fashion_mnist`: train, quantize, and write the table and the picture."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path

import click

from examples.fashion_mnist.data import Pictures, read_fashion_mnist
from examples.fashion_mnist.report import Run, render_markdown, render_table
from examples.fashion_mnist.study import Study, run_study
from examples.fashion_mnist.train import FLOAT, QUANTIZED
from intaglio.cli.console import report_errors, show, show_progress
from intaglio.machine import describe_machine

HERE = Path(__file__).parent
PARTIAL = HERE.parent.parent / "build" / "fashion_mnist"
HELD_OUT = 5000
QUICK_TRAIN, QUICK_TEST = 4096, 2000


@click.command()
@click.option("--seeds", type=click.IntRange(1), default=3, show_default=True, help="How many networks.")
@click.option("--bits", type=click.IntRange(2, 8), multiple=True, help="Of the weights; may be repeated.")
@click.option("--epochs", type=click.IntRange(1), default=FLOAT.epochs, show_default=True, help="In float.")
@click.option(
    "--qat-epochs",
    type=click.IntRange(1),
    default=QUANTIZED.epochs,
    show_default=True,
    help="With rounding, from the float network on.",
)
@click.option("--held-out", is_flag=True, help="Judge by 5,000 training pictures: to choose a recipe by.")
@click.option("--quick", is_flag=True, help="Few pictures, one epoch: to see that it works, not to quote.")
@click.option("--output", type=click.Path(path_type=Path), help="Folder for what is written.")
def main(
    seeds: int,
    bits: tuple[int, ...],
    epochs: int,
    qat_epochs: int,
    held_out: bool,
    quick: bool,
    output: Path | None,
) -> None:
    """Accuracy of a small network by bits of its weights, quantized after training and in training.

    The complete study replaces what is in the folder `results` of this example; any other goes to
    build/fashion_mnist, unless --output names a folder.
    """
    study = Study(
        seeds=tuple(range(seeds)),
        bits=tuple(dict.fromkeys(bits)) or Study().bits,
        float_recipe=replace(FLOAT, epochs=epochs),
        quantized_recipe=replace(QUANTIZED, epochs=qat_epochs),
    )
    if quick:
        study = Study((0,), (8, 4), replace(FLOAT, epochs=2), replace(QUANTIZED, epochs=1), calibration=512)
    is_complete = study == Study() and not held_out
    folder = output or (HERE / "results" if is_complete else PARTIAL)
    # What an interrupted run has found is kept, but replaces no complete one.
    partial = output or PARTIAL
    for needed in (folder, partial):
        needed.mkdir(parents=True, exist_ok=True)
    with report_errors(as_json=False), show_progress() as on_progress:
        train, judged = read_fashion_mnist(on_progress)
        if held_out:
            train, judged = _hold_out(train)
        if quick:
            train, judged = train.take(QUICK_TRAIN), judged.take(QUICK_TEST)
        run = Run(_describe(study, train, judged), [])
        for score in run_study(study, train, judged, on_progress):
            run.scores.append(score)
            run.write(partial / "results.json")
    run.write(folder / "results.json")
    (folder / "RESULTS.md").write_text(render_markdown(run), encoding="utf-8")
    show(render_table(run))
    _draw(run, folder)
    click.echo(f"Written: {folder}", err=True)


def _hold_out(train: Pictures) -> tuple[Pictures, Pictures]:
    kept = Pictures(train.pixels[:-HELD_OUT], train.labels[:-HELD_OUT])
    return kept, Pictures(train.pixels[-HELD_OUT:], train.labels[-HELD_OUT:])


def _describe(study: Study, train: Pictures, judged: Pictures) -> dict[str, object]:
    """What a reader needs to compare with a run of his own."""
    machine = describe_machine()
    return {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        "cpu": machine.cpu,
        "isa": machine.isa,
        "versions": {name: metadata.version(name) for name in ("intaglio", "torch")},
        "judged": len(judged.pixels),
        "training": (
            f"{len(train.pixels):,} pictures, {study.float_recipe.epochs} epochs in float and "
            f"{study.quantized_recipe.epochs} with rounding; {study.calibration:,} for PTQ's ranges."
        ),
    }


def _draw(run: Run, folder: Path) -> None:
    try:
        from examples.fashion_mnist.plot import draw_accuracy
    except ModuleNotFoundError:
        click.echo("No picture: pip install matplotlib (the extra `examples`).", err=True)
        return
    for name in ("accuracy.svg", "accuracy.png"):
        draw_accuracy(run, folder / name)


if __name__ == "__main__":
    main()
