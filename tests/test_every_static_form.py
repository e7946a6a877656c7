"""What holds for the static form of every rule, proved on the rule's own examples.

Between a `QuantStub` and a `DeQuantStub`, calibrated on the example's input, the quantized module must be
accurate, give the same bits on every instruction set and number of threads, copy, pickle, save and load, be
traced, refuse float tensors, and serve several threads.
"""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

import intaglio
from intaglio import DeQuantStub, InputError, QTensor, QuantStub, _core
from intaglio.nn.quantized import QuantizedModule
from intaglio.nn.static import StaticModule
from intaglio.rules import OpRule, all_rules

Inputs = tuple[Any, ...]


class Between(nn.Module):
    """Stands for the user's model: one layer between stubs; inputs that are no tensors stay what they are."""

    def __init__(self, layer: nn.Module, inputs: Inputs) -> None:
        super().__init__()
        is_stub = isinstance(layer, QuantStub)
        quantized = (isinstance(x, Tensor) and not is_stub for x in inputs)
        self.quants = nn.ModuleList(QuantStub() if is_tensor else nn.Identity() for is_tensor in quantized)
        self.layer = layer
        self.dequant = DeQuantStub()
        self.gives_more = isinstance(layer, (nn.MultiheadAttention, nn.RNNBase, nn.LSTMCell))

    def forward(self, x: Any, y: Any = None, z: Any = None) -> Tensor:
        inputs = [quant(value) for quant, value in zip(self.quants, (x, y, z), strict=False)]
        found = self.layer(*inputs)
        first: Tensor = self.dequant(found[0] if self.gives_more else found)
        return first


@dataclass(frozen=True)
class Case:
    rule: OpRule
    example: int

    def __str__(self) -> str:
        return f"{self.rule.name}-{self.example}"

    def make(self) -> tuple[nn.Module, nn.Module, Inputs]:
        """The float model, the quantized one, and inputs."""
        torch.manual_seed(0)
        assert self.rule.static is not None
        layer, inputs = self.rule.static.examples[self.example]()
        model = Between(layer, inputs).eval()
        model.qconfig = intaglio.get_default_qconfig("x86")
        prepared = intaglio.prepare(model)
        with torch.no_grad():
            prepared(*inputs)
        return model.requires_grad_(False), intaglio.convert(prepared), inputs


def all_cases() -> Iterator[Case]:
    for rule in all_rules():
        for example in range(len(rule.static.examples) if rule.static else 0):
            yield Case(rule, example)


CASES = list(all_cases())
every_case = pytest.mark.parametrize("case", CASES, ids=str)


def layer_of(model: nn.Module) -> QuantizedModule:
    assert isinstance(model.layer, QuantizedModule)
    return model.layer


def test_forms_without_examples_are_known() -> None:
    without = {rule.name for rule in all_rules() if rule.static and not rule.static.examples}
    assert without == {"DeQuantStub", "FloatFunctional", "Embedding", "EmbeddingBag"}


@every_case
def test_accuracy(case: Case) -> None:
    model, quantized, inputs = case.make()
    expected, found = model(*inputs), quantized(*inputs)
    assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
    assert case.rule.static is not None
    sqnr = 20 * torch.log10(expected.norm() / (found - expected).norm())
    assert float(sqnr) >= case.rule.static.floor_sqnr


@every_case
def test_same_bits_on_every_instruction_set_and_number_of_threads(case: Case) -> None:
    _, quantized, inputs = case.make()
    expected = quantized(*inputs)
    for isa in _core.available_isas():
        _core.force_isa(isa)
        repacked = pickle.loads(pickle.dumps(quantized))  # packs for the instruction set in use
        for threads in (1, 3):
            torch.set_num_threads(threads)
            assert torch.equal(repacked(*inputs), expected), (isa, threads)


