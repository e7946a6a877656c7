"""Tools that need no labels: what each promises on models small enough to know the answer."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import intaglio
from intaglio import (
    ConfigError,
    InputError,
    MinMaxObserver,
    PerChannelMinMaxObserver,
    QConfig,
    correct_bias,
    default_per_channel_qconfig,
    equalize,
    fuse_modules,
    get_default_qconfig,
    round_weights,
)
from intaglio.accuracy.reconstruction import InputStatistics, round_together
from intaglio.accuracy.running import layers_of, runner_of
from intaglio.accuracy.simulating import quantized_outputs, simulate
from intaglio.qparams import choose_qparams, quantize
from tests.test_fusion import trained

COARSE = QConfig(
    MinMaxObserver.with_args(), PerChannelMinMaxObserver.with_args(dtype="int8", quant_min=-7, quant_max=7)
)
"""Weights of four bits, so that what rounding does is plain."""
PER_TENSOR = QConfig(MinMaxObserver.with_args(), MinMaxObserver.with_args(dtype="int8"))


def sqnr(expected: Tensor, found: Tensor) -> float:
    return float(10 * torch.log10(expected.square().sum() / (expected - found).square().sum()))


def pictures(count: int, seed: int = 1) -> Tensor:
    """Smooth images, whose neighbouring pixels and channels are alike as those of photos are."""
    generator = torch.Generator().manual_seed(seed)
    small = torch.randn(count, 3, 6, 6, generator=generator)
    big = nn.functional.interpolate(small, scale_factor=4, mode="bilinear")
    return big + 0.5 * big.mean(1, keepdim=True) + 0.3


def network() -> nn.Module:
    torch.manual_seed(5)
    layers: list[nn.Module] = []
    for inputs, outputs, groups, stride in [(3, 16, 1, 2), (16, 16, 16, 1), (16, 24, 1, 1), (24, 24, 1, 2)]:
        kernel = 1 if (inputs, outputs) == (16, 24) else 3
        layers += [
            nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
            trained(nn.BatchNorm2d(outputs)),
            nn.ReLU(),
        ]
    net = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 10)).eval()
    return fuse_modules(net)


def quantized(model: nn.Module, qconfig: QConfig) -> Callable[[Tensor], Tensor]:
    return simulate(model, runner_of([pictures(16)]), qconfig).model


def quality(model: nn.Module, qconfig: QConfig, reference: nn.Module) -> float:
    test = pictures(16, seed=2)
    with torch.no_grad():
        return sqnr(reference(test), quantized(model, qconfig)(test))


# ---- the simulation -------------------------------------------------------------------------------------


def test_the_simulation_rounds_inputs_weights_and_outputs() -> None:
    model, x = network(), pictures(16)
    found = simulate(model, runner_of([x]), get_default_qconfig())
    assert set(found.parameters) == {"", *quantized_outputs(model)}
    assert len(quantized_outputs(model)) == 5
    with torch.no_grad():
        y, expected = found.model(x), model(x)
    assert 25 < sqnr(expected, y) < 60
    steps = y / found.parameters["14"].scale
    assert torch.allclose(steps, steps.round(), atol=1e-3)
    assert all(not module._forward_hooks for module in model.modules())


def test_the_simulation_of_transposed_layers_is_per_output_channel() -> None:
    for groups in (1, 2):
        model = nn.Sequential(nn.ConvTranspose2d(4, 6, 3, groups=groups)).eval()
        with torch.no_grad():
            model[0].weight[:, 0] *= 100
        x = torch.randn(2, 4, 5, 5)
        simulated = simulate(model, runner_of([x]), default_per_channel_qconfig).model[0].weight
        error = (simulated - model[0].weight).abs()
        reach = model[0].weight.detach().reshape(groups, 4 // groups, 6 // groups, -1).abs().amax((1, 3))
        assert bool((error.reshape(groups, 4 // groups, 6 // groups, -1).amax((1, 3)) <= reach / 253).all())


# ---- rounding -------------------------------------------------------------------------------------------


def outputs_error(weight: Tensor, codes: Tensor, scale: Tensor, covariance: Tensor) -> float:
    error = (weight.double() - codes * scale.double()).squeeze(0)
    return float((error @ covariance[0] * error).sum())


def test_rounding_together_beats_rounding_to_the_nearest() -> None:
    x = torch.randn(4000, 12) @ torch.randn(12, 12)
    weight = torch.randn(1, 8, 12)
    scale = weight.abs().amax(2, keepdim=True) / 7
    covariance = torch.cov(x.t()).double()[None]
    codes = round_together(weight, scale, 7, covariance)
    assert bool((codes == codes.round()).all())
    assert int(codes.abs().max()) == 7
    assert bool((codes.abs().amax(2) == 7).all())
    nearest = (weight / scale).round().clamp(-7, 7).double()
    assert outputs_error(weight, codes, scale, covariance) < 0.5 * outputs_error(
        weight, nearest, scale, covariance
    )


def test_rounding_of_a_few_weights_is_near_the_best_there_is() -> None:
    x = torch.randn(1000, 4) @ torch.randn(4, 4)
    weight = torch.randn(1, 1, 4)
    scale = weight.abs().amax(2, keepdim=True) / 7
    covariance = torch.cov(x.t()).double()[None]
    choices = [[int(v.floor()), int(v.ceil())] for v in (weight / scale).flatten()]
    best = min(
        outputs_error(weight, torch.tensor(codes, dtype=torch.float64).view(1, 1, 4), scale, covariance)
        for codes in itertools.product(*choices)
    )
    nearest = outputs_error(weight, (weight / scale).round().double(), scale, covariance)
    found = outputs_error(weight, round_together(weight, scale, 7, covariance), scale, covariance)
    assert found <= 0.5 * (best + nearest)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Conv2d(4, 6, 3, padding=1), (2, 4, 7, 8)),
        (nn.Conv2d(4, 6, 3, stride=2, padding=1, dilation=2), (2, 4, 9, 9)),
        (nn.Conv2d(4, 8, 3, groups=2, padding=(2, 1), padding_mode="reflect"), (1, 4, 6, 6)),
        (nn.Conv2d(6, 6, (5, 3), groups=6, padding="same"), (2, 6, 8, 8)),
        (nn.Conv1d(4, 6, 4, padding="same", padding_mode="circular"), (2, 4, 11)),
        (nn.Conv3d(2, 3, 2), (1, 2, 4, 4, 4)),
        (nn.Conv2d(4, 6, 3), (4, 7, 7)),
        (nn.Linear(5, 3), (2, 7, 5)),
    ],
)
def test_statistics_are_those_of_what_each_output_is_the_sum_of(
    layer: nn.Module, shape: tuple[int, ...]
) -> None:
    x = torch.randn(*shape)
    statistics = InputStatistics(layer)
    statistics.add(x)
    y = layer(x).detach()
    axis = y.dim() - 1 if isinstance(layer, nn.Linear) else y.dim() - len(layer.kernel_size) - 1
    rows = y.movedim(axis, 0).flatten(1).double()
    groups = statistics.sum.shape[0]
    weight = layer.weight.detach().double().reshape(groups, -1, statistics.sum.shape[1])
    mean = (weight * statistics.mean()[:, None]).sum(2).flatten() + layer.bias.detach().double()
    assert torch.allclose(mean, rows.mean(1), atol=1e-5)
    assert statistics.count == rows.shape[1]
    variance = ((weight @ statistics.covariance()) * weight).sum(2).flatten()
    assert torch.allclose(variance, rows.var(1, correction=0), rtol=0.2)


@pytest.mark.parametrize("qconfig", [COARSE, get_default_qconfig()])
def test_rounded_weights_leave_outputs_nearer(qconfig: QConfig) -> None:
    model = network()
    rounded = round_weights(model, [pictures(8), pictures(8, seed=3)], qconfig)
    gain = quality(rounded, qconfig, model) - quality(model, qconfig, model)
    assert gain > (4.0 if qconfig is COARSE else 0.3)


@pytest.mark.parametrize("observer", [PerChannelMinMaxObserver.with_args(), get_default_qconfig().weight])
def test_every_observer_finds_the_rounded_integers_again(observer: Callable[[], Any]) -> None:
    model = network()
    rounded = round_weights(model, [pictures(8)])
    for layer in layers_of(rounded).values():
        found = observer()
        found(layer.weight.detach())
        qparams = found.choose()
        steps = layer.weight.detach() / qparams.broadcast(layer.weight.dim())[0]
        assert float((steps - steps.round()).abs().max()) < 1e-3
        codes = quantize(layer.weight.detach(), qparams)
        assert bool((codes.flatten(1).abs().amax(1) == 127).all())


def test_what_rounding_shifts_goes_into_the_bias() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False)).eval()
    x = pictures(8) + 2
    rounded = round_weights(model, [x], COARSE)
    with torch.no_grad():
        assert torch.allclose(rounded(x).mean((0, 2, 3)), model(x).mean((0, 2, 3)), atol=1e-3)
    assert model[0].bias is None
    assert rounded[0].bias.shape == (8,)


def test_layers_without_data_and_transposed_ones_stay() -> None:
    class Half(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.idle, self.up = nn.Linear(3, 3), nn.Linear(3, 3), nn.ConvTranspose1d(3, 3, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.up(self.used(x)[..., None])

    model = Half().eval()
    rounded = round_weights(model, [torch.randn(50, 3)], COARSE)
    assert not torch.equal(rounded.used.weight, model.used.weight)
    assert torch.equal(rounded.idle.weight, model.idle.weight)
    assert torch.equal(rounded.up.weight, model.up.weight)


# ---- bias -----------------------------------------------------------------------------------------------


def means_of(model: nn.Module, x: Tensor) -> list[Tensor]:
    """The mean of each channel of each layer's output, without the activation."""
    found: list[Tensor] = []
    for layer in layers_of(model).values():
        layer.register_forward_hook(lambda m, a, y: found.append(y.transpose(0, 1).flatten(1).mean(1)))
    with torch.no_grad():
        model(x)
    return found


