"""`quantize_dynamic`: what it returns, what it leaves alone, and what it says when it cannot."""

import copy
import gc
import inspect
import itertools
import sys
import weakref
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import intaglio
from intaglio import (
    ConfigError,
    ConversionError,
    InputError,
    NothingQuantizedError,
    QConfig,
    quantize_dynamic,
)
from intaglio.nn import DynamicLinear, HalfLinear, QuantizedModule
from intaglio.observer import MinMaxObserver, PerChannelMinMaxObserver, PlaceholderObserver
from intaglio.qparams import parse_dtype


def mlp(*widths: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for k, n in itertools.pairwise(widths):
        layers += [nn.Linear(k, n), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def sqnr(found: Tensor, expected: Tensor) -> float:
    return float(20 * torch.log10(expected.norm() / (found - expected).norm()).detach())


def snapshot(model: nn.Module) -> tuple[Any, ...]:
    """Everything of a model that a conversion could have changed."""
    return (
        {path: id(module) for path, module in model.named_modules(remove_duplicate=False)},
        {path: module.training for path, module in model.named_modules()},
        {name: (id(p), p.requires_grad) for name, p in model.named_parameters(remove_duplicate=False)},
        {name: t.clone() for name, t in model.state_dict().items()},
        {path: sorted(vars(module)) for path, module in model.named_modules()},
        {path: list(module._forward_hooks.values()) for path, module in model.named_modules()},
        {path: list(module._forward_pre_hooks.values()) for path, module in model.named_modules()},
    )


def same_snapshot(a: tuple[Any, ...], b: tuple[Any, ...]) -> bool:
    states = zip(a[3].items(), b[3].items(), strict=True)
    equal = all(
        k == o and (t.is_meta or torch.equal(t.nan_to_num(7), u.nan_to_num(7))) for (k, t), (o, u) in states
    )
    return equal and a[:3] + a[4:] == b[:3] + b[4:]


# ---- The line from the tutorials --------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.qint8, torch.int8, "int8"])
def test_the_tutorial_line(dtype: Any) -> None:
    model = mlp(64, 128, 10)
    quantized_model = intaglio.quantize_dynamic(model, {torch.nn.Linear}, dtype=dtype)
    x = torch.randn(7, 64)
    assert [type(m) for m in quantized_model] == [DynamicLinear, nn.ReLU, DynamicLinear]
    assert sqnr(quantized_model(x), model(x)) > 35


def test_the_signature_is_the_legacy_one() -> None:
    from torch.ao.quantization import quantize_dynamic as legacy

    ours, theirs = (inspect.signature(f).parameters for f in (quantize_dynamic, legacy))
    assert list(ours) == list(theirs)
    for name, parameter in theirs.items():
        assert ours[name].kind is parameter.kind
        if name == "dtype":
            assert parse_dtype(ours[name].default) is parse_dtype(parameter.default)
        else:
            assert ours[name].default == parameter.default


def test_it_is_more_accurate_than_the_legacy() -> None:
    legacy = pytest.importorskip("torch.ao.quantization")
    model, x = mlp(96, 200, 48).eval(), torch.randn(40, 96) * torch.logspace(-1, 1, 40)[:, None]
    theirs = pytest.MonkeyPatch()
    with theirs.context() as patch:
        patch.setattr("warnings.filters", [("ignore", None, Warning, None, 0)])
        reference = legacy.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)(x)
    assert sqnr(quantize_dynamic(model)(x), model(x)) > sqnr(reference, model(x)) + 3


def test_float16() -> None:
    model, x = mlp(64, 128, 10), torch.randn(7, 64)
    quantized = quantize_dynamic(model, {nn.Linear}, dtype=torch.float16)
    assert isinstance(quantized[0], HalfLinear)
    assert torch.equal(quantized[0].weight, model[0].weight.half())
    assert sqnr(quantized(x), model(x)) > 60


def test_float16_saturates_and_says_where() -> None:
    model = mlp(4, 4, 4)
    with torch.no_grad():
        model[2].weight[1, 2], model[2].weight[3, 3] = 1e6, -70000.0
    with pytest.warns(UserWarning, match=r"'2': 2 of 16 weights lie beyond float16's range"):
        quantized = quantize_dynamic(model, dtype=torch.float16)
    assert (float(quantized[2].weight[1, 2]), float(quantized[2].weight[3, 3])) == (65504.0, -65504.0)
    with torch.no_grad():
        model[2].weight.clamp_(-65519, 65519)  # rounds down to the largest half, but lies beyond it
    with pytest.warns(UserWarning, match="2 of 16"):
        quantize_dynamic(model, dtype=torch.float16)


# ---- The model that was passed ----------------------------------------------------------------------------


def test_the_model_is_untouched_and_the_copy_is_its_own() -> None:
    model = nn.Sequential(mlp(8, 8, 8), nn.BatchNorm1d(8)).train()
    before = snapshot(model)
    quantized = quantize_dynamic(model)
    assert same_snapshot(before, snapshot(model))
    assert quantized[1] is not model[1]
    assert quantized[1].weight is not model[1].weight
    assert not any(isinstance(m, QuantizedModule) for m in model.modules())


def test_inplace_replaces_in_the_model_itself() -> None:
    model = mlp(8, 16, 4)
    x = torch.randn(3, 8)
    expected = quantize_dynamic(model)(x)
    assert quantize_dynamic(model, inplace=True) is model
    assert isinstance(model[0], DynamicLinear)
    assert torch.equal(model(x), expected)


def test_inplace_lets_the_float_layers_go() -> None:
    model = mlp(8, 16, 4)
    layers = [weakref.ref(model[0].weight), weakref.ref(model[2].weight)]
    quantize_dynamic(model, inplace=True)
    gc.collect()
    assert [ref() for ref in layers] == [None, None]


def test_a_model_that_is_one_layer() -> None:
    layer = nn.Linear(8, 4)
    for inplace in (False, True):
        quantized = quantize_dynamic(copy.deepcopy(layer), inplace=inplace)
        assert isinstance(quantized, DynamicLinear)
        assert sqnr(quantized(torch.ones(1, 8)), layer(torch.ones(1, 8))) > 30


def test_the_result_is_in_eval_mode() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5), nn.BatchNorm1d(4)).train()
    quantized = quantize_dynamic(model)
    assert not any(module.training for module in quantized.modules())
    assert all(module.training for module in model.modules())
    x = torch.randn(5, 4)
    assert torch.equal(quantized(x), quantized(x))


