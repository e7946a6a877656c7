"""Quantized attention against torch's, over its options; and torch's transformer layers around it."""

import itertools
import warnings

import pytest
import torch
from torch import Tensor, nn

import intaglio
from intaglio import ConfigError, InputError, _core, quantize_dynamic
from intaglio.nn import DynamicLinear, DynamicMultiheadAttention
from intaglio.ops.linear import run_linear_columns, run_linear_dynamic
from intaglio.ops.packing import pack_weight

FLOOR = 28.0


def sqnr(found: Tensor, expected: Tensor) -> float:
    return float(20 * torch.log10(expected.norm() / (found - expected).norm()).detach())


def pair(**options: object) -> tuple[nn.MultiheadAttention, DynamicMultiheadAttention]:
    attention = nn.MultiheadAttention(48, 4, **options).eval()  # type: ignore[arg-type]
    for name, parameter in attention.named_parameters():
        if "bias" in name:
            nn.init.normal_(parameter, std=0.1)
    quantized = quantize_dynamic(attention)
    assert isinstance(quantized, DynamicMultiheadAttention)
    return attention, quantized


def check(attention: nn.Module, quantized: nn.Module, *inputs: Tensor, **options: object) -> None:
    with torch.no_grad():
        expected, expected_weights = attention(*inputs, **options)
        found, weights = quantized(*inputs, **options)
    assert found.shape == expected.shape
    assert sqnr(found, expected) >= FLOOR
    assert (weights is None) == (expected_weights is None)
    if weights is not None:
        assert weights.shape == expected_weights.shape
        assert sqnr(weights, expected_weights) >= FLOOR


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize("kv", [True, False])
@pytest.mark.parametrize("masks", ["none", "bool", "float", "3d", "padding", "both", "causal"])
def test_masks_weights_and_layouts(batch_first: bool, need_weights: bool, kv: bool, masks: str) -> None:
    attention, quantized = pair(batch_first=batch_first, add_bias_kv=kv, add_zero_attn=kv)
    batch, length = 3, 6
    x = torch.randn(batch, length, 48)
    x = x if batch_first else x.transpose(0, 1)
    causal = torch.ones(length, length).triu(1).bool()
    padding = torch.zeros(batch, length).bool()
    padding[0, -2:] = True
    options: dict[str, object] = {
        "none": {},
        "bool": {"attn_mask": causal},
        "float": {"attn_mask": torch.randn(length, length)},
        "3d": {"attn_mask": torch.randn(batch * 4, length, length)},
        "padding": {"key_padding_mask": padding},
        "both": {"attn_mask": causal, "key_padding_mask": padding},
        "causal": {"attn_mask": causal, "is_causal": True},
    }[masks]  # type: ignore[assignment]
    for average in (True, False):
        more = {"need_weights": need_weights, "average_attn_weights": average}
        check(attention, quantized, x, x, x, **options, **more)


@pytest.mark.parametrize("bias", [True, False])
def test_other_widths_for_key_and_value(bias: bool) -> None:
    attention, quantized = pair(kdim=20, vdim=36, bias=bias, batch_first=True)
    check(attention, quantized, torch.randn(2, 5, 48), torch.randn(2, 9, 20), torch.randn(2, 9, 36))


def test_unbatched() -> None:
    attention, quantized = pair()
    query, key = torch.randn(5, 48), torch.randn(7, 48)
    check(attention, quantized, query, key, key)
    check(attention, quantized, query, key, key, need_weights=False)
    check(attention, quantized, query, key, key, key_padding_mask=torch.arange(7) > 4)


def test_self_attention_quantizes_its_input_once(monkeypatch: pytest.MonkeyPatch) -> None:
    _, quantized = pair(batch_first=True)
    _, by_widths = pair(kdim=40)
    widths = [(name, p.out_features) for name, p in quantized.named_children()]  # type: ignore[union-attr]
    assert widths == [("in_proj", 144), ("out_proj", 48)]
    assert [name for name, _ in by_widths.named_children()] == ["q_proj", "k_proj", "v_proj", "out_proj"]
    calls: list[str] = []
    core = intaglio.ops.linear._core

    class Counting:
        def __getattr__(self, name: str) -> object:
            calls.append(name)
            return getattr(core, name)

    monkeypatch.setattr(intaglio.ops.linear, "_core", Counting())
    x, memory = torch.randn(2, 5, 48), torch.randn(2, 7, 48)
    for inputs, expected in (
        ((x, x, x), {"linear_dynamic": 2}),
        ((x, memory, memory), {"linear_dynamic": 1, "linear_dynamic_panels": 2}),
        ((x, memory, memory.clone()), {"linear_dynamic": 1, "linear_dynamic_panels": 3}),
    ):
        calls.clear()
        quantized(*inputs, need_weights=False)
        assert {name: calls.count(name) for name in calls if name.startswith("linear")} == expected


