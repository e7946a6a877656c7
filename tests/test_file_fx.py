"""Files of what `convert_fx` gives: every architecture comes back with the same bits, with its checks."""

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

import intaglio
from benchmarks.architectures import ARCHITECTURES, Architecture
from intaglio.graph_passes.examples import Call
from tests.file_models import assert_same

NEEDS_MODEL = {
    "MobileNetV2 by functions", "EfficientNet", "Vision transformer", "Vision transformer by hand", "Swin",
    "U-Net", "GRU classifier", "Decides by values", "Loops over steps", "Answers in a named tuple",
    "Answers in a dataclass",
}  # fmt: skip


@pytest.fixture(autouse=True)
def _one_thread() -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def quantize(model: nn.Module, *calls: tuple[tuple[Any, ...], dict[str, Any]]) -> nn.Module:
    """The model that graph mode makes of `model`, calibrated with `calls`."""
    prepared = intaglio.prepare_fx(model, intaglio.get_default_qconfig_mapping(), Call(*calls[0]))
    with torch.no_grad():
        for args, kwargs in calls:
            prepared(*args, **kwargs)
    return intaglio.convert_fx(prepared)


def save(model: nn.Module, path: Path) -> intaglio.FileDescription:
    """Save; the warning that a model needs its class is for the caller to find in the description."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*can only be loaded with", category=UserWarning)
        return intaglio.save(model, path)


def result_of(model: nn.Module, call: tuple[tuple[Any, ...], dict[str, Any]]) -> Any:
    """What `model` gives, or the message of its refusal."""
    with torch.no_grad():
        try:
            return model(*call[0], **call[1])
        except (intaglio.InputError, AssertionError) as error:
            return str(error)


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=lambda a: a.name.replace(" ", "-"))
def test_every_architecture(architecture: Architecture, tmp_path: Path) -> None:
    model = architecture.make()
    converted = quantize(model, architecture.inputs(0), architecture.inputs(1))
    described = save(converted, tmp_path / "model")
    assert described.loads_without_class == (architecture.name not in NEEDS_MODEL), described.how_to_load
    given = None
    if not described.loads_without_class:
        with pytest.raises(intaglio.FileFormatError, match=r"Pass model=, a float model"):
            intaglio.load(tmp_path / "model")
        given = architecture.make()
        with torch.no_grad():
            for parameter in given.parameters():
                parameter.zero_()
    loaded = intaglio.load(tmp_path / "model", model=given)
    assert isinstance(loaded, fx.GraphModule) == isinstance(converted, fx.GraphModule)
    assert loaded.state_dict().keys() == converted.state_dict().keys()
    assert str(intaglio.summary(loaded)) == str(intaglio.summary(converted))
    for make in (architecture.inputs, *architecture.other_inputs):
        call = make(5)
        expected = result_of(converted, call)
        assert make is not architecture.inputs or not isinstance(expected, str)
        found = result_of(loaded, call)
        assert type(found) is type(expected)
        assert_same(found, expected) if not hasattr(found, "__dict__") or isinstance(found, Tensor) else (
            assert_same(vars(found), vars(expected))
        )
