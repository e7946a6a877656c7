"""`auto_quantize`: data of every structure, each method, scores, and bad input.

A single call was asked for and refused: pytorch/pytorch#48537.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import intaglio
from tests.fx.quantized_models import kinds, sqnr


class Classifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
        self.norm, self.first, self.second = nn.LayerNorm(8), nn.Linear(8, 16), nn.Linear(16, 8)
        self.head = nn.Linear(8, 4)
        self.eval()

    def forward(self, pixels: Tensor, mask: Tensor | None = None) -> Tensor:
        x = self.conv(pixels).flatten(2).transpose(1, 2)
        x = x + self.second(torch.nn.functional.gelu(self.first(self.norm(x))))
        return self.head(self.norm(x).mean(1))


def batches(count: int = 4) -> list[Tensor]:
    return [torch.randn(2, 3, 8, 8) for _ in range(count)]


def generator() -> Iterator[Tensor]:
    yield from batches()


DATA: dict[str, Any] = {
    "a list of tensors": batches,
    "a generator": generator,
    "tuples with labels": lambda: [(x, torch.zeros(2, dtype=torch.long)) for x in batches()],
    "a DataLoader": lambda: DataLoader(TensorDataset(torch.randn(8, 3, 8, 8), torch.zeros(8)), batch_size=4),
    "dicts with labels": lambda: [{"pixels": x, "labels": torch.zeros(2)} for x in batches()],
    "a function": lambda: lambda model: [model(x) for x in batches()],
    "a function that names arguments": lambda: lambda model: [model(pixels=x) for x in batches()],
}


@pytest.mark.parametrize("name", DATA)
def test_data_of_every_structure(name: str, tmp_path: Path) -> None:
    model = Classifier()
    quantized = intaglio.auto_quantize(model, DATA[name](), progress=False)
    x = torch.randn(3, 3, 8, 8)
    assert sqnr(quantized(pixels=x), model(x)) > 18
    intaglio.save(quantized, tmp_path / "model.safetensors")
    assert torch.equal(intaglio.load(tmp_path / "model.safetensors")(x), quantized(x))


def test_auto_decides_layer_by_layer() -> None:
    found = kinds(intaglio.auto_quantize(Classifier(), batches(), progress=False))
    assert found.count("QuantizedConv") == 1
    assert found.count("QuantizedLinear") == 2  # what follows the convolution in integers
    assert found.count("DynamicLinear") == 1  # what follows a sum that stays float
    static = kinds(intaglio.auto_quantize(Classifier(), batches(), method="static", progress=False))
    assert static.count("QuantizedLinear") == 3
    dynamic = kinds(
        intaglio.auto_quantize(Classifier(), method="dynamic", example_inputs=(batches()[0],), progress=False)
    )
    assert dynamic.count("DynamicLinear") == 3
    assert dynamic.count("DynamicConv") == 1


def test_without_data_and_example_the_eager_way() -> None:
    quantized = intaglio.auto_quantize(nn.Sequential(nn.Linear(8, 8)).eval(), progress=False)
    assert kinds(quantized) == ["DynamicLinear"]


def test_scores_are_told_and_the_better_model_is_given() -> None:
    model, asked = Classifier(), []

    def evaluate(candidate: nn.Module) -> float:
        asked.append(kinds(candidate))
        return {0: 0.9, 1: 0.5, 2: 0.8}[len(asked) - 1]

    quantized = intaglio.auto_quantize(model, batches(), evaluate=evaluate, progress=False)
    assert "QuantizedConv" in asked[1]
    assert "DynamicConv" in asked[2]
    assert kinds(quantized) == asked[2]
    assert intaglio.summary(quantized).scores == (0.9, 0.8)
    assert "score: 0.9 in float, 0.8 now" in str(intaglio.summary(quantized))
    kept = intaglio.auto_quantize(model, batches(), evaluate=lambda m: 1.0, progress=False)
    assert "QuantizedConv" in kinds(kept)


def test_most_batches() -> None:
    seen = []

    def count() -> Iterator[Tensor]:
        for x in batches(100):
            seen.append(1)
            yield x

    intaglio.auto_quantize(Classifier(), count(), max_batches=3, progress=False)
    assert len(seen) <= 4


def test_bad_input_is_named_and_leaves_the_model_as_it_is() -> None:
    model = Classifier()
    before = copy.deepcopy(model.state_dict())
    good = batches()
    cases: list[tuple[str, Any]] = [
        ("no batches", lambda: intaglio.auto_quantize(model, [])),
        ("put a single batch in a list", lambda: intaglio.auto_quantize(model, good[0])),
        ("batch 0 .* is a str", lambda: intaglio.auto_quantize(model, ["text"])),
        (
            "batch 2 .* RuntimeError",
            lambda: intaglio.auto_quantize(model, [*good[:2], torch.randn(2, 4, 8, 8)]),
        ),
        ("batch 1 .* has 0 parts", lambda: intaglio.auto_quantize(model, [(good[0],), ()])),
        (
            "dicts of 'images', but the model takes 'pixels'",
            lambda: intaglio.auto_quantize(model, [{"images": 1}]),
        ),
        ("cannot be run on the first batch", lambda: intaglio.auto_quantize(model, [(torch.randn(2, 5),)])),
        ("did not call the model", lambda: intaglio.auto_quantize(model, lambda m: None)),
        ("needs calibration_data", lambda: intaglio.auto_quantize(model, method="static")),
        ("method is 'fast'", lambda: intaglio.auto_quantize(model, good, method="fast")),  # type: ignore[arg-type]
        ("max_batches is 0", lambda: intaglio.auto_quantize(model, good, max_batches=0)),
        (
            "not both",
            lambda: intaglio.auto_quantize(
                model, good, method="static", qconfig_mapping=intaglio.get_default_qconfig_mapping()
            ),
        ),
    ]
    for message, call in cases:
        with pytest.raises(intaglio.ConfigError, match=message):
            call()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
