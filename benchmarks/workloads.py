"""What is computed: networks, and inputs at the shapes to report.

Five groups: `kernels` (one Linear at many shapes), `convolutions` (the layers of ResNet-18 and MobileNetV2,
each alone), `minilm` (a sentence encoder) and `lstm` (a voice encoder), both made by `models`, and `vision`
(whole convolutional networks, made by `vision_models`). A `Network` is built once and timed at each `Case`.
Knows no contestant.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

__all__ = ["GROUPS", "Case", "Inputs", "Network", "list_shapes", "make_networks"]

Inputs = tuple[Tensor, ...]

GROUPS = ("kernels", "convolutions", "minilm", "lstm", "vision")

_ROWS = (1, 16, 32, 128, 512)
_WIDTHS = (384, 768, 1536, 3072)
# So small that the time is Python and dispatch and nothing else.
_OVERHEAD = (1, 16, 16)

# By group: M, K, N of a Linear; batch and tokens; batch and frames; number of a network and batch.
# Size, input and output channels, kernel, stride and groups of the layers that differ.
_RESNET18 = (
    (224, 3, 64, 7, 2, 1),
    (56, 64, 64, 3, 1, 1),
    *((size, c, 2 * c, k, 2, 1) for size, c in ((56, 64), (28, 128), (14, 256)) for k in (3, 1)),
    *((size, c, c, 3, 1, 1) for size, c in ((28, 128), (14, 256), (7, 512))),
)
# Size, input channels, expanded channels, output channels, stride of the blocks that differ.
_MOBILENETV2_BLOCKS = (
    (112, 16, 96, 24, 2),
    (56, 24, 144, 24, 1),
    (56, 24, 144, 32, 2),
    (28, 32, 192, 32, 1),
    (28, 32, 192, 64, 2),
    (14, 64, 384, 64, 1),
    (14, 64, 384, 96, 1),
    (14, 96, 576, 96, 1),
    (14, 96, 576, 160, 2),
    (7, 160, 960, 160, 1),
    (7, 160, 960, 320, 1),
)
_MOBILENETV2 = (
    (224, 3, 32, 3, 2, 1),
    (112, 32, 32, 3, 1, 32),
    (112, 32, 16, 1, 1, 1),
    *(
        layer
        for size, c, wide, n, stride in _MOBILENETV2_BLOCKS
        for layer in (
            (size, c, wide, 1, 1, 1),
            (size, wide, wide, 3, stride, wide),
            (size // stride, wide, n, 1, 1, 1),
        )
    ),
    (7, 320, 1280, 1, 1, 1),
)

# By group: M, K, N of a Linear; a layer as above; batch and tokens; batch and frames; network and batch.
SHAPES: Mapping[str, tuple[tuple[int, ...], ...]] = {
    "kernels": (
        _OVERHEAD,
        *((m, k, n) for k in _WIDTHS for n in _WIDTHS for m in _ROWS),
        (1, 4096, 4096),
        (512, 1024, 1024),
        (1024, 4096, 1024),
    ),
    "convolutions": tuple(dict.fromkeys((*_RESNET18, *_MOBILENETV2))),
    "minilm": ((1, 32), (1, 128), (8, 128)),
    "lstm": ((1, 160), (16, 160)),
    "vision": ((0, 1), (1, 1), (2, 1), (2, 8), (3, 1)),
}
QUICK_SHAPES: Mapping[str, tuple[tuple[int, ...], ...]] = {
    "kernels": (_OVERHEAD, *((m, k, n) for k in (384, 1536) for n in (384, 1536) for m in (1, 16, 128))),
    "convolutions": (_RESNET18[1], _MOBILENETV2[1], _MOBILENETV2[-1]),
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
    if group == "convolutions":
        return _make_convolutions(shapes)
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


def _make_convolutions(shapes: Sequence[tuple[int, ...]]) -> Iterator[Network]:
    for size, c, n, kernel, stride, groups in shapes:
        module = nn.Conv2d(c, n, kernel, stride, kernel // 2, groups=groups).eval()
        x = torch.randn(1, c, size, size).contiguous(memory_format=torch.channels_last)
        pixels = ((size - 1) // stride + 1) ** 2
        kind = " depthwise" if groups > 1 else ""
        label = f"{size}x{size}x{c} to {n}, {kernel}x{kernel} / {stride}{kind}"
        operations = 2 * pixels * n * (c // groups) * kernel**2
        yield Network("convolutions", label, module, (Case(label, (x,), operations),))
