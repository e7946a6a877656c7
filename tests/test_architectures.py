"""The networks that quantization is proved on are sound: finite, repeatable, of any size they claim."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from benchmarks.architectures import ARCHITECTURES, Architecture, MakeInputs


def _run(model: nn.Module, make_inputs: MakeInputs, seed: int = 1) -> list[Tensor]:
    args, keywords = make_inputs(seed)
    with torch.no_grad():
        outputs = model(*args, **keywords)
    if dataclasses.is_dataclass(outputs):
        outputs = vars(outputs)
    return [leaf for leaf in tree_leaves(outputs) if isinstance(leaf, Tensor)]


def test_names_are_distinct() -> None:
    names = [architecture.name for architecture in ARCHITECTURES]
    assert len(set(names)) == len(names) >= 30


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=lambda architecture: architecture.name)
def test_networks_are_sound(architecture: Architecture) -> None:
    before = torch.random.get_rng_state()
    model = architecture.make()
    assert not model.training
    assert torch.equal(torch.random.get_rng_state(), before)
    parameters = list(model.parameters())
    assert 1e6 <= sum(parameter.numel() for parameter in parameters) <= 1e7
    assert {parameter.dtype for parameter in parameters} == {torch.float32}
    assert not any(type(module).__module__.startswith("intaglio") for module in model.modules())
    assert architecture.other_inputs
    for make_inputs in (architecture.inputs, *architecture.other_inputs):
        outputs = _run(model, make_inputs)
        assert outputs
        for output in outputs:
            assert output.isfinite().all()
            assert output.abs().max() < 1e3
        # Activations have not vanished on the way: another input gives clearly another output.
        changes = [
            (a - b).abs().float().mean() for a, b in zip(outputs, _run(model, make_inputs, 2), strict=True)
        ]
        assert max(changes) > 1e-2
        for again in (model, architecture.make()) if make_inputs is architecture.inputs else (model,):
            for first, second in zip(outputs, _run(again, make_inputs), strict=True):
                assert torch.equal(first, second)


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=lambda architecture: architecture.name)
def test_norms_have_statistics_of_their_own(architecture: Architecture) -> None:
    norms = [m for m in architecture.make().modules() if isinstance(m, (nn.BatchNorm1d, nn.BatchNorm2d))]
    for norm in norms:
        assert norm.momentum == 0.1
        assert norm.running_mean is not None
        assert norm.running_var is not None
        assert norm.running_mean.abs().max() > 1e-3
        assert not torch.allclose(norm.running_var, torch.ones(()))
        assert norm.weight.std() > 0.1
