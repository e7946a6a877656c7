"""Quantized recurrent modules behave as torch's, in every option, and equal the reference bit for bit."""

import copy
import itertools
import math
import pickle
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pack_sequence, pad_packed_sequence

import intaglio
from intaglio import InputError, _core
from intaglio.nn import DynamicLSTM
from intaglio.nn.rnn import RecurrentLayers
from intaglio.ops.reference_rnn import recurrent_layers, sigmoid, tanh

LAYERS = {"LSTM": nn.LSTM, "GRU": nn.GRU, "RNN": nn.RNN}


def quantized(module: nn.Module, dtype: str = "int8") -> RecurrentLayers:
    form = intaglio.quantize_dynamic(nn.Sequential(module.eval()), dtype=dtype)[0]
    assert isinstance(form, RecurrentLayers)
    return form


def flat(found: Any) -> list[Tensor]:
    """The tensors of an answer, in order."""
    if isinstance(found, PackedSequence):
        return [found.data]
    return [found] if isinstance(found, Tensor) else [t for part in found for t in flat(part)]


def sqnr(expected: Tensor, found: Tensor) -> float:
    error = (expected - found).square().mean()
    return math.inf if error == 0 else 10 * math.log10(expected.square().mean() / error)


def check_like_float(module: nn.Module, form: nn.Module, *arguments: Any, floor: float = 35.0) -> None:
    with torch.no_grad():
        expected = flat(module(*arguments))
    found = flat(form(*arguments))
    assert [t.shape for t in found] == [t.shape for t in expected]
    for e, f in zip(expected, found, strict=True):
        assert f.dtype == e.dtype
        assert sqnr(e, f) > floor, sqnr(e, f)


def plain_cells(form: RecurrentLayers) -> list[dict[str, Tensor]]:
    """The cells' plain tensors, from the state dict and its torch names."""
    state, cells = form.plain_state(), []
    for layer, end in itertools.product(range(form.num_layers), ("", "_reverse")[: 1 + form.bidirectional]):
        suffix = f"_l{layer}{end}"
        names = [n for n in state if n.removesuffix("_scale").endswith(suffix)]
        cells.append({n.replace(suffix, ""): state[n] for n in names})
    return cells


def check_equals_reference(form: RecurrentLayers, x: Tensor, states: list[Tensor]) -> None:
    """Time-major `x` and given states, bit for bit."""
    expected = recurrent_layers(
        form.mode,
        plain_cells(form),
        x.flatten(0, 1),
        states[0],
        states[1] if len(states) == 2 else None,
        batch_sizes=[x.shape[1]] * x.shape[0],
        directions=1 + form.bidirectional,
    )
    found = flat(form(x, tuple(states) if len(states) == 2 else states[0]))
    for e, f in zip(flat([t for t in expected if t is not None]), found, strict=True):
        assert torch.equal(e, f.flatten(0, 1) if f is found[0] else f)


def states_of(form: RecurrentLayers, batch: int) -> list[Tensor]:
    widths = [form.proj_size or form.hidden_size] + [form.hidden_size] * (form.mode == "LSTM")
    return [torch.randn(form.num_layers * (1 + form.bidirectional), batch, width) * 0.5 for width in widths]


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize(("num_layers", "dtype"), [(1, "int8"), (3, "int8"), (2, "float16")])
def test_options_equal_reference_and_match_float(
    kind: str, bidirectional: bool, num_layers: int, dtype: str
) -> None:
    for bias, batch in ((True, 5), (False, 1)):
        module = LAYERS[kind](13, 21, num_layers, bias=bias, bidirectional=bidirectional)
        form, x = quantized(module, dtype), torch.randn(6, batch, 13)
        states = states_of(form, batch)
        check_equals_reference(form, x, states)
        check_like_float(module, form, x)
        check_like_float(module, form, x, tuple(states) if kind == "LSTM" else states[0])


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("dtype", ["int8", "float16"])
def test_projected_lstm(bidirectional: bool, dtype: str) -> None:
    module = nn.LSTM(13, 21, 2, proj_size=6, bidirectional=bidirectional)
    form, x = quantized(module, dtype), torch.randn(6, 3, 13)
    check_equals_reference(form, x, states_of(form, 3))
    check_like_float(module, form, x, tuple(states_of(form, 3)), floor=30.0)


