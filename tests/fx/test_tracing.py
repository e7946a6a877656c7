"""Tracing that does not give up: what is told, what is checked, what stays Python and how little of it.

The legacy fails as a whole where any of this occurs: pytorch/pytorch#118634, #74842, #87344, #76181,
huggingface/pytorch-image-models#1411.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import einops
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

import intaglio
from intaglio.graph_passes.examples import Call, example_call, vary_sizes
from intaglio.graph_passes.module_state import kept_state
from intaglio.graph_passes.tracing import Traced, trace_model
from intaglio.nn.copying import copy_model
from intaglio.quantize_fx import graph_record
from tests.fx.models_to_trace import (
    Answering,
    Answers,
    Counts,
    Model,
    Remembers,
    Writes,
    arithmetic,
    asserts,
    factories,
    generators,
    structures,
)
from tests.fx.quantized_models import floats_in, kinds, quantize, sqnr


def trace(model: nn.Module, *args: Any, **kwargs: Any) -> Traced:
    """`model` traced on these arguments, with torch's layers as leaves."""
    with kept_state(model):
        calls = vary_sizes(model, example_call(model, Call(args, kwargs)))

    def treat(module: nn.Module, path: str) -> Any:
        is_layer = type(module).__module__.startswith("torch.nn") and not isinstance(module, nn.Sequential)
        return "leaf" if is_layer else "inside"

    return trace_model(copy_model(model, {}), calls, treat)


# ---- What is traced --------------------------------------------------------------------------------------

TRACED: dict[str, Callable[..., Any]] = {
    "checks": asserts,
    "arithmetic on sizes": arithmetic,
    "factories": factories,
    "generator expressions": generators,
    "structures": structures,
}


@pytest.mark.parametrize("name", TRACED)
def test_the_whole_is_a_graph_for_every_size(name: str) -> None:
    model = Model(TRACED[name])
    traced = trace(model, torch.randn(1, 3, 8, 8))
    assert isinstance(traced.model, fx.GraphModule)
    assert traced.left == {}
    for shape in ((1, 3, 8, 8), (3, 3, 8, 8), (2, 3, 11, 14)):
        x = torch.randn(shape)
        found, expected = list(floats_in(traced.model(x))), list(floats_in(model(x)))
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_a_check_of_the_users_is_kept() -> None:
    traced = trace(Model(asserts), torch.randn(1, 3, 8, 8))
    with pytest.raises(AssertionError, match="a check in the forward"):
        traced.model(torch.randn(1, 4, 8, 8))


def test_torch_pow_of_a_stand_in() -> None:
    # torch's C++ code crashed on a proxy that said it was a Tensor.
    traced = trace(
        Model(lambda m, x: torch.pow(m.conv(x), 2.0) + torch.pow(2.0, m.conv(x))), torch.randn(1, 3, 8, 8)
    )
    assert traced.left == {}


# ---- What stays Python -----------------------------------------------------------------------------------


def pad_to_even(x: Tensor) -> Tensor:
    if x.shape[-1] % 2 == 1:
        x = F.pad(x, (0, 1))
    return x


@fx.wrap
def wrapped_helper(x: Tensor) -> Tensor:
    return x * 2 if x.shape[-1] > 9 else x


class Positions(nn.Module):
    """A method that decides by the size, as vision transformers have one."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.head = nn.Conv2d(3, 4, 2, 2), nn.Linear(4, 4)
        self.places = nn.Parameter(torch.randn(1, 16, 4))

    def positions(self, count: int) -> Tensor:
        if count == self.places.shape[1]:
            return self.places
        grown = F.interpolate(self.places.transpose(1, 2), size=count, mode="linear")
        return grown.transpose(1, 2) / self.patch.stride[0]

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        return self.head(x + self.positions(x.shape[1]))


class Decides(nn.Module):
    """A forward that decides by the data, with layers in it."""

    def __init__(self) -> None:
        super().__init__()
        self.large, self.small = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.large(x) if x.abs().mean() > 0.5 else self.small(x) + self.large(x)


class Around(nn.Module):
    """A model that can be traced but for one module in the middle."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.conv, self.inner, self.head = nn.Conv2d(3, 4, 3, padding=1), inner, nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x).relu().permute(0, 2, 3, 1)
        return self.head(self.inner(x))


