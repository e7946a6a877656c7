"""A program gives its model's bits: for every rule, for images and sequences, on every CPU, split anyhow."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import intaglio
from intaglio import _core
from tests import test_every_rule as rule_cases
from tests import test_every_static_form as static_cases
from tests.program_models import (
    IMAGE_MODELS,
    Branches,
    PreNorm,
    Recurrent,
    Residual,
    Shuffle,
    converted_fx,
    dynamic,
    image,
    image_model,
    same_bits,
    sqnr,
    tensors,
    with_arguments,
)

every_image_model = pytest.mark.parametrize("kind", IMAGE_MODELS, ids=lambda kind: kind.__name__)

# ---- Rules -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", static_cases.CASES, ids=str)
def test_every_static_form(case: static_cases.Case) -> None:
    _, quantized, inputs = case.make()
    assert same_bits(intaglio.compile(quantized)(*inputs), quantized(*inputs))


@pytest.mark.parametrize("case", rule_cases.CASES, ids=str)
def test_every_dynamic_form(case: rule_cases.Case) -> None:
    _, quantized, inputs = case.make()
    model = with_arguments(quantized.layer, len(inputs))
    program = intaglio.compile(model)
    assert same_bits(program(*inputs), model(*inputs))
    assert same_bits(program(*inputs), model(*inputs))


@pytest.mark.parametrize("case", static_cases.CASES, ids=str)
def test_no_kernel_means_a_reason(case: static_cases.Case) -> None:
    _, quantized, inputs = case.make()
    program = intaglio.compile(quantized)
    program(*inputs)
    own = {"RNNCell", "GRUCell", "LSTMCell", "MultiheadAttention", "PReLU"}
    assert bool(program.left_to_host) == (case.rule.name in own)
    assert all(program.left_to_host.values())


# ---- Images ------------------------------------------------------------------------------------------------


@every_image_model
def test_images(kind: Callable[[], nn.Module]) -> None:
    model = image_model(kind)
    program = intaglio.compile(model)
    for batch, size in ((2, (17, 18)), (1, (17, 18)), (3, (12, 19))):
        x = image(batch, size)
        assert same_bits(program(x), model(x)), (batch, size)
    assert program.left_to_host == {}


@pytest.mark.parametrize("kind", [*IMAGE_MODELS, Branches], ids=lambda kind: kind.__name__)
def test_images_in_graph_mode(kind: Callable[[], nn.Module]) -> None:
    torch.manual_seed(1)
    model = converted_fx(kind(), image(4))
    program = intaglio.compile(model)
    for x in (image(), image(1, (14, 13))):
        assert same_bits(program(x), model(x))


@pytest.mark.parametrize("dims", [1, 3])
def test_other_numbers_of_axes(dims: int) -> None:
    convs: Any = {1: (nn.Conv1d, nn.MaxPool1d, nn.AvgPool1d), 3: (nn.Conv3d, nn.MaxPool3d, nn.AvgPool3d)}[
        dims
    ]
    conv, biggest, average = convs
    layers = nn.Sequential(conv(3, 4, 3, padding=1), biggest(2), conv(4, 4, 3, groups=2), average(2, 1))
    x = torch.randn(2, 3, *[9] * dims)
    model = converted_fx(layers, x)
    program = intaglio.compile(model)
    assert same_bits(program(x), model(x))
    assert same_bits(program(x[0]), model(x[0]))


def test_an_image_without_a_batch() -> None:
    layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2))
    model = converted_fx(layers, image())
    assert same_bits(intaglio.compile(model)(image()[0]), model(image()[0]))


# ---- Sequences ---------------------------------------------------------------------------------------------


class WithStates(nn.Module):
    """Gives all that a recurrent layer gives."""

    def __init__(self, layer: nn.RNNBase) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor, states: Any = None) -> Any:
        return self.layer(x, states)


RECURRENT = {
    "lstm": lambda: nn.LSTM(5, 6),
    "lstm_all": lambda: nn.LSTM(5, 6, num_layers=2, bidirectional=True, batch_first=True, proj_size=3),
    "gru": lambda: nn.GRU(5, 6, num_layers=2, batch_first=True),
    "gru_both_ways": lambda: nn.GRU(5, 6, bidirectional=True),
    "rnn": lambda: nn.RNN(5, 6, num_layers=3, nonlinearity="relu"),
    "rnn_tanh": lambda: nn.RNN(5, 6, bidirectional=True, batch_first=True, bias=False),
}


@pytest.mark.parametrize("name", RECURRENT)
@pytest.mark.parametrize("dtype", ["int8", "float16"])
def test_recurrent_layers(name: str, dtype: str) -> None:
    layer = RECURRENT[name]()
    model = dynamic(WithStates(layer), dtype=dtype)
    program = intaglio.compile(model)
    x = torch.randn(4, 3, 5)
    batch = 4 if layer.batch_first else 3
    output, states = model(x)
    assert same_bits(program(x), (output, states))
    given = tuple(map(torch.randn_like, states)) if isinstance(states, tuple) else torch.randn_like(states)
    assert tensors(given)[0].shape[1] == batch
    assert same_bits(program(x, given), model(x, given))
    assert same_bits(program(x, states=given), model(x, given))
    alone = tuple(s[:, 0] for s in given) if isinstance(given, tuple) else given[:, 0]
    assert same_bits(program(x[:, 0]), model(x[:, 0]))
    assert same_bits(program(x[:, 0], alone), model(x[:, 0], alone))
    assert same_bits(program(x[:2]), model(x[:2]))
    assert program.left_to_host == {}


def test_given_states_are_not_written() -> None:
    model = dynamic(WithStates(nn.LSTM(5, 6)))
    x, states = torch.randn(4, 3, 5), (torch.randn(1, 3, 6), torch.randn(1, 3, 6))
    before = [s.clone() for s in states]
    intaglio.compile(model)(x, states)
    assert all(map(torch.equal, states, before))


class Words(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words, self.fc = nn.Embedding(11, 8, padding_idx=0), nn.Linear(8, 4)

    def forward(self, ids: Tensor) -> Tensor:
        return self.fc(self.words(ids))


@pytest.mark.parametrize("dtype", ["uint8", "uint4", "int8"])
@pytest.mark.parametrize("ids", [torch.int32, torch.int64])
def test_embeddings(dtype: str, ids: torch.dtype) -> None:
    config = intaglio.qconfig.dynamic_qconfig_of(dtype)
    model = dynamic(Words(), qconfig_spec={nn.Embedding: config, nn.Linear: intaglio.default_dynamic_qconfig})
    program = intaglio.compile(model)
    for shape in ((2, 5), (3,), (), (0, 4)):
        x = torch.randint(0, 11, shape, dtype=ids)
        assert same_bits(program(x), model(x))
    wide = torch.randint(0, 11, (4, 6), dtype=ids)
    assert same_bits(program(wide.t()[::2]), model(wide.t()[::2]))
    assert program.left_to_host == {}


# ---- One answer --------------------------------------------------------------------------------------------

FAMILIES: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor]]] = {
    "cnn": (lambda: image_model(Residual), image),
    "shuffle": (lambda: image_model(Shuffle), image),
    "lstm": (lambda: dynamic(Recurrent()), lambda: torch.randn(3, 7, 6)),
    "transformer": (lambda: dynamic(PreNorm()), lambda: torch.randn(3, 7, 16)),
}
every_family = pytest.mark.parametrize("family", FAMILIES)


@every_family
def test_numbers_of_threads_change_no_bit(family: str) -> None:
    make, inputs = FAMILIES[family]
    program, x = intaglio.compile(make()), inputs()
    found = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        found.append(program(x))
    assert same_bits(found[1], found[0])
    assert same_bits(found[2], found[0])


def test_threads_change_no_bit_where_they_share_the_work() -> None:
    # Large enough that every driver of rows, of images and of attention parts its work.
    torch.manual_seed(3)
    block = intaglio.compile(dynamic(PreNorm(128, 4, 2)))
    cnn = intaglio.compile(image_model(Residual))
    x, picture = torch.randn(2, 80, 128), image(2, (96, 96))
    found = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        found.append((block(x), cnn(picture)))
    assert same_bits(found[1], found[0])
    assert same_bits(found[2], found[0])


@every_family
def test_the_split_of_a_batch_changes_no_bit(family: str) -> None:
    make, inputs = FAMILIES[family]
    program, x = intaglio.compile(make()), inputs()
    whole = tensors(program(x))
    parts = [tensors(program(x[i : i + 1])) for i in range(len(x))]
    for place, expected in enumerate(whole):
        assert torch.equal(torch.cat([part[place] for part in parts]), expected)


@every_family
def test_instruction_sets_change_no_bit(family: str) -> None:
    make, inputs = FAMILIES[family]
    x, found = inputs(), []
    for isa in _core.available_isas():
        _core.force_isa(isa)
        torch.manual_seed(2)
        found.append(intaglio.compile(make())(x))
    assert all(same_bits(other, found[0]) for other in found)


# ---- Steps in place, of every order ------------------------------------------------------------------------


class Steps(nn.Module):
    """Two layers, and whatever `steps` makes of them."""

    def __init__(self, steps: Callable[[Any, Tensor], Any]) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 8)
        self.relu, self.norm = nn.ReLU(inplace=True), nn.LayerNorm(8)
        self.table = nn.Parameter(torch.randn(8, 6))
        self.steps = steps

    def forward(self, x: Tensor) -> Any:
        return self.steps(self, x)


def _in_place(m: Any, x: Tensor) -> Tensor:
    y = m.a(x)
    z = y.clone()
    kept = m.relu(y)
    z = z.mul_(2.0)
    return kept + y + z


def _in_place_without_a_name(m: Any, x: Tensor) -> Tensor:
    y = m.a(x)
    y.add_(m.b(x))
    return m.norm(y)


def _host_views(m: Any, x: Tensor) -> Any:
    y = m.a(x)
    view = y.unfold(1, 8, 8).squeeze(1)  # of memory that others use next
    w = m.b(m.b(m.b(x)))
    return view, m.a(w) + w, torch.erf(view)


STEPS: dict[str, Callable[[Any, Tensor], Any]] = {
    "two_products_of_one_input": lambda m, x: m.a(x) + m.b(x),
    "three_products_of_one_input": lambda m, x: (m.a(x) + m.b(x), m.b(x)),
    "residual_of_a_product": lambda m, x: m.norm(m.a(x)) + m.b(m.norm(m.a(x))),
    "residual_of_the_input_of_a_product": lambda m, x: (lambda h: h + m.b(h))(m.a(x)),
    "a_sum_with_itself": lambda m, x: (lambda h: h + h)(m.relu(m.a(x))),
    "in_place": _in_place,
    "in_place_without_a_name": _in_place_without_a_name,
    "host_views": _host_views,
    "views_of_constants": lambda m, x: m.a(x) * torch.exp(m.table.t()[1:, 2:].t()[0, 0]),
    "narrow_from_behind": lambda m, x: m.a(x).narrow(1, -3, 2),
    "expanded_for_the_host": lambda m, x: m.a(torch.erf(x.unsqueeze(1).expand(4, 3, 8))),
    "sliced_for_the_host": lambda m, x: torch.erf(m.a(x).t()[::2, 1:]),
    "numbers_of_no_axis": lambda m, x: m.a(x).sum() + m.table.sum(),
    "padding": lambda m, x: nn.functional.pad(m.a(x), (1, -2)),
    "fourier": lambda m, x: m.a(torch.fft.fft(x).real),
    "no_name_for_a_constant": lambda m, x: m.a(x) + torch.arange(8.0),
}


@pytest.mark.parametrize("name", STEPS)
def test_steps_of_floats(name: str) -> None:
    model = dynamic(Steps(STEPS[name]))
    program = intaglio.compile(model)
    for _ in range(2):
        x = torch.randn(4, 8)
        found, expected = tensors(program(x)), tensors(model(x))
        for a, b in zip(found, expected, strict=True):
            assert a.shape == b.shape
            assert sqnr(a, b) > 60


# ---- Layers in many places, hooks, graphs in graphs --------------------------------------------------------


class Sharing(nn.Module):
    """One layer under five names."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(8, 8)
        self.blocks = nn.ModuleList([self.first, nn.Sequential(self.first, nn.ReLU(), self.first)])
        self.alias = self.blocks[1]

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return self.alias(x)  # type: ignore[no-any-return, operator]


