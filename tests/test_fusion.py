"""Fusion by name: every pattern computes what its parts did; hooks, paths, copies and errors."""

from __future__ import annotations

import copy
import itertools
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.ao.quantization as legacy
from torch import Tensor, nn
from torch.nn.utils import prune
from torch.nn.utils.parametrizations import weight_norm

import intaglio
from intaglio import ConfigError, ConversionError, fuse_modules, fused_groups
from intaglio.fusion import (
    FusionWarning,
    fold_batch_norm,
    fuse_conv_bn,
    fuse_conv_bn_relu,
    fuse_convtranspose_bn,
    fuse_known_modules,
    fuse_linear_bn,
    get_fuser_method,
)
from intaglio.nn.fused import ACTIVATIONS, FusedModule, activation_kind

CONVS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
NORMS = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}


def trained(norm: nn.Module) -> nn.Module:
    """A batch norm with statistics and weights as training leaves them."""
    for name, low, high in (
        ("running_mean", -1, 1),
        ("running_var", 0.3, 2),
        ("weight", -2, 2),
        ("bias", -1, 1),
    ):
        nn.init.uniform_(getattr(norm, name), low, high)
    return norm.eval()


def image(dims: int, channels: int = 4) -> Tensor:
    return torch.randn(2, channels, *[6] * dims)


def activation(kind: type[nn.Module]) -> nn.Module:
    arguments: dict[Any, tuple[Any, ...]] = {nn.Threshold: (0.1, -0.2), nn.Hardtanh: (-0.5, 0.7)}
    return kind(*arguments.get(kind, ()))


def legacy_patterns() -> list[tuple[list[nn.Module], Tensor]]:
    found: list[tuple[list[nn.Module], Tensor]] = []
    for dims in (1, 2, 3):
        conv, norm = CONVS[dims], NORMS[dims]
        found.append(([conv(4, 6, 3), trained(norm(6))], image(dims)))
        found.append(([conv(4, 6, 3), trained(norm(6)), nn.ReLU()], image(dims)))
        found.append(([conv(4, 6, 3), nn.ReLU()], image(dims)))
        found.append(([TRANSPOSED[dims](4, 6, 3), trained(norm(6))], image(dims)))
    found += [([trained(NORMS[dims](4)), nn.ReLU()], image(dims)) for dims in (2, 3)]
    found.append(([nn.Linear(4, 6), trained(nn.BatchNorm1d(6))], torch.randn(5, 4)))
    found.append(([nn.Linear(4, 6), nn.ReLU()], torch.randn(5, 4)))
    return found


def check_same(parts: list[nn.Module], x: Tensor) -> nn.Module:
    """Fuse a chain, compare it with what it was, and give the fused model."""
    model = nn.Sequential(*parts).eval()
    expected = model(x)
    fused = fuse_modules(model, [str(index) for index in range(len(parts))])
    assert torch.allclose(fused(x), expected, atol=2e-5)
    assert torch.equal(model(x), expected)
    assert [type(part) for part in list(fused)[1:]] == [nn.Identity] * (len(parts) - 1)
    assert fused_groups(fused) == [[str(index) for index in range(len(parts))]]
    return fused


@pytest.mark.parametrize("index", range(16))
def test_every_legacy_pattern_computes_what_the_legacy_computes(index: int) -> None:
    parts, x = legacy_patterns()[index]
    fused = check_same(parts, x)
    names = [str(number) for number in range(len(parts))]
    theirs = legacy.fuse_modules(nn.Sequential(*parts).eval(), names)
    assert torch.allclose(fused(x), theirs(x), atol=2e-5)


def test_the_legacy_has_no_other_pattern() -> None:
    from torch.ao.quantization.fuser_method_mappings import _DEFAULT_OP_LIST_TO_FUSER_METHOD as TABLE

    assert len(TABLE) == len(legacy_patterns()) == 16
    for types in TABLE:
        assert callable(get_fuser_method(types))