def test_a_function_that_decides_by_sizes_is_one_step() -> None:
    model = Model(lambda m, x: pad_to_even(wrapped_helper(m.conv(x))))
    traced = trace(model, torch.randn(1, 3, 8, 8))
    assert isinstance(traced.model, fx.GraphModule)
    assert list(traced.left) == ["(model): tests.fx.test_tracing.pad_to_even()"]
    assert traced.left["(model): tests.fx.test_tracing.pad_to_even()"].startswith(
        "a decision that depends on the size"
    )
    for width in (8, 9, 12):
        x = torch.randn(2, 3, 8, width)
        assert torch.equal(traced.model(x), model(x))


def test_a_method_that_decides_by_sizes_is_one_step() -> None:
    model = Positions().eval()
    converted = quantize(model, *[torch.randn(2, 3, 8, 8) for _ in range(4)])
    record = graph_record(converted)
    assert record is not None
    assert record.graphs == [""]
    assert list(record.left) == ["(model): Positions.positions()"]
    for size in (8, 12):
        x = torch.randn(1, 3, size, size)
        assert sqnr(converted(x), model(x)) > 28


def test_a_forward_that_decides_by_data_is_called_and_its_layers_quantized() -> None:
    model = Around(Decides()).eval()
    converted = quantize(model, *[scale * torch.randn(2, 3, 8, 8) for scale in (0.1, 0.5, 2.0, 4.0)])
    record = graph_record(converted)
    assert record is not None
    assert record.left == {"inner": "a decision that depends on data"}
    assert isinstance(converted, fx.GraphModule)
    assert type(converted.inner) is Decides
    assert sum("Linear" in kind for kind in kinds(converted.inner)) == 2
    for scale in (1.0, 3.0):
        x = scale * torch.randn(2, 3, 8, 8)
        assert sqnr(converted(x), model(x)) > 15
    assert "left to Python: inner (a decision that depends on data)" in str(intaglio.summary(converted))


def test_a_model_whose_own_forward_decides_keeps_its_class() -> None:
    model = Decides().eval()
    converted = quantize(model, torch.randn(5, 4), torch.randn(5, 4) * 0.1)
    assert type(converted) is Decides
    assert sum("Linear" in kind for kind in kinds(converted)) == 2


