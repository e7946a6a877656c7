"""Quantized embeddings behave as torch's, in every option, with the range and the bytes that they promise."""

import copy
import itertools
import math
import pickle
import threading
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import intaglio
from intaglio import InputError, PerChannelMinMaxObserver, PerChannelMSEObserver, QConfig
from intaglio.nn import QuantizedEmbedding, QuantizedEmbeddingBag
from intaglio.nn.embedding import quantize_table
from intaglio.ops.embedding import BAG_MODES

WEIGHT_TYPES = (torch.quint8, torch.quint4x2)
FORMS = {nn.Embedding: QuantizedEmbedding, nn.EmbeddingBag: QuantizedEmbeddingBag}


def quantized(module: nn.Module, dtype: torch.dtype | str = torch.quint8) -> nn.Module:
    return intaglio.quantize_dynamic(nn.Sequential(module), {type(module)}, dtype=dtype)[0]


def embedding(dtype: torch.dtype | str = torch.quint8, rows: int = 40, width: int = 24) -> QuantizedEmbedding:
    form = quantized(nn.Embedding(rows, width), dtype)
    assert isinstance(form, QuantizedEmbedding)
    return form


def sqnr(expected: Tensor, found: Tensor) -> float:
    expected, found = expected.detach(), found.detach()
    error = (expected - found).square().mean()
    return math.inf if error == 0 else float(10 * torch.log10(expected.square().mean() / error))


# ---- What is quantized, and how well -------------------------------------------------------------------


@pytest.mark.parametrize("kind", FORMS)
@pytest.mark.parametrize(("dtype", "bits", "floor"), [(torch.quint8, 8, 43.0), (torch.quint4x2, 4, 19.0)])
def test_legacy_types_mean_8_and_4_bits(
    kind: type[nn.Embedding] | type[nn.EmbeddingBag], dtype: torch.dtype, bits: int, floor: float
) -> None:
    module = kind(100, 384)
    for spec in ({kind}, None):
        form = intaglio.quantize_dynamic(nn.Sequential(module), spec, dtype=dtype)[0]
        assert type(form) is FORMS[kind]
        assert form.bits == bits
        assert sqnr(module.weight, form.weight) > floor


def test_int8_asked_of_an_embedding_means_8_bits() -> None:
    model = nn.Sequential(nn.Embedding(20, 8), nn.Linear(8, 8))
    both = intaglio.quantize_dynamic(model, {nn.Embedding, nn.Linear}, dtype=torch.qint8)
    assert both[0].bits == 8
    assert type(intaglio.quantize_dynamic(model)[0]) is nn.Embedding  # not taken unless asked for


@pytest.mark.parametrize(("dtype", "ratio"), [(torch.quint8, 3.9), (torch.quint4x2, 7.5)])
@pytest.mark.parametrize("width", [384, 768])
def test_bytes_of_realistic_widths(dtype: torch.dtype, ratio: float, width: int) -> None:
    model = nn.Sequential(nn.Embedding(1000, width))
    layer = intaglio.summary(intaglio.quantize_dynamic(model, dtype=dtype)).layers[0]
    assert layer.float_bytes == 4000 * width
    assert layer.float_bytes / layer.bytes > ratio


def test_rows_of_one_value_come_back_to_the_bit() -> None:
    module = nn.Embedding(8, 5, padding_idx=0)
    with torch.no_grad():
        module.weight[1], module.weight[2], module.weight[3] = 0.1, -3e38, 1e-42
        module.weight[4] = torch.tensor([-3e38, 3e38, 0.0, 1.0, 1e-30])
    for dtype in WEIGHT_TYPES:
        weight = quantized(module, dtype).weight
        assert torch.equal(weight[:4], module.weight[:4].detach())
        assert bool(weight.isfinite().all())