def test_relu_rnn() -> None:
    module = nn.RNN(13, 21, 2, nonlinearity="relu")
    form, x = quantized(module), torch.randn(6, 3, 13)
    check_equals_reference(form, x, states_of(form, 3))
    check_like_float(module, form, x)


@pytest.mark.parametrize("kind", LAYERS)
def test_batch_first_unbatched_and_dropout(kind: str) -> None:
    module = LAYERS[kind](8, 12, 2, batch_first=True, dropout=0.5, bidirectional=True)
    form, x = quantized(module), torch.randn(4, 5, 8)
    check_like_float(module, form, x)
    states = [state[:, 0] for state in states_of(form, 1)]
    hx = tuple(states) if kind == "LSTM" else states[0]
    check_like_float(module, form, x[0])
    check_like_float(module, form, x[0], hx)
    assert torch.equal(flat(form(x))[0][1], flat(form(x[1]))[0])  # a row does not see its batch


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize(("threads", "dtype"), [(1, "int8"), (2, "int8"), (1, "float16")])
def test_packed_sequences(kind: str, bidirectional: bool, threads: int, dtype: str) -> None:
    # pytorch/pytorch#32676 and PAINS 18: inputs of variable length.
    torch.set_num_threads(threads)
    module = LAYERS[kind](9, 14, 2, bidirectional=bidirectional)
    form = quantized(module, dtype)
    lengths = [3, 7, 1, 7, 4, 2, 6, 5, 9, 1]
    sequences = [torch.randn(length, 9) for length in lengths]
    packed = pack_sequence(sequences, enforce_sorted=False)
    states = states_of(form, len(lengths))
    hx = tuple(states) if kind == "LSTM" else states[0]
    check_like_float(module, form, packed)
    check_like_float(module, form, packed, hx)
    y, h_n = form(packed, hx)
    padded, _ = pad_packed_sequence(y)
    for i, sequence in enumerate(sequences):
        one = tuple(state[:, i : i + 1] for state in states)
        alone, h_alone = form(sequence[:, None], one if kind == "LSTM" else one[0])
        assert torch.equal(padded[: lengths[i], i], alone[:, 0])
        for whole, single in zip(flat(h_n), flat(h_alone), strict=True):
            assert torch.equal(whole[:, i], single[:, 0])


def test_sorted_packed_sequence_keeps_its_form() -> None:
    module = nn.LSTM(5, 6)
    x = pack_padded_sequence(torch.randn(4, 3, 5), torch.tensor([4, 2, 1]))
    y, _ = quantized(module)(x)
    assert isinstance(y, PackedSequence)
    assert y.sorted_indices is None
    assert torch.equal(y.batch_sizes, x.batch_sizes)


@pytest.mark.parametrize("isa", _core.available_isas())
def test_threads_do_not_change_bits(isa: str) -> None:
    _core.force_isa(isa)
    for kind, width, batch, options in (
        ("LSTM", 64, 1, {"num_layers": 3}),  # one row: layers follow each other chunk by chunk
        ("LSTM", 65, 17, {"num_layers": 2}),  # many: each thread has its own
        ("GRU", 65, 2, {"num_layers": 2, "bidirectional": True}),
        ("GRU", 65, 17, {"bidirectional": True}),
        ("RNN", 65, 3, {"num_layers": 4}),
    ):
        form = quantized(LAYERS[kind](width, 128, **options))
        steps = 100 if kind == "RNN" else 40
        lengths = [steps - 2 * row for row in range(batch)]
        x = torch.randn(steps, batch, width)
        for sequences in (x, pack_padded_sequence(x, torch.tensor(lengths))):
            torch.set_num_threads(1)
            expected = flat(form(sequences))
            for threads in (2, 3, 2):
                torch.set_num_threads(threads)
                assert all(map(torch.equal, flat(form(sequences)), expected)), (isa, kind, batch, threads)


