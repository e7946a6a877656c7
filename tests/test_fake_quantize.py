"""Fake quantizers by themselves: values, gradients, ranges, switches, learned scales."""

from __future__ import annotations

import copy
import pickle
import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import intaglio
from intaglio import FakeQuantize, LearnedFakeQuantize
from intaglio.errors import ConfigError
from intaglio.fake_quantize import round_dynamically
from intaglio.qparams import PerGroup, PerTensor, dequantize, quantize

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import torch.ao.quantization as legacy


def values(*shape: int, seed: int = 0) -> Tensor:
    return 3 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


PRESETS = [name for name in intaglio.__all__ if name.startswith(("default_", "fused_")) and "fake" in name]


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_rounds_and_lets_gradients_through(name: str) -> None:
    rounder = getattr(intaglio, name)().train()
    x = (values(6, 10).abs() / 12).requires_grad_()  # within every fixed range
    y = rounder(x)
    y.sum().backward()
    assert y.shape == x.shape
    assert not torch.equal(y, x)
    assert x.grad is not None
    assert set(x.grad.unique().tolist()) <= {0.0, 1.0}
    assert float(x.grad.mean()) > 0.9


@pytest.mark.parametrize("symmetric", [False, True])
def test_values_are_those_of_the_arithmetic_of_integers(symmetric: bool) -> None:
    scheme = torch.per_tensor_symmetric if symmetric else torch.per_tensor_affine
    rounder = FakeQuantize(dtype="uint8", qscheme=scheme).train()
    x = values(50, 30)
    y = rounder(x)
    assert torch.equal(y, dequantize(quantize(x, rounder.choose()), rounder.choose()))
    observer = intaglio.MinMaxObserver(dtype="uint8", qscheme=scheme)
    observer(x)
    assert rounder.choose().scalars == observer.choose().scalars
    assert rounder.choose().limits() == observer.choose().limits()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch.compile's own
def test_the_kernels_and_plain_torch_agree_to_the_bit() -> None:
    for clamp in ((-float("inf"), float("inf")), (0.0, float("inf")), (0.0, 6.0)):
        fast, plain = FakeQuantize().train(), FakeQuantize().train()
        compiled = torch.compile(plain.rounded, backend="eager")
        for seed in range(3):
            x, same = (values(4, 8, 5, 7, seed=seed).requires_grad_() for _ in range(2))
            y = fast.rounded(x, clamp)
            z = compiled(same, clamp)
            y.square().sum().backward()
            z.square().sum().backward()
            assert torch.equal(y, z)
            assert torch.equal(x.grad, same.grad)  # type: ignore[arg-type]
        assert torch.equal(fast.scale, plain.scale)


def test_a_moving_average_is_the_legacys() -> None:
    ours = FakeQuantize(averaging_constant=0.1, dtype="uint8").train()
    theirs = legacy.FakeQuantize(
        legacy.MovingAverageMinMaxObserver, quant_min=0, quant_max=255, averaging_constant=0.1
    )
    for seed in range(5):
        x = values(20, 20, seed=seed)
        found, expected = ours(x), theirs(x)
    assert torch.allclose(ours.scale, theirs.scale, rtol=1e-6)
    assert torch.equal(ours.zero_point, theirs.zero_point)
    assert float((found - expected).abs().max()) <= float(ours.scale) * 1.001  # ties may fall otherwise
    assert float((found != expected).float().mean()) < 0.02 or torch.allclose(found, expected, atol=1e-5)


def test_gradients_stop_where_values_are_cut_off() -> None:
    rounder = FakeQuantize(dtype="uint8").train()
    rounder(torch.tensor([-1.0, 1.0]))
    rounder.disable_observer()
    x = torch.tensor([-2.0, -0.9, 0.0, 0.9, 2.0], requires_grad=True)
    rounder(x).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [0.0, 1.0, 1.0, 1.0, 0.0]
    x.grad = None
    rounder.rounded(x, (0.0, 0.5)).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [0.0, 0.0, 0.0, 0.0, 0.0]


