"""Layers that share a float weight hold the packed one once, in memory and in a file."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import intaglio
from benchmarks.architectures import ARCHITECTURES
from intaglio.eager.dynamic_quantization import quantize_dynamic
from intaglio.graph_passes.examples import Call
from intaglio.nn.quantized import QuantizedModule
from intaglio.nn.static_product import StaticProduct
from tests.file_models import assert_same


class Tied(nn.Module):
    """Two Linear layers with one weight and biases of their own, and a third with another weight."""

    def __init__(self) -> None:
        super().__init__()
        self.quant, self.dequant = intaglio.QuantStub(), intaglio.DeQuantStub()
        self.first, self.second, self.third = (nn.Linear(48, 48) for _ in range(3))
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.dequant(self.third(self.second(self.first(self.quant(x)))))


class Language(nn.Module):
    """An output layer that multiplies by the embedding's rows."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.block = nn.Embedding(60, 32), nn.Linear(32, 32)
        self.output = nn.Linear(32, 60, bias=False)
        self.output.weight = self.embedding.weight

    def forward(self, ids: Tensor) -> Tensor:
        return self.output(torch.relu(self.block(self.embedding(ids))))


def packed_of(model: nn.Module) -> dict[str, int]:
    """Where the packed weights lie in memory, by path."""
    return {
        path: buffer.data_ptr()
        for path, buffer in model.named_buffers(remove_duplicate=False)
        if "packed" in path
    }


def prepared_tied(qconfig: Any) -> tuple[nn.Module, nn.Module, Tensor]:
    torch.manual_seed(0)
    model = Tied().eval()
    model.qconfig = qconfig
    x = torch.randn(16, 48)
    prepared = intaglio.prepare(model)
    prepared(x)
    return model, prepared, x


def test_static_layers(tmp_path: Path) -> None:
    model, prepared, x = prepared_tied(intaglio.get_default_qconfig())
    converted = intaglio.convert(prepared)
    alone = copy.deepcopy(model)
    alone.second.weight = nn.Parameter(model.second.weight.detach().clone() * 1.0)
    assert converted.first.output.scalars != converted.second.output.scalars
    described = intaglio.save(converted, tmp_path / "model")
    loaded = intaglio.load(tmp_path / "model")
    with_model = intaglio.load(tmp_path / "model", model=model)
    for made in (converted, loaded, with_model, copy.deepcopy(converted)):
        where = packed_of(made)
        assert where["first.packed"] == where["second.packed"] != where["third.packed"]
        assert_same(made(x), converted(x))
        assert_same(made.second.weight.data, made.first.weight.data)
    weights = [t.name for t in described.tensors if t.name.endswith(".weight")]
    assert weights == ["first.weight", "third.weight"]
    assert 20 * torch.log10(model(x).norm() / (model(x) - converted(x)).norm()) > 25


def test_what_a_summary_counts() -> None:
    _, prepared, _ = prepared_tied(intaglio.get_default_qconfig())
    first, second, third = intaglio.summary(intaglio.convert(prepared)).layers
    assert "weight shared with 'first'" in second.note
    assert second.bytes == first.bytes - 48 * 48
    assert second.float_bytes == 4 * 48
    assert (third.bytes, third.float_bytes) == (first.bytes, first.float_bytes)


def test_dynamic_layers_of_convert(tmp_path: Path) -> None:
    model, prepared, x = prepared_tied(intaglio.default_dynamic_qconfig)
    model.second.bias = model.first.bias
    prepared = intaglio.prepare(model)
    converted = intaglio.convert(prepared)
    where = packed_of(converted)
    assert where["first.packed"] == where["second.packed"] != where["third.packed"]
    assert_same(converted(x), quantize_dynamic(model, {nn.Linear})(x))
    assert (converted.second.path, converted.first.path) == ("second", "first")
    state = converted.state_dict()
    assert state["first.weight"].data_ptr() == state["second.weight"].data_ptr()
    intaglio.save(converted, tmp_path / "model")
    assert len(set(packed_of(intaglio.load(tmp_path / "model")).values())) == 2


@pytest.mark.parametrize("mode", ["dynamic", "graph"])
def test_an_output_layer_tied_to_an_embedding(mode: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Language().eval()
    ids = torch.randint(0, 60, (3, 9))
    if mode == "dynamic":
        converted = quantize_dynamic(model)
    else:
        prepared = intaglio.prepare_fx(model, intaglio.get_default_qconfig_mapping(), (ids,))
        prepared(ids)
        converted = intaglio.convert_fx(prepared)
    assert sum(isinstance(part, QuantizedModule) for part in converted.modules()) >= 2
    assert 20 * torch.log10(model(ids).norm() / (model(ids) - converted(ids)).norm()) > 25
    intaglio.save(converted, tmp_path / "model")
    assert_same(intaglio.load(tmp_path / "model")(ids), converted(ids))


def test_modules_that_are_called_twice_in_a_graph(tmp_path: Path) -> None:
    architecture = next(a for a in ARCHITECTURES if a.name == "Shares modules")
    args, kwargs = architecture.inputs(0)
    prepared = intaglio.prepare_fx(
        architecture.make(), intaglio.get_default_qconfig_mapping(), Call(args, kwargs)
    )
    prepared(*args, **kwargs)
    converted = intaglio.convert_fx(prepared)
    products = [part for part in converted.modules() if isinstance(part, StaticProduct)]
    assert len({part.packed.data_ptr() for part in products}) < len(products)
    intaglio.save(converted, tmp_path / "model")
    loaded = intaglio.load(tmp_path / "model")
    assert len(set(packed_of(loaded).values())) == len(set(packed_of(converted).values()))
    assert_same(loaded(*args, **kwargs), converted(*args, **kwargs))


def test_weights_that_change_are_shared_no_more() -> None:
    _, prepared, x = prepared_tied(intaglio.get_default_qconfig())
    converted = intaglio.convert(prepared)
    before = converted.second.weight.data.clone()
    state = {name: tensor.clone() for name, tensor in converted.first.state_dict().items()}
    state["weight"].neg_()
    converted.first.load_state_dict(state)
    assert torch.equal(converted.second.weight.data, before)
    assert torch.equal(converted.first.weight.data, -before)
    converted(x)