def test_two_callers_at_once() -> None:
    form = quantized(nn.LSTM(32, 96, 2))
    inputs = [torch.randn(20, batch, 32) for batch in (1, 9)]
    expected = [flat(form(x)) for x in inputs]
    wrong: list[int] = []

    def call(i: int) -> None:
        for _ in range(20):
            if not all(map(torch.equal, flat(form(inputs[i])), expected[i])):
                wrong.append(i)

    callers = [threading.Thread(target=call, args=(i,)) for i in (0, 1, 0)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert not wrong


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("poison", [torch.nan, torch.inf])
def test_poison_stays_in_its_row_and_later_steps(kind: str, poison: float) -> None:
    form, x = quantized(LAYERS[kind](6, 10, 2)), torch.randn(7, 3, 6)
    expected = flat(form(x))[0]
    x[4, 1, 2] = poison
    found = flat(form(x))[0]
    assert torch.equal(found[:, [0, 2]], expected[:, [0, 2]])
    assert torch.equal(found[:4], expected[:4])
    assert found[4:, 1].isnan().all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_other_float_dtypes_and_strides(dtype: torch.dtype) -> None:
    form, x = quantized(nn.LSTM(6, 10, batch_first=True)), torch.randn(6, 4, 3).to(dtype)
    x = x.permute(2, 1, 0)
    found = flat(form(x))
    assert all(t.dtype == dtype for t in found)
    assert all(map(torch.equal, found, [t.to(dtype) for t in flat(form(x.float().contiguous()))]))


def test_empty_batch() -> None:
    for kind in LAYERS:
        module = LAYERS[kind](6, 10, 2, bidirectional=True)
        x = torch.randn(4, 0, 6)
        assert [t.shape for t in flat(quantized(module)(x))] == [t.shape for t in flat(module(x))]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((torch.randn(3, 2, 7),), "last dimension must be 6"),
        ((torch.randn(6),), "has 1 dimensions"),
        ((torch.randn(2, 3, 4, 6),), "has 4 dimensions"),
        ((torch.randn(0, 2, 6),), "no time step"),
        ((torch.randint(0, 9, (3, 2, 6)),), "float tensor is needed"),
        ((torch.randn(3, 2, 6), torch.zeros(2, 2, 10)), "pair"),
        ((torch.randn(3, 2, 6), (torch.zeros(2, 2, 10),)), "pair"),
        ((torch.randn(3, 2, 6), (torch.zeros(2, 1, 10), torch.zeros(2, 2, 10))), r"hx\[0\].*\(2, 2, 10\)"),
        ((torch.randn(3, 2, 6), (torch.zeros(2, 2, 10), torch.zeros(2, 2, 11))), r"hx\[1\].*must be 10"),
        ((torch.randn(3, 6), (torch.zeros(2, 1, 10), torch.zeros(2, 1, 10))), r"\(2, 10\) is needed"),
    ],
)
def test_bad_input_names_the_layer(arguments: tuple[Any, ...], words: str) -> None:
    model = intaglio.quantize_dynamic(nn.ModuleDict({"encoder": nn.LSTM(6, 10, 2)}))
    with pytest.raises(InputError, match=words) as caught:
        model["encoder"](*arguments)
    assert "'encoder' (DynamicLSTM)" in str(caught.value)


def test_packed_sequence_that_cannot_be_one() -> None:
    form, data = quantized(nn.LSTM(6, 10)), torch.randn(5, 6)
    for sizes, words in (([3, 3], "add up"), ([2, 3], "never rise"), ([3, 2, 0], "never rise")):
        with pytest.raises(InputError, match=words):
            form(PackedSequence(data, torch.tensor(sizes)))


