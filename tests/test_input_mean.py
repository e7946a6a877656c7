"""The mean of a layer's output survives the rounding of its weights."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import intaglio
from intaglio import QuantWrapper, convert, prepare
from intaglio.nn import FusedModule
from intaglio.nn.padded_conv import pad_conv
from intaglio.observer import InputMean

LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(24, 16), (64, 24)),
    "linear without bias": (lambda: nn.Linear(24, 16, bias=False), (64, 24)),
    "convolution": (lambda: nn.Conv2d(12, 8, 3), (8, 12, 12, 12)),
    "padded": (lambda: nn.Conv2d(12, 8, 5, stride=2, padding=2), (64, 12, 7, 6)),
    "padded by hand": (lambda: pad_conv(nn.ZeroPad2d((0, 2, 3, 0)), nn.Conv2d(12, 8, 3)), (64, 12, 5, 6)),
    "dilated, same": (lambda: nn.Conv1d(12, 8, 5, padding="same", dilation=2), (64, 12, 14)),
    "depthwise": (lambda: nn.Conv2d(12, 12, 3, groups=12, bias=False), (8, 12, 12, 12)),
    "grouped, one-dimensional": (lambda: nn.Conv1d(12, 6, 3, groups=3), (16, 12, 40)),
    "transposed": (lambda: nn.ConvTranspose2d(12, 6, 2, 2, groups=2), (8, 12, 10, 10)),
    "fused": (lambda: FusedModule(nn.Conv2d(12, 8, 1), nn.Hardtanh(-9.0, 9.0)), (8, 12, 10, 10)),
}


def coarse_weights() -> intaglio.QConfig:
    """Four bits or so for weights, so that rounding them shows; activations as always."""
    activation = intaglio.get_default_qconfig("x86").activation
    return intaglio.QConfig(
        activation, CoarseObserver.with_args(dtype="int8", qscheme=torch.per_channel_symmetric)
    )


class CoarseObserver(intaglio.PerChannelMinMaxObserver):
    """Twenty times the step."""

    def choose(self) -> intaglio.QParams:
        chosen = super().choose()
        return intaglio.QParams(chosen.scale * 20, chosen.zero_point, chosen.dtype, 0, -127, 127)


def mean_shift(found: Tensor, expected: Tensor) -> float:
    axes = [axis for axis in range(expected.dim()) if axis != 1]
    return float((found - expected).mean(axes).norm() / expected.mean(axes).norm())


@pytest.mark.parametrize("name", LAYERS)
def test_the_mean_of_every_channel_is_kept(name: str) -> None:
    torch.manual_seed(0)
    make, shape = LAYERS[name]
    model = QuantWrapper(make().eval()).requires_grad_(False)
    model.qconfig = coarse_weights()
    x = torch.rand(shape) + torch.rand(shape[1:2]).view(-1, *[1] * (len(shape) - 2))
    prepared = prepare(model)
    prepared(x)
    with_means = convert(prepared)(x)
    for module in prepared.modules():
        if isinstance(module, InputMean):
            module.count.zero_()
    without = convert(prepared)(x)
    expected = model(x)
    assert mean_shift(with_means, expected) < 0.004
    assert mean_shift(without, expected) > 4 * mean_shift(with_means, expected)


def test_what_is_recorded() -> None:
    recorder = InputMean(3, -3)
    x = torch.randn(4, 3, 5, 6)
    for part in x.split(1):
        recorder(part)
    recorder(x[0])  # one sample without a batch axis
    expected = torch.cat([x, x[:1]]).double().mean((0, 2, 3))
    found = recorder.mean()
    assert found is not None
    assert torch.allclose(found, expected, atol=1e-6)


def test_what_is_left_out() -> None:
    recorder = InputMean(3, -1)
    for x in (
        torch.full((2, 3), torch.nan),
        torch.full((2, 3), torch.inf),
        torch.rand(0, 3),
        torch.rand(2, 4),
    ):
        recorder(x)
    assert recorder.mean() is None
    recorder(torch.ones(2, 3))
    found = recorder.mean()
    assert found is not None
    assert torch.equal(found, torch.ones(3, dtype=torch.float64))


def test_means_are_part_of_the_observers_state() -> None:
    torch.manual_seed(0)
    model = QuantWrapper(nn.Linear(8, 4).eval()).requires_grad_(False)
    model.qconfig = coarse_weights()
    x = torch.rand(32, 8)
    prepared, fresh = prepare(model), prepare(model)
    prepared(x)
    intaglio.load_observer_state_dict(fresh, intaglio.get_observer_state_dict(prepared))
    assert torch.equal(convert(fresh)(x), convert(prepared)(x))


def test_what_a_fused_layer_gives_is_not_taken_for_its_input() -> None:
    torch.manual_seed(0)
    model = QuantWrapper(FusedModule(nn.Conv2d(4, 4, 1), nn.ReLU())).eval()
    model.qconfig = intaglio.get_default_qconfig("x86")
    prepared, x = prepare(model), torch.randn(2, 4, 5, 6)
    assert torch.equal(prepared(x), model(x))
    recorder = prepared.module.input_mean
    assert isinstance(recorder, InputMean)
    assert int(recorder.count) == 2 * 5 * 6
    assert torch.allclose(recorder.mean().float(), x.mean((0, 2, 3)), atol=1e-6)
    assert int(prepared.module.activation_post_process.counts.sum()) == 2 * 4 * 5 * 6