# ---- Sharing ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("inplace", [False, True])
def test_a_module_at_two_paths_becomes_one_module(inplace: bool) -> None:
    # pytorch/ao#4478
    shared = nn.Linear(8, 8)
    model = nn.Sequential(shared, nn.ReLU(), shared)
    quantized = quantize_dynamic(model, inplace=inplace)
    assert quantized[0] is quantized[2]
    assert isinstance(quantized[0], DynamicLinear)
    assert len(intaglio.summary(quantized).layers) == 1


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("dtype", ["int8", "float16"])
def test_tied_weights_stay_tied(inplace: bool, dtype: str) -> None:
    # pytorch/pytorch#142035
    model = mlp(8, 8, 8)
    model[2].weight, model[2].bias = model[0].weight, model[0].bias
    quantized = quantize_dynamic(model, dtype=dtype, inplace=inplace)
    first, second = quantized[0], quantized[2]
    assert first is not second
    assert (first.path, second.path) == ("0", "2")
    assert first.packed.data_ptr() == second.packed.data_ptr()
    copied = copy.deepcopy(quantized)
    assert copied[0].packed.data_ptr() == copied[2].packed.data_ptr() != first.packed.data_ptr()


def test_a_tied_weight_with_another_bias_is_not_tied() -> None:
    model = mlp(8, 8, 8)
    model[2].weight = model[0].weight
    quantized = quantize_dynamic(model)
    assert torch.equal(quantized[0].weight.data, quantized[2].weight.data)
    assert torch.equal(quantized[2].bias, model[2].bias)
    assert not torch.equal(quantized[0].bias, quantized[2].bias)