def converted(model: nn.Module, qconfig: QConfig) -> nn.Module:
    wrapped = intaglio.QuantWrapper(copy.deepcopy(model)).eval()
    wrapped.qconfig = qconfig
    prepared = intaglio.prepare(wrapped)
    prepared(pictures(16))
    return intaglio.convert(prepared)


FEW_STEPS = QConfig(MinMaxObserver.with_args(quant_max=31), COARSE.weight)
"""Activations of five bits too, whose rounding `convert` gives nothing back for."""


@pytest.mark.parametrize("qconfig", [COARSE, FEW_STEPS])
def test_corrected_biases_serve_the_converted_model(qconfig: QConfig) -> None:
    model, x = network(), pictures(16)
    corrected = correct_bias(model, [x], qconfig)
    unseen = pictures(16, seed=2)
    with torch.no_grad():
        without, found = (sqnr(model(unseen), converted(net, qconfig)(unseen)) for net in (model, corrected))
    assert found > without - 1.0  # it lost 10 dB and more when it gave back what convert gives back


def test_correction_makes_a_bias_where_there_is_none() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), nn.ReLU(), nn.Linear(24, 5, bias=False)).eval()
    corrected = correct_bias(model, [pictures(4)], COARSE)
    assert corrected[0].bias.shape == (4,)
    assert corrected[2].bias.shape == (5,)
    assert model[0].bias is None


