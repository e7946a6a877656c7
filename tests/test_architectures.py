"""The networks that quantization is proved on are sound: finite, repeatable, of any size they claim."""

from __future__ import annotations

import ast
import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from benchmarks.architectures import ARCHITECTURES, Architecture, MakeInputs


@pytest.fixture(autouse=True)
def _one_thread(_same_start: None) -> None:
    """On a busy machine the threads of small ops wait longer for each other than one would compute."""
    torch.set_num_threads(1)


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


def test_they_know_nothing_of_quantization() -> None:
    folder = Path(__file__).parent.parent / "benchmarks" / "architectures"
    sources = sorted(folder.glob("*.py"))
    assert len(sources) >= 15
    for source in sources:
        for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                modules = [node.module or ""]
            assert not [module for module in modules if module.partition(".")[0] == "intaglio"], source.name


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=lambda architecture: architecture.name)
def test_networks_are_sound(architecture: Architecture) -> None:
    before = torch.random.get_rng_state()
    model = architecture.make()
    assert not model.training
    assert torch.equal(torch.random.get_rng_state(), before)
    parameters = list(model.parameters())
    assert 1e6 <= sum(parameter.numel() for parameter in parameters) <= 1e7
    assert {parameter.dtype for parameter in parameters} == {torch.float32}
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