@pytest.mark.parametrize("kind", ACTIVATIONS)
def test_every_activation_fuses_with_every_layer(kind: type[nn.Module]) -> None:
    for parts, x in (
        ([nn.Conv2d(4, 6, 3), activation(kind)], image(2)),
        ([nn.Conv1d(4, 6, 3), trained(nn.BatchNorm1d(6)), activation(kind)], image(1)),
        ([nn.ConvTranspose2d(4, 6, 3), activation(kind)], image(2)),
        ([nn.ConvTranspose3d(4, 6, 3), trained(nn.BatchNorm3d(6)), activation(kind)], image(3)),
        ([nn.Linear(4, 6), activation(kind)], torch.randn(5, 4)),
        ([nn.Linear(4, 6), trained(nn.BatchNorm1d(6)), activation(kind)], torch.randn(5, 4)),
        ([trained(nn.BatchNorm2d(4)), activation(kind)], image(2)),
    ):
        fused = check_same(parts, x)
        assert isinstance(fused[0], FusedModule)
        assert activation_kind(fused[0].activation) is kind


@pytest.mark.parametrize(("groups", "bias"), list(itertools.product([1, 2, 4], [True, False])))
def test_grouped_layers_fold(groups: int, bias: bool) -> None:
    # The legacy multiplies the weight of a grouped transposed convolution along the wrong axis.
    for make in (nn.Conv2d, nn.ConvTranspose2d):
        layer = make(4, 8, 3, groups=groups, bias=bias, stride=2, padding=1)
        check_same([layer, trained(nn.BatchNorm2d(8)), nn.ReLU6()], image(2))


def test_synchronized_batch_norms_fold() -> None:
    # pytorch/pytorch#43592
    check_same([nn.Conv2d(4, 6, 3), trained(nn.SyncBatchNorm(6)), nn.ReLU()], image(2))


def test_a_fused_model_trains_as_its_parts_do() -> None:
    model = nn.Sequential(nn.Conv2d(4, 6, 3), nn.ReLU())
    fused = fuse_modules(model, ["0", "1"])
    assert fused.training
    assert fused[0].training
    x = image(2)
    for net in (model, fused):
        net(x).square().sum().backward()
    assert torch.equal(fused[0][0].weight.grad, model[0].weight.grad)


# ---- the arithmetic -------------------------------------------------------------------------------------


def test_a_gamma_of_zero_folds_to_a_constant() -> None:
    # pytorch/pytorch#85744, #77434: 0 / 0 and 0 * inf made NaN of it.
    conv, norm = nn.Conv2d(4, 6, 3), trained(nn.BatchNorm2d(6, eps=0.0))
    with torch.no_grad():
        norm.weight[:3] = 0.0
        norm.running_var[:2] = 0.0
        norm.running_mean[0] = 3e38
        conv.bias[0] = -3e38
    folded = fold_batch_norm(conv.eval(), norm)
    assert bool(torch.isfinite(folded.weight).all())
    assert torch.equal(folded.bias[:3], norm.bias[:3])
    assert not folded.weight[:3].any()


def test_a_tiny_variance_folds_and_none_is_an_error() -> None:
    conv, norm = nn.Conv2d(4, 6, 3).eval(), trained(nn.BatchNorm2d(6))
    with torch.no_grad():
        norm.running_var[2] = 1e-30
    check_same([conv, norm], image(2))
    norm.eps = 0.0
    with torch.no_grad():
        norm.running_var[2] = 0.0
    with pytest.raises(ConversionError, match=r"'0' \+ '1': folding the batch norm gives weights"):
        fuse_modules(nn.Sequential(conv, norm), ["0", "1"])
    with torch.no_grad():
        conv.weight[0, 0, 0, 0] = torch.nan
    with pytest.raises(ConversionError, match="the layer's weight holds NaN"):
        fuse_modules(nn.Sequential(conv, norm), ["0", "1"])


def test_folding_is_rounded_once() -> None:
    conv, norm = nn.Conv2d(4, 64, 3).eval(), trained(nn.BatchNorm2d(64))
    folded = fold_batch_norm(conv, norm)
    factor = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    assert torch.equal(folded.weight, (conv.weight.double() * factor.view(-1, 1, 1, 1)).float())
    shift = (conv.bias.double() - norm.running_mean.double()) * factor
    assert torch.equal(folded.bias, (shift + norm.bias.double()).float())