def test_weights_are_rounded_by_their_own_range_at_any_time() -> None:
    rounder = intaglio.default_per_channel_weight_fake_quant()
    for layout in (torch.contiguous_format, torch.channels_last):
        for weight in (values(6, 4, 3, 3), 0.1 * values(6, 4, 3, 3, seed=1)):
            weight = weight.contiguous(memory_format=layout)
            y = rounder.eval()(weight)
            reach = weight.abs().amax((1, 2, 3))
            assert torch.allclose(rounder.scale, reach / 127)
            assert torch.allclose(y.abs().amax((1, 2, 3)), reach)
            assert y.is_contiguous(memory_format=layout)
            assert torch.equal(y, dequantize(quantize(weight, rounder.choose()), rounder.choose()))


def test_few_bits() -> None:
    for bits in (2, 3, 4):
        limits = {"quant_min": -(1 << bits - 1), "quant_max": (1 << bits - 1) - 1}
        weight = values(5, 200)
        most = (1 << bits) - 1
        for rounder in (
            intaglio.default_per_channel_weight_fake_quant(**limits),
            LearnedFakeQuantize(dtype="int8", ch_axis=0, **limits),
        ):
            levels = (rounder(weight).detach() / rounder.scale.detach().view(-1, 1)).round().unique()
            assert len(levels) == most
            assert float(levels.abs().max()) == most // 2


# ---- When ranges move --------------------------------------------------------------------------------------


def test_eval_changes_nothing_but_a_range_that_is_not_there_yet() -> None:
    rounder = FakeQuantize().eval()
    rounder(torch.tensor([-1.0, 1.0]))
    before = copy.deepcopy(rounder.state_dict())
    rounder(torch.tensor([-5.0, 5.0]))
    assert all(torch.equal(value, before[name]) for name, value in rounder.state_dict().items())
    rounder.disable_fake_quant()  # calibration, which is done in eval mode
    x = torch.tensor([-500.0, 500.0])
    assert torch.equal(rounder(x), x)
    assert float(rounder.scale) > float(before["scale"])


def test_unseen_ranges_round_nothing() -> None:
    rounder = FakeQuantize().train()
    rounder.disable_observer()
    x = values(5)
    assert torch.equal(rounder(x), x)
    with pytest.raises(ConfigError, match="has seen no data"):
        rounder.choose()


def test_nan_is_seen_and_moves_no_range() -> None:
    rounder = FakeQuantize().train()
    rounder.name = "layer"
    rounder(values(10))
    scale = rounder.scale.clone()
    with pytest.warns(intaglio.ObserverWarning, match="NaN or infinite"):
        y = rounder(torch.tensor([1.0, float("nan"), float("inf")]))
    assert y.isnan().tolist() == [False, True, False]
    assert torch.equal(rounder.scale, scale)


def test_switches_of_a_whole_model() -> None:
    model = nn.ModuleList([FakeQuantize(), nn.Sequential(LearnedFakeQuantize())])
    for switch, name, value in (
        (intaglio.disable_fake_quant, "fake_quant_enabled", 0),
        (intaglio.enable_fake_quant, "fake_quant_enabled", 1),
        (intaglio.disable_observer, "observer_enabled", 0),
        (intaglio.enable_observer, "observer_enabled", 1),
    ):
        model.apply(switch)
        assert {int(getattr(part, name)) for part in (model[0], model[1][0])} == {value}


def test_empty_tensors_and_other_dtypes() -> None:
    rounder = FakeQuantize().train()
    assert rounder(torch.zeros(0, 3)).shape == (0, 3)
    rounder(values(100))
    for dtype in (torch.bfloat16, torch.float16, torch.float64):
        x = values(7).to(dtype)
        assert rounder(x).dtype is dtype


@pytest.mark.parametrize(
    "make",
    [FakeQuantize, intaglio.default_per_channel_weight_fake_quant, lambda: LearnedFakeQuantize(ch_axis=0)],
)
def test_states_and_copies(make: Callable[[], FakeQuantize]) -> None:
    rounder, x = make().train(), values(4, 6)
    y = rounder(x)
    fresh = make()
    fresh.load_state_dict(rounder.state_dict())
    for other in (copy.deepcopy(rounder), pickle.loads(pickle.dumps(rounder)), fresh):
        assert torch.equal(other.eval()(x), y)
        assert torch.equal(other.choose().scale, rounder.choose().scale)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: intaglio.FusedMovingAvgObsFakeQuantize(intaglio.MinMaxObserver), "use FakeQuantize"),
        (lambda: intaglio.FixedQParamsFakeQuantize(intaglio.MinMaxObserver), "FixedQParamsObserver"),
        (lambda: FakeQuantize(nn.Identity), "takes an observer"),
        (lambda: FakeQuantize(quant_min=-1, dtype="uint8"), "make no sense"),
    ],
)
def test_what_makes_no_sense_is_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