# ---- equalization ---------------------------------------------------------------------------------------


def uneven(make: Callable[[], nn.Module]) -> nn.Module:
    """A chain whose first layer has channels of very different ranges, as folded batch norms make them."""
    torch.manual_seed(11)
    model = make().eval()
    layers = list(layers_of(model).values())
    factor = torch.logspace(-2, 2, 8)[torch.randperm(8)]
    with torch.no_grad():
        layers[0].weight *= factor.view(-1, *[1] * (layers[0].weight.dim() - 1))
        layers[0].bias *= factor
        if layers[1].weight.shape[1] == 8:
            layers[1].weight /= factor.view(1, -1, *[1] * (layers[1].weight.dim() - 2))
    return model


CHAINS: list[Callable[[], nn.Module]] = [
    lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)),
    lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.LeakyReLU(0.2), nn.MaxPool2d(2), nn.Conv2d(8, 4, 3)),
    lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.PReLU(8), nn.ZeroPad2d(1), nn.Conv2d(8, 8, 3, groups=8)),
    lambda: nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, groups=2)),
    lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.ConvTranspose2d(8, 4, 3, groups=2)),
    lambda: nn.Sequential(nn.Linear(24, 8), nn.ReLU(), nn.Linear(8, 4)),
]


@pytest.mark.parametrize("make", CHAINS)
@pytest.mark.parametrize("with_data", [False, True])
def test_an_equalized_model_computes_the_same(make: Callable[[], nn.Module], with_data: bool) -> None:
    model, x = uneven(make), pictures(4)
    equal = equalize(model, [x] if with_data else None)
    other = pictures(4, seed=9)
    assert torch.allclose(equal(other), model(other), rtol=1e-3, atol=1e-4)
    first, before = (next(iter(layers_of(m).values())).weight.detach().flatten(1) for m in (equal, model))
    spread = [float(w.abs().amax(1).max() / w.abs().amax(1).min()) for w in (first, before)]
    assert spread[0] < spread[1]


@pytest.mark.parametrize("with_data", [False, True])
def test_equalized_models_quantize_better_per_tensor(with_data: bool) -> None:
    model = uneven(CHAINS[0])
    equal = equalize(model, [pictures(8)] if with_data else None)
    assert quality(equal, PER_TENSOR, model) > quality(model, PER_TENSOR, model) + 10