def test_layers_that_stand_in_several_places() -> None:
    model, x = dynamic(Sharing()), torch.randn(4, 8)
    program = intaglio.compile(model)
    assert same_bits(program(x), model(x))
    labels = [call.label for call in program.plan_for(x).calls]
    assert labels == ["first", "blocks.1.0", "blocks.1.2", "blocks.1.0", "blocks.1.2"]


def test_hooks_are_called() -> None:
    model: Any = dynamic(nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8)))
    model[0].register_forward_hook(lambda module, args, output: output * 2)
    model[1].register_forward_pre_hook(lambda module, args: (args[0] + 1,))
    model.register_forward_hook(lambda module, args, output: output - 1)
    program, x = intaglio.compile(model), torch.randn(4, 8)
    assert sqnr(program(x), model(x)) > 60
    assert "'0' (dynamic_linear with hooks)" in program.left_to_host


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor, y: Tensor, scale: float = 2.0) -> Tensor:
        return self.a(x) * scale + self.b(y)  # type: ignore[no-any-return]


class Inside(torch.fx.Tracer):
    def is_leaf_module(self, m: nn.Module, qualified_name: str) -> bool:
        return not isinstance(m, Scaled)


@pytest.mark.parametrize(
    "call",
    [
        lambda inner, x, y: inner(x, y, 3.0),
        lambda inner, x, y: inner(x, y),
        lambda inner, x, y: inner(x, scale=0.5, y=y),
        lambda inner, x, y: inner(y=x, x=y),
    ],
)
def test_graphs_in_graphs(call: Callable[..., Tensor]) -> None:
    inner = dynamic(Scaled())
    inner = torch.fx.GraphModule(inner, Inside().trace(inner))

    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return call(self.inner, x, y)

    outer = Outer().eval()
    outer = torch.fx.GraphModule(outer, Inside().trace(outer))
    x, y = torch.randn(4, 8), torch.randn(4, 8)
    assert same_bits(intaglio.compile(outer)(x, y), outer(x, y))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("family", ["cnn", "shuffle", "lstm"])
def test_the_default_type_of_torch_does_not_matter(family: str, dtype: torch.dtype) -> None:
    make, inputs = FAMILIES[family]
    model, x = make(), inputs()
    expected = model(x)
    first = intaglio.compile(model)
    first(x[:1])
    torch.set_default_dtype(dtype)
    try:
        found = first(x), intaglio.compile(model)(x)
    finally:
        torch.set_default_dtype(torch.float32)
    assert same_bits(found[0], expected)
    assert same_bits(found[1], expected)