def test_op_refuses_shapes_that_do_not_fit() -> None:
    form = quantized(nn.LSTM(6, 10))
    op, cells, state = torch.ops.intaglio.recurrent_dynamic, [form.cell_l0], torch.zeros(1, 2, 10)
    for x, h, c in (
        (torch.randn(3, 2, 7), state, state),
        (torch.randn(3, 6), state, state),
        (torch.randn(3, 2, 6), torch.zeros(1, 2, 9), state),
        (torch.randn(3, 2, 6), torch.zeros(1, 1, 10), state),
        (torch.randn(3, 2, 6), state, None),
        (torch.randn(3, 2, 6), state, torch.zeros(2, 2, 10)),
    ):
        with pytest.raises(InputError, match="do not fit 1 cells"):
            op(x, None, h, c, cells, 1)


def test_training_mode_is_refused() -> None:
    form = quantized(nn.GRU(6, 10))
    form.train()
    with pytest.raises(InputError, match="training mode"):
        form(torch.randn(2, 3, 6))


def test_float16_weights_carry_infinity_as_float_does() -> None:
    module = nn.GRU(6, 10)
    form, x = quantized(module, "float16"), torch.randn(7, 3, 6)
    x[4, 1, 2] = torch.inf
    with torch.no_grad():
        expected = module(x)[0]
    assert torch.allclose(form(x)[0], expected, atol=1e-3, equal_nan=True)


@pytest.mark.parametrize("kind", LAYERS)
def test_state_has_torch_names_and_travels(kind: str) -> None:
    module = LAYERS[kind](6, 10, 2, bidirectional=True)
    form, x = quantized(module), torch.randn(3, 2, 6)
    state = form.state_dict()
    assert {name.removesuffix("_scale") for name in state} == set(module.state_dict())
    for name, tensor in module.state_dict().items():
        back = state[name].float() * state[f"{name}_scale"][:, None] if "weight" in name else state[name]
        assert torch.allclose(back, tensor, atol=2e-3, rtol=0)
    half = quantized(module, "float16")
    assert set(half.state_dict()) == set(module.state_dict())
    assert torch.equal(half.state_dict()["weight_hh_l1"], module.weight_hh_l1.half())
    other = quantized(LAYERS[kind](6, 10, 2, bidirectional=True))
    other.load_state_dict(state)
    for twin in (other, copy.deepcopy(form), pickle.loads(pickle.dumps(form))):
        assert all(map(torch.equal, flat(twin(x)), flat(form(x))))


def test_converts_between_instruction_sets() -> None:
    form, x = quantized(nn.GRU(6, 10, 2)), torch.randn(3, 2, 6)
    expected = flat(form(x))
    for isa in _core.available_isas():
        before = _core.active_isa()
        _core.force_isa(isa)
        cells = [form.cell_l0, form.cell_l1]
        found = torch.ops.intaglio.recurrent_dynamic(x, None, torch.zeros(2, 2, 10), None, cells, 1)
        assert all(map(torch.equal, found[:2], expected))  # packed again for each call
        if isa != before:
            with pytest.raises(InputError, match="pack it again"):
                form(x)
        form.load_plain_state(form.plain_state())
        assert all(map(torch.equal, flat(form(x)), expected))


@pytest.mark.parametrize(("function", "truth"), [(sigmoid, torch.sigmoid), (tanh, torch.tanh)])
def test_gates_are_within_5e_7(
    function: Callable[[Tensor], Tensor], truth: Callable[[Tensor], Tensor]
) -> None:
    x = torch.cat([torch.linspace(-100, 100, 400_001), torch.logspace(-30, 38, 1000), torch.zeros(1)])
    x = torch.cat([x, -x])
    assert (function(x).double() - truth(x.double())).abs().max() < 5e-7
    assert function(torch.tensor([torch.nan])).isnan().all()
    assert torch.equal(function(torch.zeros(1)), truth(torch.zeros(1)))