def test_a_loop_over_a_size_and_a_number_from_data() -> None:
    def steps(m: Any, x: Tensor) -> Tensor:
        y = m.conv(x).mean((2, 3))
        for _ in range(x.shape[2] // 4):
            y = m.linear(y)
        return y * y.max().item()

    model = Model(steps)
    traced = trace(model, torch.randn(1, 3, 8, 8))
    assert traced.left == {"": "a Python number that depends on the size of the input"}
    assert {region.path for region in traced.regions} == {"conv", "linear"}
    x = torch.randn(2, 3, 16, 8)
    assert torch.equal(traced.model(x), model(x))


def test_state_that_a_forward_keeps_is_not_lost() -> None:
    model = Around(Remembers()).eval()
    traced = trace(copy.deepcopy(model), torch.randn(1, 3, 8, 8))
    assert traced.left == {"inner": "what it keeps in 'last' from one call to the next"}
    x = torch.randn(1, 3, 8, 8)
    for _ in range(3):
        assert torch.equal(traced.model(x), model(x))
    counting = Around(Counts()).eval()
    traced = trace(copy.deepcopy(counting), torch.randn(1, 3, 8, 8))
    assert traced.left == {"inner": "what it keeps in 'calls' from one call to the next"}
    for _ in range(3):
        assert torch.equal(traced.model(x), counting(x))
    writing = trace(Around(Writes()).eval(), torch.randn(1, 3, 8, 8))
    assert writing.left == {"inner": "a tensor of the model that it changes in place"}


def test_einops() -> None:
    model = Model(lambda m, x: m.linear(einops.rearrange(m.conv(x), "b c h w -> b (h w) c")))
    traced = trace(model, torch.randn(1, 3, 8, 8))
    assert isinstance(traced.model, fx.GraphModule)
    assert all("einops" in place for place in traced.left)
    x = torch.randn(2, 3, 6, 10)
    assert torch.equal(traced.model(x), model(x))


# ---- Arguments -------------------------------------------------------------------------------------------


class Arguments(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(
        self, x: Tensor, mask: Tensor | None = None, *, scale: float = 1.0, flag: bool = False, **more: Any
    ) -> Any:
        y = self.linear(x) * scale
        if mask is not None:
            y = y.masked_fill(mask, 0.0)
        if "bias" in more:
            y = y + more["bias"]
        return {"y": y, "flag": flag} if flag else y


def test_arguments_of_every_kind() -> None:
    model = Arguments().eval()
    mask = torch.rand(3, 4) > 0.5
    traced = trace(model, torch.randn(3, 4), mask, scale=0.5, flag=True, bias=torch.ones(4))
    assert isinstance(traced.model, fx.GraphModule)
    x, bias = torch.randn(5, 4), torch.randn(4)
    mask = torch.rand(5, 4) > 0.5
    found = traced.model(x, mask=mask, scale=3.0, flag=True, bias=bias)
    assert torch.equal(found["y"], model(x, mask, scale=3.0, bias=bias))


@pytest.mark.parametrize(
    "call",
    [
        lambda m, x: m(x, torch.ones(3, 4, dtype=torch.bool)),
        lambda m, x: m(x, flag=True),
        lambda m, x: m(x, bias=torch.ones(4)),
    ],
    ids=["a mask", "a flag", "a further argument"],
)
def test_a_call_unlike_the_example_is_refused_in_words(call: Any) -> None:
    traced = trace(Arguments().eval(), torch.randn(3, 4))
    with pytest.raises(intaglio.InputError, match="prepare it with example_inputs like this call's"):
        call(traced.model, torch.randn(3, 4))


def test_an_argument_of_the_example_that_is_missing_is_refused_in_words() -> None:
    traced = trace(Arguments().eval(), torch.randn(3, 4), torch.zeros(3, 4, dtype=torch.bool))
    with pytest.raises(intaglio.InputError, match="'mask' is None in this call, but it was given"):
        traced.model(torch.randn(3, 4))


def test_answers_of_a_class_of_their_own() -> None:
    traced = trace(Answering(), torch.randn(3, 4))
    found = traced.model(torch.randn(5, 4))
    assert type(found) is Answers
    assert found["y"].shape == (5, 4)


def test_sizes_that_may_change_are_found_by_trying() -> None:
    model = Model(lambda m, x: m.conv(x))
    calls = vary_sizes(model, Call((torch.randn(2, 3, 8, 6),), {}))
    assert [tuple(call.args[0].shape) for call in calls] == [(2, 3, 8, 6), (3, 3, 40, 38), (2, 3, 13, 11)]


def test_tracing_leaves_no_mark_on_the_model() -> None:
    def remember(m: Any, x: Tensor) -> Tensor:
        m.last = m.conv(x)
        return m.last * 2

    model = Model(remember)
    x = torch.randn(2, 3, 8, 8)
    before = x.clone()
    prepared = intaglio.prepare_fx(model, intaglio.get_default_qconfig_mapping(), (x,))
    prepared(x)
    assert torch.equal(x, before)
    assert not hasattr(model, "last")