@every_case
def test_copies_pickles_and_state_dicts(case: Case) -> None:
    model, quantized, inputs = case.make()
    expected = quantized(*inputs)
    assert torch.equal(copy.deepcopy(quantized)(*inputs), expected)
    assert torch.equal(pickle.loads(pickle.dumps(quantized))(*inputs), expected)
    state = quantized.state_dict()
    fresh = type(layer_of(quantized)).from_config(layer_of(quantized).config())
    quantized.layer = fresh
    quantized.load_state_dict(state)
    assert torch.equal(quantized(*inputs), expected)
    for name, (shape, dtype) in fresh.state_spec().items():
        tensor = fresh.plain_state()[name]
        assert (tuple(tensor.shape), tensor.dtype) == (tuple(shape), dtype)
    assert model(*inputs).shape == expected.shape


@every_case
def test_files(case: Case, tmp_path: Path) -> None:
    model, quantized, inputs = case.make()
    expected = quantized(*inputs)
    intaglio.save(quantized, tmp_path / "model")
    assert torch.equal(intaglio.load(tmp_path / "model", model=model)(*inputs), expected)
    if all(isinstance(x, Tensor) for x in inputs):
        assert torch.equal(intaglio.load(tmp_path / "model")(*inputs), expected)


@every_case
def test_exported_programs_and_compiled_models_give_the_same_bits(case: Case) -> None:
    if any(not isinstance(x, Tensor) for x in case.make()[2]):
        pytest.skip("its inputs are not all tensors")
    _, quantized, inputs = case.make()
    expected = quantized(*inputs)
    with torch.no_grad():
        program = torch.export.export(copy.deepcopy(quantized), inputs)  # a copy that never ran
        compiled = torch.compile(quantized, backend="eager")
        assert torch.equal(program.module()(*inputs), expected)
        assert torch.equal(compiled(*inputs), expected)
    torch.compiler.reset()


@every_case
def test_meta_tensors_give_shapes(case: Case) -> None:
    _, quantized, inputs = case.make()
    on_meta = [x.to("meta") if isinstance(x, Tensor) else x for x in inputs]
    if str(case) == "MultiheadAttention-1":  # its bias_k is float, and torch does not mix devices
        with pytest.raises(RuntimeError, match="device meta"):
            quantized(*on_meta)
        return
    assert quantized(*on_meta).shape == quantized(*inputs).shape


@every_case
def test_float_tensors_are_refused_by_name(case: Case) -> None:
    _, quantized, inputs = case.make()
    layer = layer_of(quantized)
    if case.rule.name == "QuantStub":
        with pytest.raises(InputError, match="quantized already"):
            layer(layer(inputs[0]))
        return
    with pytest.raises(InputError, match=r"'layer' .* takes a QTensor"):
        layer(*inputs)


def coarser(x: QTensor) -> QTensor:
    """About the same values on steps twice as large."""
    qparams = replace(x.qparams, scale=x.qparams.scale * 2, zero_point=(x.qparams.zero_point + 128) // 2)
    return QTensor.quantize(x.dequantize(), qparams)


@every_case
def test_other_input_parameters_are_taken_up(case: Case) -> None:
    _, quantized, inputs = case.make()
    layer = layer_of(quantized)
    if not isinstance(layer, StaticModule) or case.rule.name == "QuantStub":
        pytest.skip("it takes no QTensor")
    first = quantized(*inputs)
    values = [quant(x) for quant, x in zip(quantized.quants, inputs, strict=True)]  # type: ignore[arg-type]
    coarse = [coarser(value) if isinstance(value, QTensor) else value for value in values]
    found = tree_leaves(layer(*coarse), is_leaf=lambda x: isinstance(x, QTensor))[0]
    if isinstance(found, QTensor):
        found = found.dequantize()
    sqnr = 20 * torch.log10(first.norm() / (found - first).norm())
    assert float(sqnr) >= 15.0
    assert torch.equal(quantized(*inputs), first)


@every_case
def test_several_threads(case: Case) -> None:
    _, quantized, inputs = case.make()
    expected = quantized(*inputs)

    def call(_: Any) -> bool:
        return all(torch.equal(quantized(*inputs), expected) for _ in range(3))

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(call, range(8)))
