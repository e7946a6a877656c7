"""What is computed: networks, and inputs at the shapes to report.

Four groups: `kernels` (one Linear at many shapes), `minilm` (a sentence encoder), `lstm` (a voice encoder),
both made by `models`, and `vision` (convolutional networks, made by `vision_models`). A `Network` is built
once and timed at each `Case`.
Knows no contestant.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

__all__ = ["GROUPS", "Case", "Inputs", "Network", "list_shapes", "make_networks"]

Inputs = tuple[Tensor, ...]

GROUPS = ("kernels", "minilm", "lstm", "vision")

_ROWS = (1, 16, 32, 128, 512)
_WIDTHS = (384, 768, 1536, 3072)
# So small that the time is Python and dispatch and nothing else.
_OVERHEAD = (1, 16, 16)

# By group: M, K, N of a Linear; batch and tokens; batch and frames; number of a network and batch.
SHAPES: Mapping[str, tuple[tuple[int, ...], ...]] = {
    "kernels": (
        _OVERHEAD,
        *((m, k, n) for k in _WIDTHS for n in _WIDTHS for m in _ROWS),
        (1, 4096, 4096),
        (512, 1024, 1024),
        (1024, 4096, 1024),
    ),
    "minilm": ((1, 32), (1, 128), (8, 128)),
    "lstm": ((1, 160), (16, 160)),
    "vision": ((0, 1), (1, 1), (2, 1), (2, 8), (3, 1)),
}
QUICK_SHAPES: Mapping[str, tuple[tuple[int, ...], ...]] = {
    "kernels": (_OVERHEAD, *((m, k, n) for k in (384, 1536) for n in (384, 1536) for m in (1, 16, 128))),
    "minilm": ((1, 32),),
    "lstm": ((1, 160),),
    "vision": ((1, 1),),
}


@dataclass(frozen=True)
class Case:
    """Inputs of one shape.

    Attributes:
        label: the row's name, such as `1x128`.
        inputs: positional arguments of the network.
        operations: int8 multiplications and additions, two for each weight a row meets.
        streamed_bytes: int8 weights to read for a single row, where that is the limit; 0 where arithmetic is.
    """

    label: str
    inputs: Inputs
    operations: int
    streamed_bytes: int = 0


@dataclass(frozen=True)
class Network:
    """A float network and the inputs to time it with.

    Attributes:
        group: one of `GROUPS`.
        name: the network's name, for progress and tables.
        module: in eval mode.
        cases: the rows of the table.
        calibration: inputs for contestants that want activation ranges beforehand; none of them is timed.
        attention: what ONNX Runtime's optimizer must be told to fuse attention; empty if there is none.
    """

    group: str
    name: str
    module: nn.Module
    cases: tuple[Case, ...]
    calibration: tuple[Inputs, ...] = ()
    attention: Mapping[str, int] = field(default_factory=dict)


def list_shapes(group: str, *, quick: bool = False) -> tuple[tuple[int, ...], ...]:
    """The shapes of a group's cases; fewer if `quick`."""
    return (QUICK_SHAPES if quick else SHAPES)[group]


def make_networks(group: str, *, quick: bool = False) -> Iterator[Network]:
    """The networks of a group, one after the other, so that only one is in memory."""
    torch.manual_seed(0)
    shapes = list_shapes(group, quick=quick)
    if group == "kernels":
        return _make_linears(shapes)
    from benchmarks import models, vision_models  # need the demo's packages, which the kernels do not

    makers = {
        "minilm": models.make_minilm,
        "lstm": models.make_voice_encoder,
        "vision": vision_models.make_vision,
    }
    return makers[group](shapes)


def _make_linears(shapes: Sequence[tuple[int, ...]]) -> Iterator[Network]:
    for k, n in dict.fromkeys(shape[1:] for shape in shapes):
        cases = tuple(
            Case(f"{m} x {k} x {n}", (torch.randn(m, k),), 2 * m * k * n, k * n if m == 1 else 0)
            for m, wide, out in shapes
            if (wide, out) == (k, n)
        )
        yield Network("kernels", f"Linear({k}, {n})", nn.Linear(k, n).eval(), cases)
