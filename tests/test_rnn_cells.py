"""Quantized recurrent cells behave as torch's and as one step of the quantized layers."""

import copy
import math
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import intaglio
from intaglio import InputError, _core
from intaglio.nn.rnn_cells import RecurrentCell
from intaglio.ops.reference_rnn import recurrent_step

CELLS = {
    "LSTM": lambda **options: nn.LSTMCell(13, 21, **options),
    "GRU": lambda **options: nn.GRUCell(13, 21, **options),
    "RNN_TANH": lambda **options: nn.RNNCell(13, 21, **options),
    "RNN_RELU": lambda **options: nn.RNNCell(13, 21, nonlinearity="relu", **options),
}


def quantized(module: nn.Module, dtype: str = "int8") -> RecurrentCell:
    form = intaglio.quantize_dynamic(nn.Sequential(module.eval()), dtype=dtype)[0]
    assert isinstance(form, RecurrentCell)
    return form


def flat(found: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (found,) if isinstance(found, Tensor) else found


@pytest.mark.parametrize("isa", _core.available_isas())
@pytest.mark.parametrize("mode", CELLS)
@pytest.mark.parametrize(("bias", "dtype"), [(True, "int8"), (False, "int8"), (True, "float16")])
def test_equals_reference_and_matches_float(mode: str, bias: bool, dtype: str, isa: str) -> None:
    _core.force_isa(isa)
    module = CELLS[mode](bias=bias)
    form = quantized(module, dtype)
    for shape in ((5,), ()):
        x, h, c = torch.randn(*shape, 13), torch.randn(*shape, 21) * 0.5, torch.randn(*shape, 21)
        hx: Any = (h, c) if mode == "LSTM" else h
        rows = [t.reshape(-1, t.shape[-1]) for t in (x, h, c)]
        expected = recurrent_step(mode, form.plain_state(), rows[0], rows[1], rows[2])
        for e, f in zip(expected, flat(form(x, hx)), strict=mode == "LSTM"):
            assert e is not None
            assert torch.equal(e.reshape(*shape, 21), f)
        for given in ((x,), (x, hx)):
            with torch.no_grad():
                for e, f in zip(flat(module(*given)), flat(form(*given)), strict=True):
                    assert f.shape == e.shape
                    error = (e - f).square().mean()
                    assert 10 * math.log10(e.square().mean() / error) > 33


@pytest.mark.parametrize("mode", CELLS)
def test_other_dtypes_empty_batches_and_copies(mode: str) -> None:
    form = quantized(CELLS[mode]())
    assert all(t.shape == (0, 21) for t in flat(form(torch.randn(0, 13))))
    x = torch.randn(13, 4).to(torch.bfloat16).T
    found = flat(form(x))
    assert all(t.dtype == torch.bfloat16 for t in found)
    for twin in (copy.deepcopy(form), pickle.loads(pickle.dumps(form))):
        assert all(map(torch.equal, flat(twin(x)), found))
    x[2, 5] = torch.nan
    poisoned = flat(form(x))
    for whole, part in zip(found, poisoned, strict=True):
        assert part[2].isnan().all()
        assert torch.equal(part[[0, 1, 3]], whole[[0, 1, 3]])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((torch.randn(2, 12),), "last dimension must be 13"),
        ((torch.randn(2, 2, 13),), "has 3 dimensions"),
        ((torch.randn(2, 13), torch.zeros(2, 21)), "pair"),
        ((torch.randn(2, 13), (torch.zeros(2, 21), torch.zeros(1, 21))), r"hx\[1\].*\(2, 21\) is needed"),
        ((torch.randn(13), (torch.zeros(2, 21), torch.zeros(21))), r"hx\[0\].*\(21,\) is needed"),
    ],
)
def test_bad_input_names_the_layer(arguments: tuple[Any, ...], words: str) -> None:
    model = intaglio.quantize_dynamic(nn.ModuleDict({"decoder": nn.LSTMCell(13, 21)}))
    with pytest.raises(InputError, match=words) as caught:
        model["decoder"](*arguments)
    assert "'decoder' (DynamicLSTMCell)" in str(caught.value)


def test_decoding_loop_equals_the_layer() -> None:
    layer = nn.LSTM(13, 21).eval()
    cell = nn.LSTMCell(13, 21)
    cell.load_state_dict({name.removesuffix("_l0"): t for name, t in layer.state_dict().items()})
    form, whole = quantized(cell), intaglio.quantize_dynamic(nn.Sequential(layer))[0]
    x, states = torch.randn(6, 2, 13), None
    outputs = []
    for step in x:
        states = form(step, states)
        outputs.append(states[0])
    assert torch.equal(torch.stack(outputs), whole(x)[0])


def test_compiles() -> None:
    model = intaglio.quantize_dynamic(nn.Sequential(nn.GRUCell(13, 21)))
    x = torch.randn(3, 13)
    assert torch.equal(torch.compile(model, backend="eager", fullgraph=True)(x), model(x))
