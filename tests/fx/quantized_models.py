"""What the tests of graph mode share: quantizing a model by it, and how far two outputs lie apart."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

import intaglio
from benchmarks.architectures import ARCHITECTURES
from intaglio.graph_passes.examples import Call


def quantize(model: nn.Module, *inputs: Any, mapping: Any = None, **more: Any) -> Any:
    """`model` by graph mode, traced on the first of `inputs` and calibrated on all."""
    calls = [Call(x if isinstance(x, tuple) else (x,), {}) for x in inputs]
    prepared = intaglio.prepare_fx(model, mapping or intaglio.get_default_qconfig_mapping(), calls[0], **more)
    with torch.no_grad():
        for call in calls:
            prepared(*call.args)
    return intaglio.convert_fx(prepared)


@dataclass(frozen=True)
class QuantizedArchitecture:
    """One of the zoo by graph mode, made once for all tests.

    prepared_sqnr: how near the prepared model is to the float one.
    is_untouched: whether that stayed as it was.
    """

    model: nn.Module
    converted: Any
    prepared_sqnr: float
    is_untouched: bool


@cache
@torch.no_grad()
def quantize_architecture(name: str) -> QuantizedArchitecture:
    """The architecture of that name, traced on its inputs and calibrated on four."""
    architecture = next(one for one in ARCHITECTURES if one.name == name)
    model = architecture.make()
    state = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    classes = [type(part) for part in model.modules()]
    args, kwargs = architecture.inputs(0)
    prepared = intaglio.prepare_fx(model, intaglio.get_default_qconfig_mapping(), Call(args, kwargs))
    for seed in range(4):
        args, kwargs = architecture.inputs(seed)
        found = prepared(*args, **kwargs)
    nearness = sqnr(found, model(*args, **kwargs))
    same = all(torch.equal(tensor, state[key]) for key, tensor in model.state_dict().items())
    is_untouched = same and [type(part) for part in model.modules()] == classes
    return QuantizedArchitecture(model, intaglio.convert_fx(prepared), nearness, is_untouched)


def floats_in(value: Any) -> Iterator[Tensor]:
    """The float tensors in an output of any structure."""
    if isinstance(value, Tensor):
        if value.is_floating_point():
            yield value
    elif isinstance(value, dict):
        yield from floats_in(list(value.values()))
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from floats_in(part)
    elif dataclasses.is_dataclass(value):
        yield from floats_in([getattr(value, field.name) for field in dataclasses.fields(value)])


def sqnr(found: Any, expected: Any) -> float:
    """The signal-to-noise ratio of all float tensors of two outputs, in dB."""
    found, expected = (
        torch.cat([x.detach().double().flatten() for x in floats_in(v)]) for v in (found, expected)
    )
    return float(20 * torch.log10(expected.norm() / (found - expected).norm()))


def kinds(model: nn.Module) -> Sequence[str]:
    """The class names of the quantized modules, in the model's order."""
    return [
        type(part).__name__
        for _, part in model.named_modules()
        if type(part).__module__.startswith("intaglio.nn")
    ]