def test_folding_keeps_layout_dtype_and_what_trains() -> None:
    conv = nn.Conv2d(4, 6, 3).eval().to(memory_format=torch.channels_last).requires_grad_(False)
    folded = fold_batch_norm(conv, trained(nn.BatchNorm2d(6)))
    assert folded.weight.is_contiguous(memory_format=torch.channels_last)
    assert not folded.weight.requires_grad
    half = fold_batch_norm(conv.to(torch.bfloat16), trained(nn.BatchNorm2d(6)).to(torch.bfloat16))
    assert half.weight.dtype == half.bias.dtype == torch.bfloat16


def test_batch_norms_without_weights_fold() -> None:
    norm = nn.BatchNorm2d(6, affine=False).eval()
    norm.running_mean.uniform_()
    check_same([nn.Conv2d(4, 6, 3), norm], image(2))


@pytest.mark.parametrize("how", ["parametrized", "hooked", "pruned"])
def test_derived_weights_fold(how: str) -> None:
    conv: nn.Module = nn.Conv2d(4, 6, 3)
    if how == "parametrized":
        conv = weight_norm(conv)
    elif how == "hooked":
        with pytest.warns(FutureWarning, match="weight_norm"):
            conv = nn.utils.weight_norm(conv)
        with torch.no_grad():
            conv.weight_g.mul_(3.0)  # so that the weight held is stale
    else:
        conv = prune.l1_unstructured(conv, "weight", 0.5)
    fused = check_same([conv, trained(nn.BatchNorm2d(6)), nn.ReLU()], image(2))
    assert type(fused[0][0]) is nn.Conv2d
    assert set(fused.state_dict()) == {"0.0.weight", "0.0.bias"}
    # Without a batch norm the layer stays as it is.
    with_activation = check_same([conv, nn.ReLU()], image(2))
    assert set(with_activation[0][0].state_dict()) == set(conv.state_dict())


# ---- models ---------------------------------------------------------------------------------------------


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn, self.relu = nn.Conv2d(4, 4, 3, padding=1), trained(nn.BatchNorm2d(4)), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.bn(self.conv(x)))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = Block(), Block(), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.second(self.first(x)).mean((2, 3)))


NAMES = [["first.conv", "first.bn", "first.relu"], ["second.conv", "second.bn"]]


def test_nested_names_in_a_copy_or_in_place() -> None:
    model, x = Net().eval(), image(2)
    expected = model(x)
    before = {path: id(part) for path, part in model.named_modules()}
    fused = fuse_modules(model, NAMES)
    assert {path: id(part) for path, part in model.named_modules()} == before
    assert torch.allclose(fused(x), expected, atol=1e-5)
    assert isinstance(fused.first.bn, nn.Identity)
    assert isinstance(fused.second.conv, nn.Conv2d)
    assert isinstance(fused.second.relu, nn.ReLU)
    assert fused_groups(fused) == NAMES
    assert fuse_modules(model, NAMES, inplace=True) is model
    assert torch.equal(model(x), fused(x))
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert fused_groups(other) == NAMES
        assert torch.equal(other(x), model(x))


def test_one_list_of_names_is_one_group() -> None:
    fused = fuse_modules(Net().eval(), ("first.conv", "first.bn"))
    assert fused_groups(fused) == [["first.conv", "first.bn"]]


def test_an_activation_in_two_places_is_fused_in_each() -> None:
    class Shared(Net):
        def __init__(self) -> None:
            super().__init__()
            self.second.relu = self.first.relu

    model, x = Shared().eval(), image(2)
    fused = fuse_modules(
        model, [[f"{name}.conv", f"{name}.bn", f"{name}.relu"] for name in ("first", "second")]
    )
    assert torch.allclose(fused(x), model(x), atol=1e-5)


def test_a_fused_model_is_quantized_and_saved(tmp_path: Any) -> None:
    model, x = Net().eval(), image(2)
    fused = fuse_modules(model, NAMES)
    quantized = intaglio.quantize_dynamic(fused)
    assert sum(layer.quantized for layer in intaglio.summary(quantized).layers) == 3
    assert torch.allclose(quantized(x), model(x), atol=0.1)
    intaglio.save(quantized, tmp_path / "model.safetensors")
    assert torch.equal(intaglio.load(tmp_path / "model.safetensors")(x), quantized(x))


# ---- hooks ----------------------------------------------------------------------------------------------


