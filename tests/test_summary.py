"""`summary`: every layer, quantized or not, why, and bytes that add up."""

import copy
import json
import pickle
import re

import pytest
import torch
from torch import nn

import intaglio
from intaglio import ConversionError, quantize_dynamic, summary


class Doubled(nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(x)


def network() -> nn.Module:
    model = nn.Sequential(
        nn.Linear(100, 50), nn.ReLU(), nn.BatchNorm1d(50), Doubled(50, 50), nn.Linear(50, 10)
    )
    return nn.ModuleDict({"body": model, "head": nn.Linear(50, 2)})


def quantized_network() -> nn.Module:
    return quantize_dynamic(network(), {nn.Linear: intaglio.default_dynamic_qconfig, "head": None})


def test_each_layer_with_its_reason() -> None:
    found = {
        (layer.path, layer.kind, layer.quantized): layer.note for layer in summary(quantized_network()).layers
    }
    assert list(found) == [
        ("body.0", "DynamicLinear", True),
        ("body.2", "BatchNorm1d", False),
        ("body.3", "Doubled", False),
        ("body.4", "DynamicLinear", True),
        ("head", "Linear", False),
    ]
    assert found["body.0", "DynamicLinear", True] == (
        "in_features=100, out_features=50, bias=True, weight=int8 per channel, activations=uint8 per row"
    )
    assert found["body.2", "BatchNorm1d", False] == "BatchNorm has no dynamic form"
    assert found["body.3", "Doubled", False] == "its class overrides Linear.forward"
    assert found["head", "Linear", False] == "not asked for"


def test_bytes_are_those_of_the_parameters_and_of_the_state() -> None:
    model, quantized = network(), quantized_network()
    report = summary(quantized)
    assert report.float_bytes == sum(p.numel() * p.element_size() for p in model.parameters())
    state = quantized.state_dict()
    floats = {name for name, _ in quantized.named_parameters()}
    ours = {name for name in state if name.split("weight")[0].split("bias")[0] in ("body.0.", "body.4.")}
    assert report.bytes == sum(state[name].numel() * state[name].element_size() for name in floats | ours)
    layer = report.layers[0]
    assert (layer.float_bytes, layer.bytes) == (4 * (100 * 50 + 50), 100 * 50 + 4 * 50 + 4 * 50)


def test_to_dict_is_json_and_complete() -> None:
    report = summary(quantized_network())
    found = json.loads(json.dumps(report.to_dict()))
    assert found["quantized_layers"] == 2
    assert (found["bytes"], found["float_bytes"]) == (report.bytes, report.float_bytes)
    assert [layer["path"] for layer in found["layers"]] == [layer.path for layer in report.layers]


def test_the_table_lines_up_and_adds_up() -> None:
    lines = str(summary(quantized_network())).splitlines()
    assert lines[0].split() == ["module", "class", "quantized", "float32", "now"]
    column = lines[0].index("quantized")
    assert [line[column:].split()[0] for line in lines[2:-1]] == ["yes", "no", "no", "yes", "no"]
    assert re.fullmatch(
        r"2 of 5 layers quantized; weights 33\.\d kB -> 17\.\d kB \(1\.9\d x smaller\)", lines[-1]
    )
    assert all(line == line.rstrip() for line in lines)


def test_float16_counts_as_quantized() -> None:
    (layer,) = summary(quantize_dynamic(nn.Sequential(nn.Linear(64, 64)), dtype=torch.float16)).layers
    assert layer.quantized
    assert layer.float_bytes / layer.bytes > 1.9
    assert "float16" in layer.note


def test_shared_weights_count_once() -> None:
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.Linear(64, 64))
    model[2].weight, model[2].bias = model[0].weight, model[0].bias
    model[3].weight = model[0].weight
    for converted in (model, quantize_dynamic(model, {"0", "2"})):
        layers = summary(converted).layers
        assert layers[1].path == "2"
        assert (layers[1].float_bytes, layers[1].bytes) == (0, 0)
        assert layers[1].note.endswith("shared with '0'")
    float_report = summary(model)
    assert float_report.bytes == sum(p.numel() * p.element_size() for p in model.parameters())
    assert float_report.layers[2].bytes == 64 * 4


def test_a_module_at_two_paths_is_listed_once() -> None:
    shared = nn.Linear(8, 8)
    assert len(summary(quantize_dynamic(nn.Sequential(shared, shared))).layers) == 1


def test_it_is_kept_by_copies_and_pickles() -> None:
    quantized = quantized_network()
    for other in (copy.deepcopy(quantized), pickle.loads(pickle.dumps(quantized))):
        assert summary(other).to_dict() == summary(quantized).to_dict()


def test_a_float_model_and_one_layer_and_nothing() -> None:
    layers = summary(nn.Sequential(nn.Linear(2, 2))).layers
    assert [(layer.quantized, layer.note) for layer in layers] == [(False, "not converted by intaglio")]
    alone = summary(quantize_dynamic(nn.Linear(8, 8)))
    assert [(layer.path, layer.quantized) for layer in alone.layers] == [("", True)]
    assert "(model)" in str(alone)
    nothing = summary(nn.ReLU())
    assert nothing.layers == ()
    assert str(nothing).endswith("0 of 0 layers quantized; weights 0 B -> 0 B (1.00 x smaller)")


def test_after_a_second_conversion_it_speaks_of_both() -> None:
    model = nn.ModuleDict({"a": nn.Linear(8, 8), "b": nn.Linear(8, 8), "c": nn.BatchNorm1d(8)})
    both = quantize_dynamic(quantize_dynamic(model, {"a"}), {"b"}, dtype=torch.float16)
    assert [layer.kind for layer in summary(both).layers] == ["DynamicLinear", "HalfLinear", "BatchNorm1d"]


def test_what_is_no_module_is_refused() -> None:
    with pytest.raises(ConversionError, match=r"takes an nn\.Module, not OrderedDict"):
        summary(network().state_dict())