def test_ranges_fitted_by_least_squares_never_lose_to_min_and_max() -> None:
    weight = torch.cat([torch.randn(50, 64), torch.rand(50, 64), torch.randn(50, 64).pow(3)])
    weight[::7, 3] *= 20
    for dtype in ("uint4", "uint8"):
        errors = []
        for observer in (PerChannelMinMaxObserver, PerChannelMSEObserver):
            recipe = observer.with_args(
                dtype=dtype, qscheme=torch.per_channel_affine_float_qparams, ch_axis=0
            )
            state, bits = quantize_table(weight, QConfig(recipe, recipe), "x")
            form = QuantizedEmbedding(150, 64, bits=bits)
            form.load_plain_state(state)
            errors.append((form.weight - weight).square().sum(1))
        assert bool((errors[1] <= errors[0] * 1.0001).all())
    assert errors[1].sum() < errors[0].sum()


def test_max_norm_stays_float_and_says_why() -> None:
    model = nn.Sequential(nn.Embedding(10, 4, max_norm=1.0), nn.Embedding(10, 4))
    result = intaglio.quantize_dynamic(model, dtype=torch.quint8)
    layers = intaglio.summary(result).layers
    assert not layers[0].quantized
    assert "max_norm=1.0" in layers[0].note
    assert layers[1].quantized
    with pytest.raises(intaglio.NothingQuantizedError, match="max_norm"):
        intaglio.quantize_dynamic(model[:1], dtype=torch.quint8)


def test_an_observer_without_a_range_is_refused() -> None:
    recipe = intaglio.PlaceholderObserver.with_args(dtype="uint8")
    with pytest.raises(intaglio.ConfigError, match=r"'0'.*finds a range"):
        intaglio.quantize_dynamic(nn.Sequential(nn.Embedding(3, 4)), {nn.Embedding: QConfig(recipe, recipe)})


# ---- Lookups -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", WEIGHT_TYPES)
@pytest.mark.parametrize("width", [1, 7, 24])
def test_lookup_gives_rows_of_the_weight(dtype: torch.dtype, width: int) -> None:
    form = embedding(dtype, width=width)
    for shape, kind in itertools.product([(), (0,), (5,), (2, 3), (2, 0, 3)], (torch.int64, torch.int32)):
        indices = torch.randint(0, 40, shape).to(kind)
        assert torch.equal(form(indices), F.embedding(indices, form.weight))
    strided = torch.randint(0, 40, (6, 8))[::2, ::3].T
    assert torch.equal(form(input=strided), F.embedding(strided, form.weight))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_rows_have_the_dtype_of_the_float_module(dtype: torch.dtype) -> None:
    module = nn.Embedding(30, 16).to(dtype)
    form = quantized(module)
    rows = form(torch.arange(30))
    assert rows.dtype == form.weight.dtype == dtype
    assert sqnr(module.weight, rows) > 40
    assert quantized(nn.EmbeddingBag(30, 16).to(dtype))(torch.arange(30).view(6, 5)).dtype == dtype


def test_threads_do_not_change_bits() -> None:
    form, bag = embedding(rows=5000, width=100), quantized(nn.EmbeddingBag(5000, 100, mode="sum"))
    indices = torch.randint(0, 5000, (3000,))
    offsets = torch.arange(0, 3000, 7)
    torch.set_num_threads(1)
    expected = form(indices), bag(indices, offsets)
    for threads in (2, 5):
        torch.set_num_threads(threads)
        assert torch.equal(form(indices), expected[0])
        assert torch.equal(bag(indices, offsets), expected[1])


def test_many_python_threads_may_look_up_at_once() -> None:
    form = embedding(rows=1000, width=64)
    indices = torch.randint(0, 1000, (8, 500))
    expected = [form(row) for row in indices]
    wrong: list[int] = []

    def work(i: int) -> None:
        wrong.extend(i for _ in range(20) if not torch.equal(form(indices[i]), expected[i]))

    workers = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong


def test_code_that_slices_the_weight_goes_on_working() -> None:
    # Position embeddings are often not looked up but sliced; the legacy module's `weight` was a method.
    class Positions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.position = nn.Embedding(16, 8)

        def forward(self, x: Tensor) -> Tensor:
            return x.to(self.position.weight.dtype) + self.position.weight[: x.shape[1]]

    model = Positions()
    x = torch.randn(2, 5, 8)
    assert sqnr(model(x), intaglio.quantize_dynamic(model, dtype=torch.quint8)(x)) > 40