@pytest.mark.parametrize("width", [40, 48, 100])
@pytest.mark.parametrize("isa", _core.available_isas())
def test_how_tensors_are_shared_changes_no_bit(width: int, isa: str) -> None:
    # Panels of columns do not end where the projections do: 40 and 100 are multiples of no vector.
    _core.force_isa(isa)
    quantized = quantize_dynamic(nn.MultiheadAttention(width, 4, batch_first=True))
    x = torch.randn(2, 9, width)
    for need_weights in (True, False):
        found = [
            quantized(*inputs, need_weights=need_weights)[0]
            for inputs in ((x, x, x), (x, x.clone(), x.clone()), (x, *[x.clone()] * 2))
        ]
        assert torch.equal(found[0], found[1])
        assert torch.equal(found[0], found[2])


@pytest.mark.parametrize("rows", [1, 5, 300])
@pytest.mark.parametrize("per_row", [True, False])
@pytest.mark.parametrize("isa", _core.available_isas())
def test_columns_are_those_of_the_whole_product(rows: int, per_row: bool, isa: str) -> None:
    _core.force_isa(isa)
    for n, k in ((30, 7), (300, 50), (576, 192)):
        packed = pack_weight(
            torch.randint(-127, 128, (n, k), dtype=torch.int8), torch.rand(n), torch.randn(n)
        )
        x = torch.randn(rows, k)
        whole = run_linear_dynamic(x, packed, n, per_row)
        for threads, (begin, end) in itertools.product(
            (1, 3), ((0, n), (0, n // 3), (n // 3, n), (1, 2), (n - 1, n))
        ):
            torch.set_num_threads(threads)
            assert torch.equal(run_linear_columns(x, packed, begin, end, per_row), whole[:, begin:end])


@pytest.mark.parametrize("spec", [{nn.Linear}, {nn.MultiheadAttention}, None])
def test_projections_are_quantized_when_linear_is_asked_for(spec: set[type] | None) -> None:
    # pytorch/pytorch#118165, #32764
    model = nn.ModuleDict({"attention": nn.MultiheadAttention(48, 4)}).eval()
    quantized = quantize_dynamic(model, spec)["attention"]
    assert isinstance(quantized, DynamicMultiheadAttention)
    assert all(isinstance(part, DynamicLinear) for part in quantized.children())
    assert intaglio.summary(quantized).to_dict()["quantized_layers"] == 1


def test_a_projection_alone_is_refused_by_name() -> None:
    model = nn.ModuleDict({"attention": nn.MultiheadAttention(48, 4), "head": nn.Linear(48, 2)})
    with pytest.raises(ConfigError, match=r"'attention.out_proj' cannot be .* alone.*ask for 'attention'"):
        quantize_dynamic(model, {"attention.out_proj", "head"})


def test_attention_kept_in_float_keeps_its_projection() -> None:
    model = nn.ModuleDict({"attention": nn.MultiheadAttention(48, 4), "head": nn.Linear(48, 2)}).eval()
    quantized = quantize_dynamic(model, {nn.Linear: intaglio.default_dynamic_qconfig, "attention": None})
    assert type(quantized["attention"]) is nn.MultiheadAttention
    x = torch.randn(4, 2, 48)
    assert torch.equal(quantized["attention"](x, x, x)[0], model["attention"](x, x, x)[0])
    notes = {layer.path: layer.note for layer in intaglio.summary(quantized).layers}
    assert notes["attention.out_proj"] == "part of a float MultiheadAttention"


class Doubled(nn.MultiheadAttention):
    """A subclass with a forward of its own, which reads the projection's weight."""

    def forward(self, *inputs: Tensor, **options: object) -> tuple[Tensor, Tensor | None]:  # type: ignore[override]
        output, weights = super().forward(*inputs, **options)  # type: ignore[arg-type]
        return 2 * output, weights


def test_a_subclass_with_its_own_forward_stays_whole() -> None:
    model = nn.ModuleDict({"attention": Doubled(48, 4), "head": nn.Linear(48, 2)}).eval()
    quantized = quantize_dynamic(model, {nn.Linear})
    assert isinstance(quantized["head"], DynamicLinear)
    x = torch.randn(4, 2, 48)
    assert torch.equal(quantized["attention"](x, x, x)[0], model["attention"](x, x, x)[0])


def test_its_kind_of_linear_alone_is_a_linear() -> None:
    # pytorch/pytorch#118165: NonDynamicallyQuantizableLinear was left in float wherever it stood.
    alone = nn.modules.linear.NonDynamicallyQuantizableLinear(48, 8)
    quantized = quantize_dynamic(nn.Sequential(alone), {nn.Linear})[0]
    assert isinstance(quantized, DynamicLinear)
    x = torch.randn(4, 48)
    assert sqnr(quantized(x), alone(x)) > FLOOR


# ---- torch's transformer layers ---------------------------------------------------------------------


def encoder(batch_first: bool, activation: str) -> nn.TransformerEncoder:
    layer = nn.TransformerEncoderLayer(48, 4, 96, batch_first=batch_first, activation=activation)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return nn.TransformerEncoder(layer, 2).eval()


@pytest.mark.parametrize(
    ("batch_first", "activation", "padded", "spec"),
    list(
        itertools.product([True, False], ["relu", "gelu"], [True, False], [{nn.Linear}, {"layers.0.linear1"}])
    ),
)
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_fast_path_does_not_bypass_quantized_layers(
    batch_first: bool, activation: str, padded: bool, spec: set[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    # pytorch/pytorch#109987, #51662: the fused path read raw weights out of the quantized modules.
    model = encoder(batch_first, activation)
    quantized = quantize_dynamic(model, spec)
    parts = ("self_attn.in_proj", "self_attn.out_proj", "linear1", "linear2")
    every = [f"layers.{i}.{part}" for i in range(2) for part in parts]
    calls: list[str] = []
    forward = DynamicLinear.forward
    monkeypatch.setattr(
        DynamicLinear, "forward", lambda self, x: (calls.append(self.path), forward(self, x))[1]
    )
    x = torch.randn(3, 7, 48) if batch_first else torch.randn(7, 3, 48)
    mask = torch.zeros(3, 7).bool()
    mask[0, 5:] = True
    options = {"src_key_padding_mask": mask} if padded else {}
    kept = ~mask if batch_first else ~mask.T
    kept = kept if padded else torch.ones_like(kept)
    for mode in (torch.no_grad, torch.inference_mode, torch.enable_grad):
        calls.clear()
        with mode():
            found, expected = quantized(x, **options), model(x, **options)
        assert sqnr(found[kept], expected[kept]) >= FLOOR
        assert calls == (every if spec == {nn.Linear} else ["layers.0.linear1"])


def test_decoder_and_whole_transformer() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = nn.Transformer(48, 4, 2, 2, 96, batch_first=True).eval()
    quantized = quantize_dynamic(model, {nn.Linear})
    source, target = torch.randn(2, 9, 48), torch.randn(2, 5, 48)
    mask = nn.Transformer.generate_square_subsequent_mask(5)
    with torch.no_grad():
        found = quantized(source, target, tgt_mask=mask, tgt_is_causal=True)
        expected = model(source, target, tgt_mask=mask, tgt_is_causal=True)
    assert sqnr(found, expected) >= 25
    assert not any(type(module) is nn.Linear for module in quantized.modules())


# ---- Bad input ----------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_bad_input_names_the_layer() -> None:
    model = nn.ModuleDict({"attend": nn.MultiheadAttention(48, 4, batch_first=True)}).eval()
    attend = quantize_dynamic(model)["attend"]
    x = torch.randn(2, 5, 48)
    for inputs, options, message in (
        ((x[..., :40], x, x), {}, "query has shape"),
        ((x, x.long(), x), {}, "key has dtype"),
        ((x, x, x[:, :3]), {}, "same batch and length"),
        ((x[:1], x, x), {}, "same batch"),
        ((x[0], x, x), {}, "dimensions"),
        ((x, x, x), {"attn_mask": torch.zeros(4, 5)}, "attn_mask has shape"),
        ((x, x, x), {"attn_mask": torch.zeros(5, 5, dtype=torch.int64)}, "must be bool or float"),
        ((x, x, x), {"key_padding_mask": torch.zeros(2, 4).bool()}, "key_padding_mask has shape"),
        ((x, x, x), {"is_causal": True}, "pass the mask"),
        ((torch.nested.nested_tensor([x[0], x[1]]), x, x), {}, "nested tensor"),
    ):
        with pytest.raises(InputError, match=message) as error:
            attend(*inputs, **options)
        assert "attend" in str(error.value)


def test_nan_stays_in_its_own_sequence() -> None:
    _, quantized = pair(batch_first=True)
    x = torch.randn(3, 5, 48)
    clean = quantized(x, x, x)[0]
    x[1, 2] = torch.nan
    found = quantized(x, x, x)[0]
    assert torch.equal(found[[0, 2]], clean[[0, 2]])
    assert bool(found[1].isnan().all())