def test_hooks_go_where_the_legacy_puts_them() -> None:
    seen: list[str] = []

    def note(name: str) -> Callable[..., None]:
        return lambda *_: seen.append(name)

    model = Block().eval()
    handles = [
        model.conv.register_forward_pre_hook(note("before")),
        model.bn.register_forward_hook(note("folded")),
        model.relu.register_forward_pre_hook(note("between")),
        model.relu.register_forward_hook(note("after")),
    ]
    x = image(2)
    fused = fuse_modules(model, ["conv", "bn", "relu"])
    fused(x)
    assert seen == ["before", "folded", "between", "after"]
    assert [len(fused.conv._forward_pre_hooks), len(fused.conv._forward_hooks)] == [1, 1]
    fuse_modules(model, ["conv", "bn", "relu"], inplace=True)
    for handle in handles:
        handle.remove()  # the handles still hold
    seen.clear()
    model(x)
    assert seen == []


def test_hooks_run_once_where_a_layer_only_takes_its_batch_norm() -> None:
    seen: list[str] = []
    model = Block().eval()
    model.conv.register_forward_pre_hook(lambda *_: seen.append("before"))
    model.bn.register_forward_hook(lambda *_: seen.append("after"))
    fuse_modules(model, ["conv", "bn"])(image(2))
    assert seen == ["before", "after"]


def test_hooks_that_see_what_is_no_more_are_dropped_with_a_warning() -> None:
    model = Net().eval()
    model.first.conv.register_forward_hook(lambda *_: None)
    with pytest.warns(FusionWarning, match="hooks of 'first.conv' that saw it are dropped"):
        fuse_modules(model, NAMES)


def test_hooks_with_keywords_and_hooks_of_the_model_itself_survive() -> None:
    class Counting(Net):
        calls = 0

        def count(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            self.calls += 1

    model = Counting().eval()
    model.first.relu.register_forward_hook(model.count, with_kwargs=True)
    fused = fuse_modules(model, NAMES)
    fused(image(2))
    assert (model.calls, fused.calls) == (0, 1)


# ---- errors ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ("conv", "must be a list of paths, or a list of such lists, not 'conv'"),
        ([["first.conv"]], "is no group"),
        (["first.conv"], "is no group"),
        ([["first.conv", 3]], "is no group"),
        ([["first.conv", "first.bm"]], "no such module; did you mean 'first.bn'"),
        ([["first.conv", ""]], "names '', but the model has no such module"),
        ([["first.conv", "first.bn"], ["first.bn", "first.relu"]], "'first.bn' is named twice"),
        (
            [["first.relu", "first.conv"]],
            r"cannot fuse 'first.relu' \+ 'first.conv': ReLU \+ Conv2d",
        ),
        ([["first.conv", "second.conv"]], r"Conv2d \+ Conv2d cannot be fused: what can is a conv"),
        ([["first.bn", "first.conv"]], r"BatchNorm2d \+ Conv2d cannot"),
    ],
)
def test_groups_that_make_no_sense_are_errors(groups: Any, message: str) -> None:
    model = Net().eval()
    with pytest.raises(ConfigError, match=message):
        fuse_modules(model, groups, inplace=True)
    assert fused_groups(model) == []


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6)], "in train mode.*call model.eval.*fuse_modules_qat"),
        (
            [nn.Conv2d(4, 6, 3), nn.BatchNorm2d(5).eval()],
            "has 5 features, but the Conv2d before it has 6 out",
        ),
        (
            [nn.Linear(4, 6), nn.BatchNorm1d(6, track_running_stats=False).eval()],
            "keeps no running statistics",
        ),
    ],
)
def test_batch_norms_that_cannot_be_folded_are_errors(parts: list[nn.Module], message: str) -> None:
    model = nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU(), *parts)
    for part in model:
        part.train(part is parts[1] and parts[1].training)
    with pytest.raises(ConversionError, match=f"cannot fuse '2' \\+ '3': the .*{message}"):
        fuse_modules(model, [["0", "1"], ["2", "3"]], inplace=True)
    assert fused_groups(model) == []  # nothing was done by halves