# ---- Bags ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", WEIGHT_TYPES)
@pytest.mark.parametrize("mode", BAG_MODES)
@pytest.mark.parametrize("padding_idx", [None, 3])
@pytest.mark.parametrize("include_last_offset", [False, True])
def test_bags_are_those_of_torch(
    dtype: torch.dtype, mode: str, padding_idx: int | None, include_last_offset: bool
) -> None:
    options = {"mode": mode, "padding_idx": padding_idx, "include_last_offset": include_last_offset}
    form = quantized(nn.EmbeddingBag(40, 24, **options), dtype)
    module = nn.EmbeddingBag(40, 24, _weight=form.weight, **options)
    indices = torch.randint(0, 6, (50,))
    offsets = torch.tensor([0, 0, 3, 20, 20, 49, 50][: 7 if include_last_offset else 6])
    for kind in (torch.int64, torch.int32):
        found = form(indices.to(kind), offsets.to(kind))
        torch.testing.assert_close(found, module(indices, offsets), rtol=2e-6, atol=2e-6)
    square = indices.view(10, 5)
    torch.testing.assert_close(form(square), module(square), rtol=2e-6, atol=2e-6)
    if mode == "sum":
        weights = torch.randn(50)
        torch.testing.assert_close(
            form(indices, offsets, per_sample_weights=weights),
            module(indices, offsets, per_sample_weights=weights),
            rtol=2e-6,
            atol=1e-5,
        )


def test_bags_without_indices_are_zeros() -> None:
    for mode in BAG_MODES:
        form = quantized(nn.EmbeddingBag(9, 5, mode=mode))
        none = torch.zeros(0, dtype=torch.int64)
        assert torch.equal(form(none, torch.zeros(3, dtype=torch.int64)), torch.zeros(3, 5))
        assert form(none, none).shape == (0, 5)
        assert torch.equal(form(torch.zeros(4, 0, dtype=torch.int64)), torch.zeros(4, 5))


# ---- Bad input -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("indices", "message"),
    [
        (torch.tensor([1, 40]), "index 40 at position 1 is not a row of the table, whose rows are 0 to 39"),
        (torch.tensor([[-1]], dtype=torch.int32), "index -1 at position 0"),
        (torch.tensor([2**40]), "index 1099511627776"),
        (torch.tensor([1.0]), "dtype torch.float32, but indices are int32 or int64: pass input.long()"),
        ([1, 2], "must be a torch.Tensor, not list"),
    ],
)
def test_bad_indices_are_errors_that_name_the_layer(indices: Tensor, message: str) -> None:
    model = nn.ModuleDict({"words": nn.Embedding(40, 8)})
    form = intaglio.quantize_dynamic(model, dtype=torch.quint8)["words"]
    with pytest.raises(InputError, match=r"'words' \(QuantizedEmbedding\)") as raised:
        form(indices)
    assert message in str(raised.value)


def test_training_mode_is_an_error() -> None:
    for form in (embedding(), quantized(nn.EmbeddingBag(4, 4))):
        form.train()
        with pytest.raises(InputError, match=r"call model.eval\(\)"):
            form(torch.tensor([[1]]))


BAG = torch.arange(5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((BAG, torch.tensor([1, 2])), "the first bag begins at 0"),
        ((BAG, torch.tensor([0, 3, 2])), "after 3 comes 2"),
        ((BAG, torch.tensor([0, 6])), "nor pass the 5 indices"),
        ((BAG, torch.tensor([0, -1])), "after 0 comes -1"),
        ((BAG, torch.tensor([0.0])), "offsets has dtype torch.float32"),
        ((BAG, torch.tensor([[0]])), "offsets have shape"),
        ((BAG,), "pass (bags, size), or 1-d with offsets"),
        ((BAG[None], torch.tensor([0])), "offsets must be None"),
        ((BAG[None, None],), "pass (bags, size)"),
        ((torch.tensor([[60]]),), "index 60"),
        ((BAG[None], None, torch.ones(5)), "per_sample_weights have shape (5,)"),
        ((BAG[None], None, torch.ones(1, 5, dtype=torch.int64)), "per_sample_weights has dtype torch.int64"),
    ],
)
def test_bags_that_make_no_sense_are_errors(arguments: tuple[Tensor, ...], message: str) -> None:
    form = quantized(nn.EmbeddingBag(50, 8, mode="sum"))
    with pytest.raises(InputError) as raised:
        form(*arguments)
    assert message in str(raised.value)
    assert "'0' (QuantizedEmbeddingBag)" in str(raised.value)


