"""Linear with a range for each group of inputs: the sum of its parts, and better where one value is large."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import intaglio
from intaglio.nn import DynamicLinear, GroupedLinear

QCONFIG = intaglio.per_group_dynamic_qconfig


def grouped(layer: nn.Linear, size: int = 128) -> nn.Module:
    observer = intaglio.PlaceholderObserver.with_args(dtype="uint8", granularity=intaglio.PerGroup(size))
    return intaglio.quantize_dynamic(nn.Sequential(layer), {"0": intaglio.QConfig(observer, QCONFIG.weight)})


def error(found: Tensor, expected: Tensor) -> float:
    return float(((found - expected).norm() / expected.norm()).detach())


@pytest.mark.parametrize(("features", "size"), [(256, 128), (300, 128), (37, 64), (64, 64)])
@pytest.mark.parametrize("bias", [True, False])
def test_it_is_the_sum_of_its_parts(features: int, size: int, bias: bool) -> None:
    layer = nn.Linear(features, 19, bias=bias)
    quantized = grouped(layer, size)[0]  # type: ignore[index]
    assert isinstance(quantized, GroupedLinear)
    x = torch.randn(3, 5, features)
    weight = quantized.weight.dequantize()
    expected = torch.zeros(3, 5, 19)
    for start in range(0, features, size):
        part = x[..., start : start + size]
        low, high = part.amin(-1, True).clamp(max=0), part.amax(-1, True).clamp(min=0)
        step = (high - low) / 255
        rounded = ((part / step + (-low / step).round()).round().clamp(0, 255) - (-low / step).round()) * step
        expected += rounded @ weight[:, start : start + size].T
    expected += layer.bias if bias else 0.0
    assert error(quantized(x), expected) < 2e-3
    assert error(quantized(x), layer(x)) < 0.02


def test_one_large_value_spoils_its_own_group_alone() -> None:
    layer = nn.Linear(512, 32, bias=False)
    x = torch.randn(4, 512)
    x[:, 7] = 500.0
    layer.weight.data[:, 7] = 0.0
    by_row = intaglio.quantize_dynamic(nn.Sequential(layer), {nn.Linear})
    assert isinstance(by_row[0], DynamicLinear)  # type: ignore[index]
    assert error(grouped(layer)(x), layer(x)) < 0.6 * error(by_row(x), layer(x))


def test_files_copies_and_compiled_programs(tmp_path: Path) -> None:
    model = grouped(nn.Linear(300, 20))
    x = torch.randn(2, 300)
    expected = model(x)
    intaglio.save(model, tmp_path / "model.safetensors")
    assert torch.equal(intaglio.load(tmp_path / "model.safetensors")(x), expected)
    assert torch.equal(copy.deepcopy(model)(x), expected)
    other = grouped(nn.Linear(300, 20))
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(x), expected)
    assert torch.equal(torch.export.export(model, (x,)).module()(x), expected)
    assert model(torch.randn(0, 300)).shape == (0, 20)
    assert bool(torch.isnan(model(torch.full((1, 300), float("nan")))).all())


def test_bad_input() -> None:
    model = grouped(nn.Linear(300, 20))
    with pytest.raises(intaglio.InputError, match=r"'0' .*must be 300"):
        model(torch.randn(2, 299))
    with pytest.raises(intaglio.InputError, match="float tensor"):
        model(torch.zeros(2, 300, dtype=torch.long))
    with pytest.raises(intaglio.InputError, match="no gradient"):
        model(torch.randn(2, 300, requires_grad=True)).sum().backward()