# ---- Learned scales ----------------------------------------------------------------------------------------


def test_a_learned_scale_starts_at_the_least_error_and_moves_with_its_gradient() -> None:
    weight = values(8, 300)
    rounder = LearnedFakeQuantize(dtype="int8", quant_min=-8, quant_max=7, ch_axis=0).train()
    first = (rounder(weight) - weight).square().mean()
    plain = intaglio.default_per_channel_weight_fake_quant(quant_min=-8, quant_max=7)(weight)
    assert first < (plain - weight).square().mean()
    with torch.no_grad():
        rounder.scale.mul_(1.7)
    worse = (rounder(weight) - weight).square().mean()
    optimizer = torch.optim.Adam([rounder.scale], lr=0.02)
    for _ in range(60):
        loss = (rounder(weight) - weight).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.7 * worse
    assert loss < 1.1 * first


@pytest.mark.parametrize("axis", [None, 0])
def test_learned_gradients_are_the_published_ones(axis: int | None) -> None:
    rounder = LearnedFakeQuantize(dtype="int8", quant_min=-4, quant_max=3, ch_axis=axis).train()
    x = values(3, 40).requires_grad_()
    rounder(x.detach())
    with torch.no_grad():
        rounder.scale.mul_(0.6)  # so that some values are cut off
    grad = values(3, 40, seed=1)
    rounder(x).backward(grad)
    scale = rounder.scale.detach().view(-1, 1)
    v = x.detach() / scale
    steps = v.round().clamp(-3, 3)
    cut = (v.round() > 3) | (v.round() < -3)
    expected = grad * torch.where(cut, steps, steps - v)
    count = 120 if axis is None else 40
    summed = expected.sum() if axis is None else expected.sum(1)
    assert rounder.scale.grad is not None
    assert torch.allclose(rounder.scale.grad, summed.reshape(-1) / (count * 3) ** 0.5, rtol=1e-4, atol=1e-5)
    assert x.grad is not None
    assert torch.equal(x.grad, torch.where(cut, 0.0, grad))


def test_a_learned_zero_point_is_trained_too() -> None:
    x = values(400) + 5
    rounder = LearnedFakeQuantize(dtype="uint8", learn_zero_point=True, quant_max=15).train()
    rounder(x)
    assert {name for name, _ in rounder.named_parameters()} == {"scale", "zero_point"}
    with torch.no_grad():
        rounder.zero_point.add_(3)
    rounder(x).sum().backward()
    assert rounder.zero_point.grad is not None
    assert int(rounder.choose().zero_point) == int(rounder.zero_point.clamp(0, 15).round())


# ---- Ranges of rows ----------------------------------------------------------------------------------------


def test_dynamic_rounding_is_that_of_the_dynamic_linear() -> None:
    x = values(3, 5, 37)
    linear = nn.Linear(37, 11)
    quantized = intaglio.quantize_dynamic(nn.Sequential(linear))
    weight = intaglio.default_per_channel_weight_fake_quant()(linear.weight.detach())
    expected = nn.functional.linear(round_dynamically(x), weight, linear.bias)
    assert torch.allclose(quantized(x), expected, atol=1e-5)
    assert torch.equal(round_dynamically(x, PerTensor()), round_dynamically(x.reshape(1, -1)).view(x.shape))
    groups = round_dynamically(x[..., :36], PerGroup(12))
    assert torch.equal(groups.reshape(-1, 12), round_dynamically(x[..., :36].reshape(-1, 12)))
    broken = x.clone()
    broken[0, 0, 0] = float("nan")
    assert round_dynamically(broken).isnan().sum() == 37