# ---- Hooks ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("inplace", [False, True])
def test_hooks_of_every_kind_are_kept(inplace: bool) -> None:
    model, calls = mlp(4, 4, 4), []
    layer = model[0]
    layer.register_forward_pre_hook(lambda module, args: calls.append("pre"))
    layer.register_forward_pre_hook(lambda module, args, kwargs: calls.append("pre kwargs"), with_kwargs=True)
    layer.register_forward_hook(lambda module, args, out: out * 0)
    layer.register_forward_hook(lambda module, args, kwargs, out: calls.append("kwargs"), with_kwargs=True)
    layer.register_forward_hook(lambda module, args, out: calls.append("always"), always_call=True)
    quantized = quantize_dynamic(model, inplace=inplace)
    x = torch.randn(2, 4)
    for module in (quantized, copy.deepcopy(quantized)):
        calls.clear()
        assert torch.equal(module[0](x), torch.zeros(2, 4))
        assert calls == ["pre", "pre kwargs", "kwargs", "always"]


def test_a_hook_that_is_a_method_of_the_model_becomes_one_of_the_copy() -> None:
    class Recorder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.seen = nn.Linear(4, 4), 0
            self.layer.register_forward_hook(self.count)

        def count(self, module: nn.Module, args: Any, out: Tensor) -> None:
            self.seen += 1

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x)

    model = Recorder()
    quantized = quantize_dynamic(model)
    quantized(torch.randn(2, 4))
    assert (model.seen, quantized.seen) == (0, 1)


def test_a_hook_can_be_removed_after_conversion_in_place() -> None:
    model, calls = mlp(4, 4), []
    handle = model[0].register_forward_hook(lambda *args: calls.append(1))
    quantize_dynamic(model, inplace=True)
    handle.remove()
    model(torch.randn(1, 4))
    assert calls == []


# ---- Derived weights --------------------------------------------------------------------------------------


def old_weight_norm(layer: nn.Linear) -> None:
    with pytest.warns(FutureWarning, match="weight_norm"):
        nn.utils.weight_norm(layer)


def prune(layer: nn.Linear) -> None:
    nn.utils.prune.l1_unstructured(layer, "weight", amount=0.5)


DERIVED = {
    "weight_norm": old_weight_norm,
    "parametrized weight_norm": nn.utils.parametrizations.weight_norm,
    "spectral_norm": nn.utils.spectral_norm,
    "parametrized spectral_norm": nn.utils.parametrizations.spectral_norm,
    "prune": prune,
}


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("name", DERIVED)
def test_derived_weights_are_those_of_the_next_forward(name: str, inplace: bool) -> None:
    model = mlp(16, 24, 8)
    DERIVED[name](model[0])
    model.eval()
    with torch.no_grad():
        for parameter in model[0].parameters():
            parameter.mul_(3)  # what the layer derived before is stale until it runs again
    x = torch.randn(5, 16)
    if not inplace:
        quantized = quantize_dynamic(model, {nn.Linear})
        expected = model(x)
    else:
        expected = model(x)
        quantized = quantize_dynamic(model, {nn.Linear}, inplace=True)
    assert isinstance(quantized[0], DynamicLinear)
    assert sqnr(quantized(x), expected) > 30


def test_a_kept_layer_with_a_derived_weight_is_copied() -> None:
    # torch refuses to copy a tensor with a graph: what weight_norm derived when the model last ran.
    model = mlp(4, 4, 4)
    old_weight_norm(model[0])
    model(torch.randn(1, 4))
    x = torch.randn(3, 4)
    quantized = quantize_dynamic(model, {"2"})
    assert type(quantized[0]) is nn.Linear
    assert sqnr(quantized(x), model(x)) > 30


def test_a_derived_weight_that_is_not_finite_is_found() -> None:
    model = mlp(4, 4, 4)
    nn.utils.parametrizations.weight_norm(model[2])
    with torch.no_grad():
        model[2].parametrizations.weight.original1.zero_()  # g * v / |v| of a v of zeros
    before = snapshot(model)
    with pytest.raises(ConversionError, match=r"'2.weight' holds NaN"):
        quantize_dynamic(model, inplace=True)
    assert same_snapshot(before, snapshot(model))