def test_batch_norms_of_other_dimensions_and_lookalikes_are_errors() -> None:
    with pytest.raises(ConfigError, match=r"Conv2d \+ BatchNorm1d cannot be fused"):
        fuse_modules(nn.Sequential(nn.Conv2d(4, 6, 3), nn.BatchNorm1d(6)).eval(), ["0", "1"])

    class Odd(nn.ReLU):
        def forward(self, x: Tensor) -> Tensor:
            return x.relu() + 1

    with pytest.raises(ConfigError, match=r"Conv2d \+ Odd cannot be fused"):
        fuse_modules(nn.Sequential(nn.Conv2d(4, 6, 3), Odd()).eval(), ["0", "1"])
    model = nn.Sequential(nn.Conv2d(4, 6, 3), nn.ReLU()).eval()
    model[1].forward = lambda x: x + 1
    with pytest.raises(ConversionError, match=r"the forward of this very ReLU is replaced"):
        fuse_modules(model, ["0", "1"])
    with pytest.raises(ConversionError, match=r"takes an nn.Module, not int"):
        fuse_modules(3, ["0", "1"])  # type: ignore[arg-type]


def test_subclasses_that_compute_the_same_fuse() -> None:
    class Named(nn.Conv2d):
        pass

    check_same([Named(4, 6, 3), trained(nn.BatchNorm2d(6)), nn.ReLU()], image(2))


# ---- what a user brings along ---------------------------------------------------------------------------


def test_a_users_method_and_fuser_are_called_as_the_legacy_calls_them() -> None:
    calls: list[Any] = []

    def method(is_qat: bool, conv: nn.Module, pool: nn.Module) -> nn.Module:
        calls.append(is_qat)
        return nn.Sequential(conv, pool)

    model = nn.Sequential(nn.Conv2d(4, 6, 3), nn.MaxPool2d(2)).eval()
    mapping = {(nn.Conv2d, nn.MaxPool2d): method}
    fused = fuse_modules(
        model, ["0", "1"], fuse_custom_config_dict={"additional_fuser_method_mapping": mapping}
    )
    assert calls == [False]
    x = image(2)
    assert torch.equal(fused(x), model(x))
    assert get_fuser_method((nn.Conv2d, nn.MaxPool2d), mapping) is method

    def fuser(modules: list[nn.Module], is_qat: bool, mapping: Any) -> list[nn.Module]:
        return [nn.Sequential(*modules), nn.Identity()]

    assert torch.equal(fuse_modules(model, ["0", "1"], fuser_func=fuser)(x), model(x))
    with pytest.raises(ConversionError, match="must give 2 modules"):
        fuse_modules(model, ["0", "1"], fuser_func=lambda *_: [nn.Identity()])


def test_the_legacys_methods_are_here() -> None:
    conv, norm, relu = nn.Conv2d(4, 6, 3).eval(), trained(nn.BatchNorm2d(6)), nn.ReLU().eval()
    x = image(2)
    expected = norm(conv(x))
    assert torch.allclose(fuse_conv_bn(False, conv, norm)(x), expected, atol=1e-5)
    assert torch.allclose(fuse_conv_bn_relu(False, conv, norm, relu)(x), expected.relu(), atol=1e-5)
    transposed = nn.ConvTranspose2d(4, 6, 3).eval()
    assert torch.allclose(fuse_convtranspose_bn(False, transposed, norm)(x), norm(transposed(x)), atol=1e-5)
    linear, norm = nn.Linear(4, 6).eval(), trained(nn.BatchNorm1d(6))
    rows = torch.randn(3, 4)
    assert torch.allclose(fuse_linear_bn(False, linear, norm)(rows), norm(linear(rows)), atol=1e-5)
    assert torch.equal(fuse_linear_bn(True, linear, norm)(rows), norm(linear(rows)))  # to be folded later
    assert isinstance(fuse_known_modules([nn.Linear(2, 2), nn.Tanh()])[0], FusedModule)


# ---- Padding ----------------------------------------------------------------------------------------------

PADDED = {
    "1d": (nn.ZeroPad1d((1, 2)), nn.Conv1d(3, 8, 3, stride=2), (2, 3, 9)),
    "2d": (nn.ZeroPad2d((0, 1, 2, 0)), nn.Conv2d(3, 8, 3, stride=2), (2, 3, 9, 8)),
    "2d, padded already": (nn.ZeroPad2d((0, 1, 2, 0)), nn.Conv2d(3, 6, 3, padding=1, groups=3), (2, 3, 9, 8)),
    "2d, same": (nn.ZeroPad2d(1), nn.Conv2d(3, 8, 3, padding="same", dilation=2), (2, 3, 9, 8)),
    "2d, a constant": (nn.ConstantPad2d((3, 0, 0, 1), 0.0), nn.Conv2d(3, 8, 3, bias=False), (2, 3, 9, 8)),
    "3d": (nn.ZeroPad3d((0, 1, 2, 0, 1, 1)), nn.Conv3d(3, 8, 2), (2, 3, 5, 6, 7)),
}


