"""Every architecture of the zoo through graph mode: none fails as a whole, and other sizes are taken."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import intaglio
from benchmarks.architectures import ARCHITECTURES, Architecture
from intaglio.quantize_fx import graph_record
from tests.fx.quantized_models import floats_in, quantize_architecture, sqnr

FLOOR = {"ResNet-50": 11.0, "MobileNetV2": 12.0, "MobileNetV2 by functions": 12.0, "ResNeXt": 16.0}
"""Random networks so deep that any noise grows: what the others reach, 17 dB, they do not."""

UNLIKE_THE_EXAMPLE = "prepare it with example_inputs like this call's"


@pytest.fixture(autouse=True)
def _one_thread(_same_start: None) -> None:
    torch.set_num_threads(1)


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=lambda a: a.name)
@torch.no_grad()
def test_it_is_quantized_and_takes_what_the_float_model_takes(architecture: Architecture) -> None:
    made = quantize_architecture(architecture.name)
    model, converted = made.model, made.converted
    assert made.prepared_sqnr > 80  # batch norms are folded; nothing else may differ
    assert made.is_untouched

    record = graph_record(converted)
    assert record is not None
    assert record.int8_macs >= 0.85 * record.macs > 0
    args, kwargs = architecture.inputs(9)
    expected, found = model(*args, **kwargs), converted(*args, **kwargs)
    assert type(found) is type(expected)
    assert sqnr(found, expected) >= FLOOR.get(architecture.name, 17.0)
    taken = 0
    for make in architecture.other_inputs:
        taken += _takes(converted, model, make(10))
    assert taken >= 1


def _takes(converted: Any, model: Any, inputs: tuple[Any, Any]) -> bool:
    """Whether the call is taken, rightly; a call of another kind than the example's is refused in words."""
    args, kwargs = inputs
    expected = model(*args, **kwargs)
    try:
        found = converted(*args, **kwargs)
    except intaglio.InputError as error:
        if UNLIKE_THE_EXAMPLE not in str(error):
            raise
        return False
    assert [x.shape for x in floats_in(found)] == [x.shape for x in floats_in(expected)]
    assert sqnr(found, expected) >= 10.0
    return True