# ---- Failures leave the model as it was -------------------------------------------------------------------


def not_finite(model: nn.Sequential) -> dict[str, Any]:
    with torch.no_grad():
        model[2].weight[0, 0] = torch.nan
    return {}


def infinite_bias(model: nn.Sequential) -> dict[str, Any]:
    with torch.no_grad():
        model[2].bias[0] = torch.inf
    return {}


def no_data(model: nn.Sequential) -> dict[str, Any]:
    model[2] = nn.Linear(4, 4, device="meta")
    return {}


def raising(module: nn.Module) -> nn.Module:
    raise ConversionError("this replacement cannot be made")


def weight_qconfig(observer: Any) -> dict[str, Any]:
    qconfig = QConfig(PlaceholderObserver.with_args(), observer)
    return {"qconfig_spec": {nn.Linear: intaglio.default_dynamic_qconfig, "2": qconfig}}


FAILURES: dict[str, tuple[Any, type[Exception], str]] = {
    "NaN weight": (not_finite, ConversionError, r"'2.weight' holds NaN or infinity.*\{'2': None\}"),
    "infinite bias": (infinite_bias, ConversionError, r"'2.bias' holds NaN or infinity"),
    "no data": (no_data, ConversionError, r"'2.weight' has no data"),
    "unknown name": (lambda m: {"qconfig_spec": {"1.weight"}}, ConfigError, "no such module"),
    "nothing": (lambda m: {"qconfig_spec": {nn.LSTM}}, NothingQuantizedError, "asked for LSTM"),
    "dtype": (lambda m: {"dtype": torch.float64}, ConfigError, "use one of"),
    "mapping": (
        lambda m: {"mapping": {nn.ReLU: raising}, "qconfig_spec": {nn.Linear, nn.ReLU}},
        ConversionError,
        "this replacement",
    ),
    "mapping to nothing": (
        lambda m: {"mapping": {nn.ReLU: lambda module: None}, "qconfig_spec": {nn.Linear, nn.ReLU}},
        ConversionError,
        "'1': the mapping of ReLU gave NoneType",
    ),
    "affine weights": (
        lambda m: weight_qconfig(MinMaxObserver.with_args(dtype="int8", qscheme=torch.per_tensor_affine)),
        ConfigError,
        "'2': .*symmetric",
    ),
    "channels of the wrong axis": (
        lambda m: weight_qconfig(PerChannelMinMaxObserver.with_args(ch_axis=1)),
        ConfigError,
        "'2': .*axis 0",
    ),
    "no observer": (lambda m: weight_qconfig(lambda: None), ConfigError, "'2'.*not an observer"),
}


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("name", FAILURES)
def test_a_failure_leaves_the_model_untouched(name: str, inplace: bool) -> None:
    prepare, error, text = FAILURES[name]
    model = mlp(4, 4, 4).train()
    arguments = prepare(model)
    before, random_state = snapshot(model), torch.get_rng_state()
    with pytest.raises(error, match=text):
        quantize_dynamic(model, **arguments, inplace=inplace)
    assert same_snapshot(before, snapshot(model))
    assert torch.equal(torch.get_rng_state(), random_state)


def test_conversion_draws_no_random_numbers() -> None:
    state = torch.get_rng_state()
    model = mlp(4, 4)
    state = torch.get_rng_state()
    quantize_dynamic(model, inplace=True)
    assert torch.equal(torch.get_rng_state(), state)


# ---- Nothing to do ----------------------------------------------------------------------------------------


def test_an_already_quantized_model_says_so() -> None:
    quantized = quantize_dynamic(mlp(4, 4))
    with pytest.raises(NothingQuantizedError, match="already quantized"):
        quantize_dynamic(quantized)
    with pytest.raises(NothingQuantizedError, match="already quantized"):
        quantize_dynamic(quantized[0])


