"""`load(path, model=...)`: what keeps a file from fitting a model is told with path, found and expected."""

from pathlib import Path

import pytest
import torch
from torch import nn

import intaglio
from tests.file_models import Encoder, VoiceEncoder, assert_same


def build(
    width: int = 8, *, bias: bool = True, extra: bool = False, norm: type[nn.Module] = nn.LayerNorm
) -> nn.Module:
    model = nn.ModuleDict(
        {"first": nn.Linear(6, width, bias=bias), "norm": norm(width), "second": nn.Linear(width, 4)}
    )
    if extra:
        model["extra"] = nn.Linear(2, 2)
    return model.eval()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    intaglio.save(intaglio.quantize_dynamic(build(), {"first"}), tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            build(width=9),
            r"'first': found Linear with weight \(9, 6\), bias \(9,\), expected a module with weight "
            r"\(8, 6\), bias \(8,\) \(saved as dynamic_linear\)[\s\S]*"
            r"'norm\.weight': found \(9,\), expected \(8,\)",
        ),
        (build(bias=False), r"'first': found Linear with weight \(8, 6\), expected .*bias \(8,\)"),
        (build(extra=True), r"'extra\.weight': found \(2, 2\), expected nothing"),
        (build(norm=nn.Identity), r"'norm\.weight': found nothing, expected \(8,\)"),
        (nn.Sequential(), r"'first': found nothing, expected dynamic_linear"),
        (nn.ModuleDict({"first": nn.ReLU()}), "'first': found ReLU with no parameters"),
        (intaglio.quantize_dynamic(build(width=9), {"first"}), r"found dynamic_linear .*'out_features': 9"),
        (VoiceEncoder(), r"and \d+ more"),
    ],
    ids=str,
)
def test_another_structure(model: nn.Module, message: str, file: Path) -> None:
    before = {name: id(module) for name, module in model.named_modules()}
    with pytest.raises(intaglio.ConversionError, match=message) as caught:
        intaglio.load(file, model=model)
    assert "not built like the saved one" in str(caught.value)
    assert {name: id(module) for name, module in model.named_modules()} == before


def test_no_module(file: Path) -> None:
    with pytest.raises(intaglio.ConversionError, match="not OrderedDict"):
        intaglio.load(file, model=build().state_dict())  # type: ignore[arg-type]


def test_any_weights_any_dtype_quantized_or_not(file: Path) -> None:
    saved = intaglio.load(file)
    x = torch.randn(3, 6)
    for model in (
        build(),
        build().half(),
        build().train(),
        intaglio.quantize_dynamic(build(), {"first"}),
        saved,
    ):
        loaded = intaglio.load(file, model=model)
        assert_same(loaded["first"](x), saved["first"](x))
        assert_same(loaded["norm"].weight, saved["norm"].weight)
        assert not any(module.training for module in loaded.modules())


def test_buffers_that_grow_with_their_inputs_may_differ(tmp_path: Path) -> None:
    quantized = intaglio.quantize_dynamic(Encoder().eval(), {nn.Linear})
    quantized.offset = torch.randn(3, 32)
    intaglio.save(quantized, tmp_path / "model")
    assert_same(intaglio.load(tmp_path / "model", model=Encoder()).offset, quantized.offset)

    plain = Encoder()
    del plain.offset
    plain.offset = torch.randn(32)
    with pytest.raises(
        intaglio.ConversionError, match="'offset' is a buffer in the file, but something else"
    ):
        intaglio.load(tmp_path / "model", model=plain)


def test_quantized_by_hand_without_a_record_of_what_stood_there(tmp_path: Path) -> None:
    quantized = intaglio.quantize_dynamic(build(), {"first"})
    quantized["first"].replaced = None
    intaglio.save(quantized, tmp_path / "model")
    assert_same(intaglio.load(tmp_path / "model", model=build()).state_dict(), quantized.state_dict())