def test_a_transposed_layer_may_come_first() -> None:
    model = nn.Sequential(nn.ConvTranspose2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)).eval()
    with torch.no_grad():
        model[0].weight[:, 2] *= 50
    equal, x = equalize(model), pictures(2)
    assert torch.allclose(equal(x), model(x), rtol=1e-3, atol=1e-4)
    assert not torch.equal(equal[0].weight, model[0].weight)


@pytest.mark.parametrize("between", [nn.ReLU6(), nn.Hardtanh(), nn.Sigmoid(), nn.GELU(), nn.Softmax(1)])
def test_layers_with_a_bound_between_are_left_alone(between: nn.Module) -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), between, nn.Conv2d(8, 4, 3)).eval()
    equal = equalize(model, [pictures(2)])
    assert all(torch.equal(a, b) for a, b in zip(equal.parameters(), model.parameters(), strict=True))


def test_layers_whose_output_goes_elsewhere_are_left_alone() -> None:
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)

        def forward(self, x: Tensor) -> Tensor:
            y = self.a(x)
            return y + self.b(y)

    model = Residual().eval()
    assert torch.equal(equalize(model).a.weight, model.a.weight)


def test_pairs_may_be_named() -> None:
    model = uneven(CHAINS[0])
    named = equalize(model, pairs=[("0", "2")])
    assert torch.allclose(named[0].weight, equalize(model)[0].weight)
    with pytest.raises(ConfigError, match="'1' is no convolution or Linear"):
        equalize(model, pairs=[("0", "1")])
    with pytest.raises(ConfigError, match="'2' has 4 outputs, but '0' takes 3"):
        equalize(model, pairs=[("2", "0")])


def test_channels_that_are_dead_stay_finite() -> None:
    model = uneven(CHAINS[0])
    with torch.no_grad():
        model[0].weight[3] = 0.0
        model[0].bias[3] = -1.0
        model[2].weight[:, 5] = 0.0
    for data in (None, [pictures(2)]):
        equal = equalize(model, data)
        assert all(bool(torch.isfinite(p).all()) for p in equal.parameters())


# ---- all of them ----------------------------------------------------------------------------------------

TOOLS: list[Callable[..., nn.Module]] = [equalize, round_weights, correct_bias]


@pytest.mark.parametrize("tool", TOOLS)
def test_tools_work_on_a_copy_or_in_place(tool: Callable[..., nn.Module]) -> None:
    model = network()
    before = copy.deepcopy(model.state_dict())
    other = tool(model, [pictures(4)])
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert any(not torch.equal(value, before[key]) for key, value in other.state_dict().items())
    assert tool(model, [pictures(4)], inplace=True) is model
    assert all(torch.equal(v, other.state_dict()[k]) for k, v in model.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in other.modules())


@pytest.mark.parametrize("tool", TOOLS)
def test_data_may_be_batches_arguments_or_a_function(tool: Callable[..., nn.Module]) -> None:
    model, x = network(), pictures(4)
    first = tool(model, [x])
    for data in ([(x,)], iter([x]), lambda net: net(x)):
        other = tool(model, data)
        assert all(torch.equal(v, other.state_dict()[k]) for k, v in first.state_dict().items())


@pytest.mark.parametrize("tool", TOOLS)
def test_what_tools_cannot_take_is_an_error(tool: Callable[..., nn.Module]) -> None:
    model = network()
    with pytest.raises(ConfigError, match="put a single batch in a list"):
        tool(model, pictures(1))
    with pytest.raises(InputError, match="data holds no batches"):
        tool(model, [])
    with pytest.raises(ConfigError, match=r"in train mode: call model.eval"):
        tool(network().train(), [pictures(1)])
    with pytest.raises(ConfigError, match=r"a float nn.Module is needed, not str"):
        tool("model", [pictures(1)])


def test_weights_that_are_not_symmetric_are_an_error() -> None:
    qconfig = QConfig(MinMaxObserver, PerChannelMinMaxObserver.with_args(dtype="uint8"))
    with pytest.raises(ConfigError, match=r"'0.0': its weight observer must be symmetric"):
        round_weights(network(), [pictures(1)], qconfig)


def test_symmetric_parameters_are_per_tensor_too() -> None:
    model = nn.Sequential(nn.Linear(24, 8)).eval()
    rounded = round_weights(model, [pictures(4)], PER_TENSOR)
    weight = rounded[0].weight.detach()
    qparams = choose_qparams(weight.min(), weight.max(), MinMaxObserver("int8").dtype, symmetric=True)
    steps = weight / qparams.scale
    assert float((steps - steps.round()).abs().max()) < 0.01