def test_sample_weights_need_mode_sum() -> None:
    form = quantized(nn.EmbeddingBag(50, 8, mode="max"))
    with pytest.raises(InputError, match="mode 'sum'"):
        form(BAG[None], None, torch.ones(1, 5))


def test_last_offset_beyond_the_indices_is_an_error() -> None:
    form = quantized(nn.EmbeddingBag(50, 8, include_last_offset=True))
    with pytest.raises(InputError, match="the last offset is 6, but there are 5 indices"):
        form(BAG, torch.tensor([0, 6]))
    with pytest.raises(InputError, match="end with the number of indices"):
        form(BAG, torch.tensor([], dtype=torch.int64))


def test_a_gradient_of_sample_weights_is_refused() -> None:
    form = quantized(nn.EmbeddingBag(50, 8, mode="sum"))
    weights = torch.ones(1, 5, requires_grad=True)
    with pytest.raises(InputError, match="no gradient"):
        form(BAG[None], None, weights).sum().backward()


# ---- State, tracing, compiling ---------------------------------------------------------------------------


def forms() -> list[tuple[nn.Module, tuple[Tensor, ...]]]:
    bags = torch.randint(0, 40, (50,)), torch.tensor([0, 4, 4, 40])
    return [
        (embedding(torch.quint8), (torch.randint(0, 40, (3, 4)),)),
        (embedding(torch.quint4x2, width=9), (torch.randint(0, 40, (3, 4), dtype=torch.int32),)),
        (quantized(nn.EmbeddingBag(40, 24, mode="sum")), (*bags, torch.randn(50))),
        (quantized(nn.EmbeddingBag(40, 24, mode="max", padding_idx=2), torch.quint4x2), bags),
        (quantized(nn.EmbeddingBag(40, 24, mode="mean")), (torch.randint(0, 40, (3, 4)),)),
    ]


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_give_the_same(copied: Callable[[nn.Module], nn.Module]) -> None:
    for form, arguments in forms():
        assert torch.equal(copied(form)(*arguments), form(*arguments))


def test_state_dict_is_plain_and_loads() -> None:
    for form, arguments in forms():
        state = form.state_dict()
        assert {name: t.dtype for name, t in state.items()} == {
            "weight": torch.uint8,
            "weight_scale": torch.float32,
            "weight_offset": torch.float32,
        }
        other = type(form).from_config(form.config())
        other.load_state_dict(state)
        assert torch.equal(other(*arguments), form(*arguments))
        assert other.plain_bytes() == sum(t.numel() * t.element_size() for t in state.values())


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_ops_pass_opcheck() -> None:
    for form, arguments in forms():
        op = torch.ops.intaglio.embedding
        rest: tuple[object, ...] = (form.packed, arguments[0], form.embedding_dim, form.bits, "x")
        if isinstance(form, QuantizedEmbeddingBag):
            op = torch.ops.intaglio.embedding_bag
            offsets, weights = (*arguments[1:], None, None)[:2]
            shape = (form.embedding_dim, form.bits, form.mode, False, 2, "x")
            rest = (form.packed, arguments[0], offsets, weights, *shape)
        torch.library.opcheck(op.default, rest)


def test_compiles_and_exports() -> None:
    for form, arguments in forms():
        expected = form(*arguments)
        torch._dynamo.reset()
        compiled = torch.compile(form, backend="aot_eager", fullgraph=True)
        assert torch.equal(compiled(*arguments), expected)
        exported = torch.export.export(form, arguments).module()
        assert torch.equal(exported(*arguments), expected)


def test_a_compiled_lookup_checks_its_indices_too() -> None:
    torch._dynamo.reset()
    compiled = torch.compile(embedding(), backend="aot_eager")
    with pytest.raises(InputError, match=r"'0' \(QuantizedEmbedding\): index 99"):
        compiled(torch.tensor([99]))