@pytest.mark.parametrize("name", PADDED)
def test_zero_padding_becomes_part_of_the_convolution(name: str) -> None:
    padding, conv, shape = PADDED[name]
    x = torch.randn(shape)
    model = nn.Sequential(padding, conv, nn.ReLU6()).eval()
    fused = fuse_modules(model)
    assert fused_groups(fused) == [["0", "1", "2"]]
    assert torch.equal(fused(x), model(x))
    assert fused[0].layer.weight.data_ptr() != conv.weight.data_ptr()  # a copy, as ever
    assert torch.equal(copy.deepcopy(fused)(x), model(x))
    dynamic = intaglio.quantize_dynamic(fuse_modules(model[:2]), {type(conv)})
    assert torch.equal(dynamic(x), intaglio.quantize_dynamic(model[:2], {type(conv)})(x))


@pytest.mark.parametrize("name", PADDED)
def test_fused_padding_changes_no_integer(name: str) -> None:
    padding, conv, shape = PADDED[name]
    x = torch.randn(4, *shape[1:])
    found = []
    for groups in ([["0.1", "0.2"]], [["0.0", "0.1", "0.2"]]):
        layers = nn.Sequential(copy.deepcopy(padding), copy.deepcopy(conv), nn.ReLU())
        model = nn.Sequential(layers, nn.Identity()).eval()
        model = intaglio.QuantWrapper(fuse_modules(model, groups))
        model.qconfig = intaglio.get_default_qconfig("x86")
        quantized = intaglio.quantize(model, lambda prepared: prepared(x))
        found.append(quantized(x))
    assert found[0].shape == found[1].shape
    # The means that correct the bias are those of padded pixels in the one and not in the other.
    assert (found[0] - found[1]).abs().max() <= 0.02 * found[0].abs().max()


def test_padding_with_batch_norm_and_hooks() -> None:
    norm = trained(nn.BatchNorm2d(8))
    model = nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(3, 8, 3), norm, nn.SiLU()).eval()
    seen: list[torch.Size] = []
    model[0].register_forward_pre_hook(lambda module, args: seen.append(args[0].shape))
    model[3].register_forward_hook(lambda module, args, output: seen.append(output.shape))
    x = torch.randn(2, 3, 8, 8)
    expected = model(x)
    fused = fuse_modules(model)
    assert fused_groups(fused) == [["0", "1", "2", "3"]]
    torch.testing.assert_close(fused(x), expected)
    assert seen == [x.shape, expected.shape] * 2


@pytest.mark.parametrize(
    ("padding", "conv", "text"),
    [
        (nn.ConstantPad2d(1, 0.5), nn.Conv2d(3, 4, 3), "pads with 0.5"),
        (nn.ZeroPad2d((-1, 0, 0, 0)), nn.Conv2d(3, 4, 3), "cuts pixels off"),
        (nn.ZeroPad2d(1), nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"), "in mode 'reflect'"),
        (nn.ZeroPad1d(1), nn.Conv2d(3, 4, 3), "ZeroPad1d \\+ Conv2d cannot be fused"),
        (nn.ZeroPad2d(1), nn.ConvTranspose2d(3, 4, 3), "cannot be fused"),
    ],
)
def test_padding_that_cannot_be_part(padding: nn.Module, conv: nn.Module, text: str) -> None:
    model = nn.Sequential(padding, conv, nn.ReLU()).eval()
    assert fused_groups(fuse_modules(model)) == [["1", "2"]]
    with pytest.raises((ConversionError, ConfigError), match=text):
        fuse_modules(model, [["0", "1"]])


def test_a_padded_value_that_others_use_stays() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.pad, self.conv, self.relu = nn.ZeroPad2d(1), nn.Conv2d(3, 3, 3, padding=1), nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            x = self.pad(x)
            return self.relu(self.conv(x)) + x

    assert fused_groups(fuse_modules(Net().eval())) == [["conv", "relu"]]