def test_long_sequences_do_not_drift() -> None:
    # pytorch/pytorch#135198, microsoft/onnxruntime#9796: LSTM and GRU, 500 steps.
    for kind in ("LSTM", "GRU"):
        module = LAYERS[kind](10, 64, 2)
        check_like_float(module, quantized(module), torch.randn(500, 2, 10), floor=35.0)


def test_compile_and_export() -> None:
    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = nn.LSTM(6, 10, 2, batch_first=True, bidirectional=True)

        def forward(self, x: Tensor) -> Tensor:
            return self.rnn(x)[0][:, -1]

    model = intaglio.quantize_dynamic(Encoder().eval())
    x = torch.randn(3, 5, 6)
    expected = model(x)
    exported = torch.export.export(model, (x,), dynamic_shapes={"x": {1: torch.export.Dim("steps", min=2)}})
    assert torch.equal(exported.module()(x), expected)
    longer = torch.randn(3, 8, 6)
    assert torch.equal(exported.module()(longer), model(longer))
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    assert torch.equal(compiled(x), expected)


def test_op_passes_opcheck() -> None:
    form = quantized(nn.LSTM(6, 10, bidirectional=True))
    assert isinstance(form, DynamicLSTM)
    cells = [form.cell_l0, form.cell_l0_reverse]
    h = torch.zeros(2, 3, 10)
    arguments = (torch.randn(4, 3, 6), None, h, h, cells, 2)
    torch.library.opcheck(torch.ops.intaglio.recurrent_dynamic.default, arguments)
    sizes = torch.tensor([3, 2])
    arguments = (torch.randn(5, 6), sizes, h, h, cells, 2)
    torch.library.opcheck(torch.ops.intaglio.recurrent_dynamic.default, arguments)


@pytest.mark.parametrize("isa", _core.available_isas())
@pytest.mark.parametrize("kind", LAYERS)
def test_narrow_input_keeps_sixteen_bits(kind: str, isa: str) -> None:
    _core.force_isa(isa)
    module = LAYERS[kind](6, 21, 3, bidirectional=True)
    form, x = quantized(module), torch.randn(5, 4, 6)
    check_equals_reference(form, x, states_of(form, 4))
    state = form.state_dict()
    assert torch.equal(state["weight_ih_l0_reverse"], module.weight_ih_l0_reverse.half())
    assert {n for n, t in state.items() if t.dtype == torch.float16} == {
        "weight_ih_l0",
        "weight_ih_l0_reverse",
    }
    assert torch.equal(flat(pickle.loads(pickle.dumps(form))(x))[0], flat(form(x))[0])
    assert "the input's weight float16" in repr(form)


def test_features_of_unlike_scales() -> None:
    # As in a power spectrum: small bands with large weights say as much as large ones with small weights.
    module, scales = nn.LSTM(16, 64, 2), torch.logspace(-6, 0, 16)
    with torch.no_grad():
        module.weight_ih_l0.copy_(torch.randn(256, 16) / scales)
        module.weight_ih_l0.clamp_(-60000, 60000)
    x = torch.rand(20, 4, 16) * scales
    check_like_float(module, quantized(module), x, floor=25.0)


@pytest.mark.parametrize(
    ("input_size", "hidden_size", "largest", "dtype"),
    [(128, 256, 1.0, "float16"), (129, 512, 1.0, "int8"), (128, 255, 1.0, "int8"), (8, 64, 7e4, "int8")],
)
def test_which_inputs_keep_sixteen_bits(
    input_size: int, hidden_size: int, largest: float, dtype: str
) -> None:
    for module, name in (
        (nn.GRU(input_size, hidden_size), "weight_ih_l0"),
        (nn.GRUCell(input_size, hidden_size), "weight_ih"),
    ):
        with torch.no_grad():
            module.get_parameter(name)[0, 0] = largest
        form = intaglio.quantize_dynamic(nn.Sequential(module))[0]
        assert str(form.state_dict()[name].dtype) == f"torch.{dtype}"
        assert form.state_dict()[name.replace("ih", "hh")].dtype == torch.int8