def test_a_model_can_be_quantized_in_two_steps() -> None:
    model = mlp(4, 8, 8, 2)
    half = quantize_dynamic(model, {"0"}, dtype=torch.float16)
    both = quantize_dynamic(half, {nn.Linear}, dtype=torch.qint8)
    assert [type(both[i]) for i in (0, 2, 4)] == [HalfLinear, DynamicLinear, DynamicLinear]
    assert both[0].packed.data_ptr() != half[0].packed.data_ptr()
    with pytest.raises(NothingQuantizedError, match=r"Linear; 1 modules are quantized already"):
        quantize_dynamic(half, {nn.LSTM})


class Conv1D(nn.Module):
    """GPT-2's linear layer, as transformers.pytorch_utils has it: the weight is (in, out)."""

    def __init__(self, nf: int, nx: int) -> None:
        super().__init__()
        self.nf, self.nx = nf, nx
        self.weight, self.bias = nn.Parameter(torch.randn(nx, nf)), nn.Parameter(torch.randn(nf))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addmm(self.bias, x.view(-1, x.size(-1)), self.weight).view(*x.shape[:-1], self.nf)


def test_gpt2_layers_are_quantized(monkeypatch: pytest.MonkeyPatch) -> None:
    # pytorch/pytorch#33433: {nn.Linear} on GPT-2 changed nothing, because its layers are Conv1D.
    model, x = nn.Sequential(Conv1D(24, 8), nn.GELU(), Conv1D(8, 24)), torch.randn(2, 5, 8)
    with pytest.raises(NothingQuantizedError, match="parameters are Conv1D"):
        quantize_dynamic(model, {nn.Linear})
    library = ModuleType("transformers.pytorch_utils")
    library.Conv1D = Conv1D  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "transformers.pytorch_utils", library)
    for spec in ({nn.Linear}, {Conv1D}, None):
        quantized = quantize_dynamic(model, spec)
        assert isinstance(quantized[2], DynamicLinear)
        assert sqnr(quantized(x), model(x)) > 30
    assert sqnr(quantize_dynamic(model, dtype="float16")(x), model(x)) > 60


# ---- mapping ----------------------------------------------------------------------------------------------


class Scaled(nn.Module):
    def __init__(self, source: nn.Module) -> None:
        super().__init__()
        self.source = source

    @classmethod
    def from_float(cls, module: nn.Module) -> "Scaled":
        return cls(module)

    def forward(self, x: Tensor) -> Tensor:
        return 10 * self.source(x)


@pytest.mark.parametrize("inplace", [False, True])
def test_a_mapping_replaces_what_it_names(inplace: bool) -> None:
    model, x = mlp(4, 4, 4), torch.randn(2, 4)
    expected = 10 * model[0](x)
    quantized = quantize_dynamic(model, {"0", nn.Linear}, mapping={nn.Linear: Scaled}, inplace=inplace)
    assert isinstance(quantized[0], Scaled)
    assert torch.equal(quantized[0](x), expected)
    quantized = quantize_dynamic(
        mlp(4, 4), {nn.Linear, nn.ReLU}, mapping={nn.ReLU: lambda m: nn.Sequential()}
    )
    assert isinstance(quantized[0], DynamicLinear)


# ---- Inputs -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_a_model_of_another_float_dtype(dtype: torch.dtype) -> None:
    model = mlp(16, 32, 8).to(dtype)
    x = torch.randn(4, 16, dtype=dtype)
    quantized = quantize_dynamic(model)
    assert quantized(x).dtype is dtype
    assert sqnr(quantized(x).double(), model.double()(x.double())) > 30


def test_the_gradient_is_not_cut_in_silence() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    quantized = quantize_dynamic(model, {"1"})
    out = quantized(torch.randn(2, 4))
    assert out.requires_grad
    with pytest.raises(InputError, match=r"^'1' \(DynamicLinear\) has no gradient"):
        out.sum().backward()
    with torch.no_grad():
        assert not quantized(torch.randn(2, 4)).requires_grad
