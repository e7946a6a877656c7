"""Functions of quantized values, one by one: a program gives the bits of the model, whatever the layout."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import intaglio
from intaglio import FloatFunctional
from tests.program_models import Stem, converted, same_bits

Step = Callable[[Any, Any], Any]

INDICES: dict[str, Step] = {
    "first": lambda m, x: x[0],
    "ellipsis": lambda m, x: x[..., 0],
    "new_axis": lambda m, x: x[:, None],
    "steps": lambda m, x: x[:, -1:, ::2],
    "mixed": lambda m, x: x[1:, :, 0, -1],
    "list": lambda m, x: x[:, [0, 2]],
    "narrow": lambda m, x: x.narrow(2, -3, 2),
    "select": lambda m, x: x.select(-1, -2),
    "unbind": lambda m, x: x.unbind(1)[2],
    "split": lambda m, x: m.f.cat([x.split([1, 3], 1)[1], x.split(3, 1)[0]], 1),
    "chunk": lambda m, x: x.chunk(3, 2)[1],
}
SHAPES: dict[str, Step] = {
    "t": lambda m, x: x.flatten(1).t(),
    "mT": lambda m, x: x.mT,
    "transpose": lambda m, x: x.transpose(-1, 1),
    "permute": lambda m, x: x.permute(3, 0, 2, 1),
    "contiguous": lambda m, x: x.permute(3, 0, 2, 1).contiguous(),
    "movedim": lambda m, x: torch.movedim(x, 1, -1),
    "view": lambda m, x: x.contiguous().view(-1, 144),
    "reshape": lambda m, x: x.reshape(-1, 6),
    "reshape_of_transposed": lambda m, x: x.transpose(1, 3).reshape(-1, 12),
    "flatten": lambda m, x: x.flatten(),
    "unflatten": lambda m, x: x.unflatten(1, (2, -1)),
    "unsqueeze": lambda m, x: x.unsqueeze(-1),
    "squeeze": lambda m, x: x[:1].squeeze(),
    "squeeze_of_nothing": lambda m, x: x.squeeze(1),
    "expand": lambda m, x: x[:, :1].expand(-1, 3, -1, -1),
    "expand_as": lambda m, x: x[:1].expand_as(x),
    "sizes": lambda m, x: x.reshape(x.shape[0] * x.size(1), x.numel() // (x.shape[0] * x.size(1))),
    "clone": lambda m, x: x.clone(),
    "pad": lambda m, x: F.pad(x, (1, 1, 2, 0)),
    "pad_by_a_value": lambda m, x: F.pad(x, (1, 1), value=0.5),
    "pad_less": lambda m, x: F.pad(x, (-1, 0, 0, -1)),
}
REDUCED: dict[str, Step] = {
    "mean": lambda m, x: x.mean(),
    "mean_of_channels": lambda m, x: x.mean(1),
    "mean_from_behind": lambda m, x: x.mean((-1, 0)),
    "mean_kept": lambda m, x: x.mean([1, 3], keepdim=True),
    "mean_of_one_axis": lambda m, x: torch.mean(x, dim=2),
    "max_pool": lambda m, x: F.max_pool2d(x, 2),
    "max_pool_dilated": lambda m, x: F.max_pool2d(x, 2, 1, 1, dilation=2),
    "max_pool_ceil": lambda m, x: F.max_pool2d(x, (3, 2), 2, ceil_mode=True),
    "average_by_a_divisor": lambda m, x: F.avg_pool2d(x, 2, divisor_override=3),
    "average_by_position": lambda m, x: F.avg_pool2d(x, 2, 1, 1, True, False),
    "adaptive": lambda m, x: F.adaptive_avg_pool2d(x, (3, None)),
    "adaptive_max": lambda m, x: F.adaptive_max_pool2d(x, (3, 2)),
    "max_pool_of_rows": lambda m, x: F.max_pool1d(x.flatten(2), 3),
    "average_of_rows": lambda m, x: F.avg_pool1d(x.flatten(2), 4, 3, 2),
}
VALUES: dict[str, Step] = {
    "relu": lambda m, x: F.relu(x),
    "relu6": lambda m, x: F.relu6(x),
    "clamp": lambda m, x: torch.clamp(x, -0.3, 0.4),
    "clamp_below": lambda m, x: x.clamp(min=0.1),
    "clamp_max": lambda m, x: x.clamp_max(0.2),
    "hardtanh": lambda m, x: F.hardtanh(x),
    "sigmoid": lambda m, x: torch.sigmoid(x),
    "tanh": lambda m, x: x.tanh(),
    "hardsigmoid": lambda m, x: F.hardsigmoid(x),
    "add_much": lambda m, x: m.f.add_scalar(x, 100.0),
    "add_little": lambda m, x: m.f.add_scalar(x, -0.3),
    "times_nothing": lambda m, x: m.f.mul_scalar(x, 0.0),
    "times": lambda m, x: m.f.mul_scalar(x, 3),
    "negative": lambda m, x: m.g.add(m.f.mul_scalar(x, -2.0), x),
}
PAIRS: dict[str, Step] = {
    "cat_of_equals": lambda m, x: torch.cat([x, x], 1),
    "cat_from_behind": lambda m, x: m.f.cat([x, x], -1),
    "cat_of_samples": lambda m, x: m.f.cat([x, x[:1]], 0),
    "cat_of_two_layouts": lambda m, x: m.f.cat([x.transpose(2, 3), x], 2),
    "add_one_sample": lambda m, x: m.f.add(x, x[:1]),
    "add_both_broadcast": lambda m, x: m.f.add(x[:, :1], x[:1]),
    "add_relu_of_two_layouts": lambda m, x: m.f.add_relu(x, x.transpose(2, 3)),
    "times_a_scalar": lambda m, x: m.f.mul(x, x[0, 0, 0, 0]),
    "times_a_row": lambda m, x: m.f.mul(x, x[0, 0, 0]),
    "times_from_the_left": lambda m, x: m.f.mul(x[0], x),
    "times_channels_last": lambda m, x: m.f.mul(x.permute(0, 2, 3, 1), x.permute(0, 2, 3, 1)[:1]),
    "matmul": lambda m, x: m.f.matmul(x, x.transpose(2, 3)),
    "matmul_broadcast": lambda m, x: m.f.matmul(x[:1], x.mT),
    "matmul_of_a_matrix": lambda m, x: m.f.matmul(x[0, 0], x),
    "matmul_by_a_vector": lambda m, x: m.f.matmul(x, x[0, 0, 0]),
}
BY_TORCH: dict[str, Step] = {
    "interpolate": lambda m, x: F.interpolate(x, size=(7, 9), mode="bilinear", align_corners=False),
    "pixel_shuffle": lambda m, x: F.pixel_shuffle(x, 2),
    "reflect": lambda m, x: F.pad(x, (1, 1, 1, 1), mode="reflect"),
    "softmax": lambda m, x: torch.softmax(x, -1),
    "sort": lambda m, x: torch.sort(x)[0],
    "roll": lambda m, x: torch.roll(x, 1, 2),
    "flip": lambda m, x: x.flip(3),
    "stack": lambda m, x: torch.stack([x, x]),
}
ALL = {**INDICES, **SHAPES, **REDUCED, **VALUES, **PAIRS, **BY_TORCH}


class Function(Stem):
    """One function of what a convolution gives, and a sum that needs it dense."""

    def __init__(self, step: Step) -> None:
        super().__init__()
        self.step = step

    def make(self) -> None:
        self.conv = nn.Conv2d(4, 4, 1)
        self.f, self.g, self.sum = FloatFunctional(), FloatFunctional(), FloatFunctional()

    def body(self, x: Any) -> Any:
        found = self.step(self, self.conv(x))
        return found, self.sum.add(found, found)


@pytest.mark.filterwarnings("ignore::intaglio.observer.ObserverWarning")
@pytest.mark.parametrize("name", ALL)
def test_functions_of_quantized_values(name: str) -> None:
    x = torch.randn(2, 4, 6, 6)
    model = converted(Function(ALL[name]), x)
    program = intaglio.compile(model)
    inputs: list[Tensor] = [x, x.to(memory_format=torch.channels_last), torch.randn(5, 4, 6, 6)]
    for other in inputs:
        assert same_bits(program(other), model(other))
    left = set(BY_TORCH) | {"list", "matmul_by_a_vector"}
    assert bool(program.left_to_host) == (name in left)
