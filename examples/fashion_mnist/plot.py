"""Accuracy against the bits of the weights, as a picture. Imports: matplotlib. Neighbours: `report`."""

from __future__ import annotations

from pathlib import Path

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from examples.fashion_mnist.report import Run, spread_of

__all__ = ["draw_accuracy"]

METHODS = {"QAT": ("o", "trained with rounding (QAT)"), "PTQ": ("s", "quantized after training (PTQ)")}


def draw_accuracy(run: Run, path: Path) -> None:
    """Write the picture; what it is, an SVG or a PNG, follows from the name."""
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.add_subplot()
    every_bits = sorted({score.bits for score in run.scores if score.method != "float"})
    places = range(len(every_bits))
    for method, (marker, label) in METHODS.items():
        spreads = [spread_of(run.scores, method, bits) for bits in every_bits]
        found = [(place, spread) for place, spread in zip(places, spreads, strict=True) if spread is not None]
        axes.errorbar(
            [place for place, _ in found],
            [100 - spread.mean for _, spread in found],
            # From the worst seed to the best; in errors, so the best is the lowest.
            yerr=[[s.high - s.mean for _, s in found], [s.mean - s.low for _, s in found]],
            marker=marker,
            capsize=4,
            label=label,
        )
    before = spread_of(run.scores, "float", 32)
    if before is not None:
        axes.axhline(100 - before.mean, color="black", linestyle="--", linewidth=1, label="float32")
    # Logarithmic in the errors: half as many errors are as good a step from 92 % as from 50 %.
    axes.set_yscale("log")
    axes.invert_yaxis()
    axes.yaxis.set_major_locator(
        FixedLocator([100 - accuracy for accuracy in (10, 30, 50, 70, 80, 85, 90, 92)])
    )
    axes.yaxis.set_major_formatter(FuncFormatter(lambda error, _: f"{100 - error:g} %"))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_xticks(list(places), [str(bits) for bits in every_bits])
    axes.set_xlabel("bits of the weights (activations: 8)")
    axes.set_ylabel("accuracy")
    axes.set_title("Fashion-MNIST, 70,330 parameters; mean, worst and best seed")
    axes.grid(alpha=0.3)
    axes.legend()
    # The same figures give the same file.
    with matplotlib.rc_context({"svg.hashsalt": "intaglio"}):
        figure.savefig(path, dpi=150, metadata={"Date": None} if path.suffix == ".svg" else None)
