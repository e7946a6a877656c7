"""Functions of torch on a `QTensor`: those that keep its parameters, those of a fixed range, the errors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from intaglio import InputError, QParams, QTensor
from intaglio.nn.qtensor_functions import FROM_MINUS_ONE_TO_ONE, FROM_ZERO_TO_ONE
from intaglio.ops.layout import with_channels_innermost
from intaglio.qparams import INT8, UINT8
from intaglio.qtensor import register_function


def parameters(scale: float = 0.05, zero_point: int = 120, **limits: int) -> QParams:
    return QParams(torch.tensor(scale), torch.tensor(zero_point, dtype=torch.int32), UINT8, **limits)


def image(*shape: int, source: str = "", qparams: QParams | None = None) -> QTensor:
    q = QTensor.quantize(2 * torch.randn(shape), qparams or parameters())
    return QTensor(with_channels_innermost(q.data), q.qparams, source)


Function = Callable[[Any], Any]
EXACT: dict[str, Function] = {
    "relu": F.relu,
    "torch.relu": torch.relu,
    "method": lambda q: q.relu(),
    "relu6": F.relu6,
    "hardtanh": lambda q: F.hardtanh(q, -1.0, 0.5),
    "clamp": lambda q: torch.clamp(q, -1.0, 2.0),
    "clamp below": lambda q: q.clamp(min=-1.0),
    "clamp_max": lambda q: torch.clamp_max(q, 1.5),
    "max_pool2d": lambda q: F.max_pool2d(q, 2),
    "max_pool2d, all": lambda q: F.max_pool2d(q, (3, 2), 2, 1, 1, True),
    "adaptive_max_pool2d": lambda q: F.adaptive_max_pool2d(q, (3, 2)),
    "unbatched": lambda q: F.max_pool2d(q[0], 2),
    "nn.MaxPool2d": nn.MaxPool2d(3, 2, 1),
    "pad": lambda q: F.pad(q, (1, 2, 0, 1)),
    "pad with a value": lambda q: F.pad(q, (1, 2), value=1.5),
    "crop": lambda q: F.pad(q, (-1, -2, 1, 0)),
    "reflect": lambda q: F.pad(q, (1, 2, 2, 1), mode="reflect"),
    "replicate": lambda q: F.pad(q, (1, 2, 2, 1), mode="replicate"),
    "circular": lambda q: F.pad(q, (1, 2, 2, 1), mode="circular"),
    "pixel_shuffle": lambda q: F.pixel_shuffle(q, 2),
    "pixel_unshuffle": lambda q: F.pixel_unshuffle(q, 2),
    "channel_shuffle": lambda q: F.channel_shuffle(q, 2),
    "shuffle by views": lambda q: q.view(2, 2, 4, 6, 8).transpose(1, 2).reshape(2, 8, 6, 8),
    "dropout": lambda q: F.dropout(q, 0.5, training=False),
    "nn.Dropout2d": nn.Dropout2d().eval(),
    "nn.Identity": nn.Identity(),
    "nn.Flatten": nn.Flatten(),
    "nn.ZeroPad2d": nn.ZeroPad2d(2),
    "nn.ReflectionPad2d": nn.ReflectionPad2d(2),
    "flatten": lambda q: torch.flatten(q, 1),
    "index_select": lambda q: torch.index_select(q, 1, torch.tensor([3, 0])),  # pytorch/pytorch#37299
    "repeat_interleave": lambda q: q.repeat_interleave(2, 1),
    "roll": lambda q: torch.roll(q, (1, 2), (2, 3)),
    "cat": lambda q: torch.cat([q, q[:, :3]], 1),
    "concat": lambda q: torch.concat([q, q], dim=-1),
    "stack": lambda q: torch.stack([q, q], 1),
    "nearest": lambda q: F.interpolate(q, scale_factor=2),
    "nearest by size": lambda q: F.interpolate(q, (9, 5), mode="nearest"),
    "nearest-exact": lambda q: F.interpolate(q, scale_factor=(1.7, 0.6), mode="nearest-exact"),
    "nn.Upsample": nn.Upsample(scale_factor=1.3),
    "view_as": lambda q: q.contiguous().flatten().view_as(q),
}


@pytest.mark.parametrize("name", EXACT)
def test_what_keeps_the_parameters_is_exact(name: str) -> None:
    q = image(2, 8, 6, 8, source="'conv'")
    y = EXACT[name](q)
    expected = EXACT[name](q.dequantize())
    assert isinstance(y, QTensor)
    assert y.qparams is q.qparams
    assert y.source == "'conv'"
    steps = (expected / 0.05 + 120).round().clamp(0, 255)  # a clamp or a filling is rounded to a step
    assert torch.equal(y.data.float(), steps)


ORDERED: dict[str, Function] = {
    "argmax": lambda q: q.argmax(1),
    "torch.argmax": lambda q: torch.argmax(q, dim=-1),
    "argmin": lambda q: torch.argmin(q, 1),
    "amax": lambda q: q.amax((2, 3)),
    "amin": lambda q: torch.amin(q, 1, keepdim=True),
    "max": torch.max,
    "max along an axis": lambda q: q.max(1),
    "min along an axis": lambda q: torch.min(q, dim=1),
    "topk": lambda q: q.topk(3, 1),
    "sort": lambda q: torch.sort(q, 1, descending=True),
}


@pytest.mark.parametrize("name", ORDERED)
def test_the_order_of_values_is_that_of_the_integers(name: str) -> None:
    every = torch.stack([torch.randperm(32) for _ in range(4)], -1).reshape(1, 32, 2, 2).to(torch.uint8)
    q = QTensor(every, parameters())
    found, expected = ORDERED[name](q), ORDERED[name](q.dequantize())
    if isinstance(found, QTensor):
        assert torch.equal(found.dequantize(), expected)
    elif isinstance(found, tuple):
        assert torch.equal(found.values.dequantize(), expected.values)
        assert torch.equal(found.indices, expected.indices)
    else:
        assert torch.equal(found, expected)


def test_unbind_gives_its_parts() -> None:
    q = image(2, 3, 4, 4)
    for part, expected in zip(torch.unbind(q, 1), q.dequantize().unbind(1), strict=True):
        assert torch.equal(part.dequantize(), expected)


AVERAGES: dict[str, Function] = {
    "avg_pool2d": lambda q: F.avg_pool2d(q, 2),
    "avg_pool2d, all": lambda q: F.avg_pool2d(q, 3, 2, 1, True, False),
    "divisor": lambda q: F.avg_pool2d(q, 2, divisor_override=3),
    "adaptive": lambda q: F.adaptive_avg_pool2d(q, (3, 4)),
    "nn.AdaptiveAvgPool2d": nn.AdaptiveAvgPool2d(1),
    "unbatched": lambda q: F.adaptive_avg_pool2d(q[1], 1),
    "mean over space": lambda q: q.mean((2, 3)),
    "kept": lambda q: torch.mean(q, dim=(-1, -2), keepdim=True),
    "mean over one axis": lambda q: q.mean(1),
    "mean over the first": lambda q: q.mean(dim=0, keepdim=True),
    "mean of all": lambda q: q.mean(),
    "mean over no axis means all": lambda q: torch.mean(q, dim=[]),
    "tokens": lambda q: q.flatten(2).transpose(1, 2).mean(1),
    "bilinear": lambda q: F.interpolate(q, scale_factor=2, mode="bilinear"),
    "bilinear by size": lambda q: F.interpolate(q, (9, 5), mode="bilinear", align_corners=True),
    "bilinear, recomputed": lambda q: F.interpolate(
        q, scale_factor=1.7, mode="bilinear", recompute_scale_factor=True
    ),
    "nn.UpsamplingBilinear2d": nn.UpsamplingBilinear2d(scale_factor=3),
    "linear": lambda q: F.interpolate(q.flatten(2), scale_factor=1.7, mode="linear"),
    "trilinear": lambda q: F.interpolate(q.unsqueeze(2), (2, 7, 9), mode="trilinear"),
    "area": lambda q: F.interpolate(q, (4, 3), mode="area"),
    "area by a factor": lambda q: F.interpolate(q, scale_factor=0.5, mode="area"),
    "1d": lambda q: F.avg_pool1d(q.flatten(2), 4, 2),
    "adaptive 1d": lambda q: F.adaptive_avg_pool1d(q.flatten(2), 5),
    "3d": lambda q: F.avg_pool3d(q.unsqueeze(2), (1, 2, 2)),
    "adaptive 3d": lambda q: F.adaptive_avg_pool3d(q.unsqueeze(2), (1, 2, None)),
}


@pytest.mark.parametrize("name", AVERAGES)
def test_averages_round_to_the_nearest_step(name: str) -> None:
    q = image(2, 8, 6, 8)
    y, expected = AVERAGES[name](q), AVERAGES[name](q.dequantize())
    assert y.shape == expected.shape
    assert y.qparams is q.qparams
    assert float((y.dequantize() - expected).abs().max()) <= 0.05 * 0.501


@pytest.mark.parametrize("axes", [1, 3])
def test_the_largest_in_one_and_three_dimensions(axes: int) -> None:
    q = image(2, 3, *(8, 4, 6)[:axes])
    pools: Any = {1: (F.max_pool1d, F.adaptive_max_pool1d), 3: (F.max_pool3d, F.adaptive_max_pool3d)}
    for y, expected in (
        (pools[axes][0](q, 2), pools[axes][0](q.dequantize(), 2)),
        (pools[axes][1](q, 2), pools[axes][1](q.dequantize(), 2)),
    ):
        assert torch.equal(y.dequantize(), expected)


FIXED: dict[str, tuple[Function, QParams]] = {
    "sigmoid": (torch.sigmoid, FROM_ZERO_TO_ONE),
    "method": (lambda q: q.sigmoid(), FROM_ZERO_TO_ONE),
    "nn.Sigmoid": (nn.Sigmoid(), FROM_ZERO_TO_ONE),
    "hardsigmoid": (F.hardsigmoid, FROM_ZERO_TO_ONE),
    "tanh": (torch.tanh, FROM_MINUS_ONE_TO_ONE),
    "nn.Tanh": (nn.Tanh(), FROM_MINUS_ONE_TO_ONE),
}


@pytest.mark.parametrize("name", FIXED)
def test_fixed_ranges_are_tables(name: str) -> None:
    q = image(2, 8, 6, 8)
    function, output = FIXED[name]
    y, expected = function(q), QTensor.quantize(function(q.dequantize()), output)
    assert y.qparams is output
    assert torch.equal(y.data, expected.data)
    assert y.data.stride() == q.data.stride()


@pytest.mark.parametrize("dim", [-1, 1, 0])
def test_softmax_has_a_fixed_range(dim: int) -> None:
    q = image(2, 8, 6, 8)
    for y in (F.softmax(q, dim), torch.softmax(q, dim), q.softmax(dim), nn.Softmax(dim)(q)):
        assert y.qparams is FROM_ZERO_TO_ONE
        assert float((y.dequantize() - q.dequantize().softmax(dim)).abs().max()) <= 1 / 256
    with pytest.raises(InputError, match=r"softmax\(\) has no quantized form"):
        F.log_softmax(q, dim)


def test_an_inplace_relu_is_seen_by_whoever_holds_the_value() -> None:
    # As in float: a skip connection that was taken before an in-place ReLU has its result (CRAFT).
    q = image(1, 2, 3, 3)
    expected = F.relu(q).data
    skip = q[:, :1]
    assert nn.ReLU(inplace=True)(q).data is q.data
    assert torch.equal(q.data, expected)
    assert torch.equal(skip.data, expected[:, :1])


def test_limits_are_kept() -> None:
    qparams = parameters(0.05, 128, quant_min=1, quant_max=255)
    q = image(1, 2, 4, 4, qparams=qparams)
    assert int(F.pad(q, (1, 1), value=-1e9).data.min()) == 1
    assert int(F.avg_pool2d(q, 2, divisor_override=1).data.min()) >= 1


# ---- Errors --------------------------------------------------------------------------------------------


class Net(nn.Module):
    """A module whose forward does something with a QTensor."""

    def __init__(self, body: Function) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Any) -> Any:
        return self.body(x)


def message_of(body: Function, source: str = "'features.3' (QuantizedConv)") -> str:
    with pytest.raises(InputError) as caught:
        Net(body)(image(1, 4, 4, 4, source=source))
    return str(caught.value)


THREADS: dict[str, tuple[Function, str, str]] = {
    # "Could not run 'aten::add.out' ... 'QuantizedCPU'": the sum of a residual block.
    "pytorch/pytorch#98596": (lambda q: q + q, "add", "FloatFunctional"),
    "pytorch/pytorch#35595": (lambda q: q.__add__(q), "add", "its add()"),
    # "aten::add.out" and its kin in the thread that collects them; float convolution of a quantized value.
    "pytorch/pytorch#34583": (lambda q: F.conv2d(q, torch.randn(2, 4, 1, 1)), "conv2d", "DeQuantStub"),
    # "aten::empty_strided": torch.div(x, 6) of a hand-written hard swish.
    "pytorch/pytorch#89550": (lambda q: torch.div(q, 6), "div", "mul_scalar()"),
    # "Unimplemented backend QuantizedCPU": a PReLU written by hand, which negates.
    "pytorch/pytorch#41640": (lambda q: torch.relu(-q), "neg", "mul_scalar()"),
    # "aten::silu.out": the same where an activation has no form.
    "pytorch/pytorch#73507": (F.silu, "silu", "nn.SiLU"),
    "nn.SiLU": (nn.SiLU(), "silu", "SiLU in Net"),
    "layer_norm": (lambda q: F.layer_norm(q, (4,)), "layer_norm", "nn.LayerNorm"),
    "matmul": (lambda q: q @ q, "matmul", "matmul()"),
    "indices": (
        lambda q: F.max_pool2d(q, 2, return_indices=True),
        "max_pool2d_with_indices",
        "DeQuantStub",
    ),
    "dropout": (lambda q: F.dropout(q, 0.5), "dropout", "model.eval()"),
    "bicubic": (lambda q: F.interpolate(q, (8, 8), mode="bicubic"), "interpolate", "bicubic"),
    "maximum of two": (lambda q: torch.max(q, q), "max", "DeQuantStub"),
    "lp_pool2d": (lambda q: F.lp_pool2d(q, 2.0, 2), "lp_pool2d", "DeQuantStub"),
}


@pytest.mark.parametrize("thread", THREADS)
def test_errors_name_the_maker_the_caller_and_the_remedy(thread: str) -> None:
    body, name, remedy = THREADS[thread]
    message = message_of(body)
    assert message.startswith(f"{name}() ")
    assert "shape (1, 4, 4, 4)" in message
    assert "made by 'features.3' (QuantizedConv)" in message
    assert "Net" in message[message.index("called in the forward of") :]
    assert remedy in message
    assert "QuantizedCPU" not in message


def test_a_concatenation_of_unequal_parameters_is_never_silent() -> None:
    # pytorch/pytorch#46604: torch.cat gave the first one's scale to all, without an error.
    other = image(1, 2, 4, 4, source="'up'", qparams=parameters(0.2, 7))
    for join in (torch.cat, torch.stack):
        message = message_of(lambda q, join=join: join([q, other]))  # type: ignore[misc]
        assert "needs equal scales and zero points" in message
        assert "made by 'features.3' (QuantizedConv) and 'up'" in message
    assert "its cat()" in message_of(lambda q: torch.cat([q, other], 1))
    assert torch.cat([other, image(1, 2, 4, 4, qparams=parameters(0.2, 7))], 1).shape == (1, 4, 4, 4)


def test_outside_of_modules_no_caller_is_named() -> None:
    with pytest.raises(
        InputError, match=r"silu\(\) has no quantized form for a QTensor of shape \(1, 2\): make"
    ):
        F.silu(QTensor.quantize(torch.randn(1, 2), parameters()))


def test_per_channel_tensors_are_refused() -> None:
    scale = torch.ones(3)
    q = QTensor.quantize(torch.randn(3, 4, 4), QParams(scale, torch.zeros(3, dtype=torch.int32), INT8, 0))
    for function in (
        F.relu,
        torch.sigmoid,
        lambda q: F.max_pool2d(q, 2),
        lambda q: F.pad(q, (1, 1)),
        torch.mean,
    ):
        with pytest.raises(InputError, match="has no quantized form"):
            function(q)


def test_users_can_register_functions_of_their_own() -> None:
    def negate(x: Tensor) -> Tensor:
        if isinstance(x, QTensor):
            return torch.overrides.handle_torch_function(negate, (x,), x)
        return -x

    with pytest.raises(InputError, match=r"negate\(\) has no quantized form"):
        negate(image(1, 2))  # type: ignore[arg-type]

    @register_function(negate)
    def negate_quantized(q: QTensor) -> QTensor:
        return QTensor(255 - q.data, q.qparams)

    assert isinstance(negate(image(1, 2)), QTensor)  # type: ignore[arg-type]


def test_legacy_attributes() -> None:
    q = image(2, 3)
    assert (q.q_scale(), q.q_zero_point(), q.is_quantized, q.ndim) == (pytest.approx(0.05), 120, True, 2)
