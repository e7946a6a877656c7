"""The models: every one of `benchmarks.architectures`, and the demo's with their real weights and labels.

A subject is made once in each process that measures it. Inputs for calibration, for comparison, and of other
sizes and kinds are never the same ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import nn

from benchmarks.architectures import ARCHITECTURES, Architecture
from intaglio.graph_passes.examples import Call

__all__ = ["Subject", "SubjectName", "list_subjects"]

CALIBRATION_CALLS = 8
COMPARED_CALLS = 4
_FIRST_COMPARED_SEED, _OTHERS_SEED = 100, 200
# One of every kind: to see that the group works.
_QUICK = ("ResNet, gated", "Text CNN", "Voice encoder")
COMPILED = frozenset(
    {
        *("ResNet-18", "MobileNetV2", "ConvNeXt", "Vision transformer", "MLP-Mixer", "U-Net"),
        *("Encoder-decoder", "GPT", "Text CNN", "LSTM tagger", "EfficientNet-Lite0", "OCR recogniser"),
        "MiniLM",
    }
)
"""Of every kind one or two: those that a tool compiles which takes half a minute for each."""


@dataclass(frozen=True)
class Subject:
    """A float network in eval mode, batches of one for it, and its labelled task if it has one.

    Attributes:
        calibration: calls to calibrate on; the first is the example to trace.
        compared: calls of the same sizes, on which results are compared and timed.
        others: calls of other sizes and kinds.
        score: figures of accuracy of a form of the network, by name.
        in_groups: where activations are quantized as they come, a row needs more than one range.
    """

    module: nn.Module
    calibration: Sequence[Call]
    compared: Sequence[Call]
    others: Sequence[Call] = ()
    score: Callable[[nn.Module], dict[str, float]] = lambda module: {}
    in_groups: bool = False


@dataclass(frozen=True)
class SubjectName:
    """A subject before it is made.

    Attributes:
        is_real: it has real weights and labels.
        is_dynamic: activations are to be quantized as they come, not by ranges from calibration.
    """

    name: str
    make: Callable[[], Subject]
    is_real: bool = False
    is_dynamic: bool = False

    @property
    def is_compiled(self) -> bool:
        """Whether it is timed with tools that compile, too; the others are only compared there."""
        return self.name in COMPILED


def list_subjects(*, quick: bool = False) -> list[SubjectName]:
    """All models in the order of the table; three if `quick`."""
    from benchmarks.coverage.real_models import REAL_MODELS  # needs the demo's packages

    names = [SubjectName(one.name, lambda one=one: _make_subject(one)) for one in ARCHITECTURES]
    names += [SubjectName(*row[:2], is_real=True, is_dynamic=row[2]) for row in REAL_MODELS]
    return [name for name in names if not quick or name.name in _QUICK]


def _make_subject(architecture: Architecture) -> Subject:
    def call(seed: int) -> Call:
        return Call(*architecture.inputs(seed))

    compared = range(_FIRST_COMPARED_SEED, _FIRST_COMPARED_SEED + COMPARED_CALLS)
    return Subject(
        module=architecture.make(),
        calibration=[call(seed) for seed in range(CALIBRATION_CALLS)],
        compared=[call(seed) for seed in compared],
        others=[Call(*make(_OTHERS_SEED)) for make in architecture.other_inputs],
    )
