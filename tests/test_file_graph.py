"""Recorded forwards: what a graph can hold it computes exactly, and what it cannot hold is refused aloud."""

import math
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import intaglio
from intaglio.serialization.allowed_functions import _functions, _methods
from tests.file_models import assert_loads, assert_same, forward_with_assertions

Forward = Callable[..., Any]


def model_of(forward: Forward) -> nn.Module:
    """A quantized model with this forward, a linear layer of 8, a parameter, a buffer and a plain tensor."""

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear, self.norm = nn.Linear(8, 8), nn.LayerNorm(8)
            self.blocks = nn.ModuleDict({"first": nn.Sequential(nn.Linear(8, 8), nn.ReLU())})
            self.gain = nn.Parameter(torch.randn(8))
            self.register_buffer("table", torch.randn(40, 8), persistent=False)
            self.plain = torch.randn(8)
            self.cache: dict[str, Tensor] = {}
            self.calls = 0

    Model.forward = forward
    return intaglio.quantize_dynamic(Model().eval())


def helper(x: Tensor) -> Tensor:
    return x.clamp(-1, 1)


def shapes_and_slices(self, x):
    batch, time, _ = x.shape
    y = self.linear(x) + self.table[:time] * self.gain
    y = y.view(batch, time, 2, -1).permute(0, 2, 1, 3)[..., 1:, ::2]
    return y.reshape(batch, -1), x.size(0), time // 2


def constants(self, x):
    mask = torch.triu(torch.full((8, 8), float("-inf")), diagonal=1)
    scale = torch.tensor([0.5, -2.0])
    return self.linear(x) * self.plain + scale[0], F.softmax(mask, -1), math.sqrt(x.shape[-1])


def sized_factories(self, x):
    positions = torch.arange(x.size(1), device=x.device).unsqueeze(0)
    start = torch.zeros(x.size(0), 1, 8, dtype=x.dtype)
    return torch.cat([start, self.linear(x)], dim=1), positions, torch.ones(x.shape[1], x.shape[1]).tril()


def containers(self, x):
    first, *rest = [self.linear(x), self.norm(x)], x
    low, high = torch.chunk(first[0], 2, dim=-1)
    return {"pair": (low, high), "list": [first[1], {"none": None, "number": 1.5}], "rest": rest}


def functional_layers(self, x):
    y = F.layer_norm(F.gelu(self.linear(x), approximate="tanh"), [8], self.gain, None, 1e-6)
    y = F.dropout(y, 0.3, training=self.training) + F.linear(x, self.blocks["first"][0].weight.dequantize())
    return torch.einsum("bti,bsi->bts", y, y).masked_fill(x[:, :, 0].unsqueeze(1) > 0, -1e4).softmax(-1)


def chained_modules(self, x):
    for block in self.blocks.values():
        x = x + block(x)
    return helper(self.norm(x)) @ x.transpose(-1, -2) if isinstance(self.gain, Tensor) else x


def casts_and_masks(self, x):
    weights = (x > 0).to(torch.float64).sum(dim=(1, 2), keepdim=True).clamp(min=1.0)
    return (
        (self.linear(x.double()) / weights).type_as(x),
        x.new_zeros(x.shape),
        ~(x > 0),
        x.amax(-1, keepdim=True),
    )


def in_place_on_inputs_results(self, x):
    y = self.linear(x)
    y += 1
    y.mul_(2).relu_()
    return y


def asks_for_types(self, x):
    if not isinstance(x, Tensor) or isinstance(x, list) or not torch.is_tensor(x):
        raise TypeError("a tensor is needed")
    return self.linear(x) * self.gain if isinstance(self.gain, Tensor) else None


def asks_in_torchs_own_code(self, x):
    """torch's C++ code believes a value that says it is a tensor, and crashed."""
    powers = torch.pow(x, 3.0), torch.pow(2.0, x), torch.pow(x, x)
    chosen = torch.where(x > 0, x, self.gain), torch.where(x > 0, x, 0.0), torch.maximum(x, self.table[0])
    joined = torch.cat([x, self.norm(x)]), torch.stack((x, x)), torch.lerp(x, self.gain, 0.5)
    return self.linear(x), powers, chosen, joined, torch.addcmul(x, x, x, value=2), torch.full_like(x, 2.0)


GOOD = [
    shapes_and_slices, asks_in_torchs_own_code, constants, sized_factories, containers, chained_modules,
    casts_and_masks, in_place_on_inputs_results, asks_for_types,
]  # fmt: skip


@pytest.mark.parametrize("forward", GOOD, ids=lambda forward: forward.__name__)
def test_recorded(forward: Forward, tmp_path: Path) -> None:
    model = model_of(forward)
    described = intaglio.save(model, tmp_path / "model")
    assert described.recipe.structure.way == "graph"
    for batch, time in ((2, 5), (1, 9), (4, 1)):
        assert_loads(model, tmp_path / "model", (torch.randn(batch, time, 8),))
    assert not hasattr(model, "_tensor_constant0")
    assert_same(
        intaglio.load(tmp_path / "model", model=model)(torch.ones(2, 3, 8)), model(torch.ones(2, 3, 8))
    )


class Pair(NamedTuple):
    a: Tensor
    b: Tensor


def value_decides(self, x):
    return self.linear(x) if x.max() > 0 else x


def size_decides(self, x):
    return self.linear(x) if x.shape[0] > 3 else x


def loops_over_input(self, x):
    return [self.linear(row) for row in x]


def leaves_torch(self, x):
    return self.linear(torch.from_numpy(x.detach().numpy()))


def keeps_state(self, x):
    self.plain = self.linear(x)
    return self.plain


def counts_calls(self, x):
    self.calls += 1
    return self.linear(x) * self.calls


def asks_for_type_of_result(self, x):
    y = self.linear(x)
    return y[0] if isinstance(y, tuple) else y


def asks_for_parameter(self, x):
    return self.linear(x) * self.gain if isinstance(self.gain, nn.Parameter) else x


def fills_cache(self, x):
    if "mask" not in self.cache:
        self.cache["mask"] = torch.ones(8)
    return self.linear(x) * self.cache["mask"]


def returns_user_type(self, x):
    return Pair(self.linear(x), x)


def changes_a_constant(self, x):
    out = torch.zeros(8, 8)
    out[0] = x[0, 0]
    return self.linear(x) + out.sum()


def changes_plain_tensor(self, x):
    self.plain.add_(1)
    return self.linear(x) + self.plain


def fills_randomly(self, x):
    return self.linear(x) + torch.empty(8).normal_()


def writes_out(self, x):
    return torch.add(self.linear(x), 1, out=torch.empty(2, 5, 8))


def runs_under_autocast(self, x):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return x @ x.transpose(-1, -2)


BAD = [
    (value_decides, "control flow"),
    (size_decides, "control flow"),
    (loops_over_input, "cannot be traced"),
    (leaves_torch, "np.ndarray"),
    (keeps_state, "changes 'plain'"),
    (counts_calls, "changes 'calls'"),
    (asks_for_type_of_result, "asks for the type"),
    (asks_for_parameter, "asks for the type"),
    (fills_cache, "changes 'cache'"),
    (returns_user_type, "Pair"),
    (changes_a_constant, "in place|__setitem__"),
    (changes_plain_tensor, "in place"),
    (fills_randomly, "random"),
    (writes_out, "in place"),
    (runs_under_autocast, "autocast"),
]


@pytest.mark.parametrize(("forward", "reason"), BAD, ids=lambda value: getattr(value, "__name__", ""))
def test_refused(forward: Forward, reason: str, tmp_path: Path) -> None:
    model = model_of(forward)
    plain = model.plain.clone()
    with pytest.warns(UserWarning, match=reason):
        described = intaglio.save(model, tmp_path / "model")
    assert not described.loads_without_class
    assert torch.equal(model.plain, plain)
    assert model.calls == 0
    assert not model.cache
    with pytest.raises(intaglio.FileFormatError, match=reason):
        intaglio.load(tmp_path / "model")


def test_random_numbers_stay_random(tmp_path: Path) -> None:
    model = model_of(lambda self, x: self.linear(x) + torch.randn(8) + torch.rand_like(x))
    intaglio.save(model, tmp_path / "model")
    loaded = intaglio.load(tmp_path / "model")
    x = torch.randn(2, 3, 8)
    assert not torch.equal(loaded(x), loaded(x))
    torch.manual_seed(1)
    expected = model(x)
    torch.manual_seed(1)
    assert_same(loaded(x), expected)


def test_assertions_are_kept(tmp_path: Path) -> None:
    model = model_of(forward_with_assertions)
    intaglio.save(model, tmp_path / "model")
    loaded = assert_loads(model, tmp_path / "model", (torch.randn(2, 3, 8),))
    with pytest.raises(AssertionError, match="a batch is needed"):
        loaded(torch.randn(3, 8))


def test_optional_arguments(tmp_path: Path) -> None:
    def forward(self, x, mask=None, bias=None, *, scale=2.0, flag=False):
        y = self.linear(x) * scale
        if mask is not None:
            y = y * mask
        return y if bias is None else (y + bias, flag)

    model = model_of(forward)
    described = intaglio.save(model, tmp_path / "model")
    assert len(described.recipe.structure.graph.variants) == 4
    loaded = intaglio.load(tmp_path / "model")
    x, mask, bias = torch.randn(2, 3, 8), torch.ones(8), torch.randn(8)
    for kwargs in (
        {},
        {"mask": mask},
        {"bias": bias},
        {"mask": mask, "bias": bias},
        {"mask": None, "scale": 2.0},
    ):
        assert_same(loaded(x, **kwargs), model(x, **kwargs))
    with pytest.raises(intaglio.InputError, match=r"recorded with scale=2\.0.*load the file with model="):
        loaded(x, scale=3.0)
    with pytest.raises(intaglio.InputError, match="recorded with flag=False"):
        loaded(x, flag=True)


def test_a_choice_that_cannot_be_recorded(tmp_path: Path) -> None:
    def forward(self, x, length=None):
        return self.linear(x if length is None or length > 3 else x[:, :2])

    model = model_of(forward)
    described = intaglio.save(model, tmp_path / "model")
    assert "but not with length" in described.how_to_load
    loaded = intaglio.load(tmp_path / "model")
    x = torch.randn(2, 5, 8)
    assert_same(loaded(x), model(x))
    with pytest.raises(intaglio.InputError, match=r"not recorded with length given.*control flow.*model="):
        loaded(x, 4)


def test_many_optional_arguments(tmp_path: Path) -> None:
    def forward(self, x, a=None, b=None, c=None, d=None):
        x = self.linear(x)
        return [x if other is None else x + other for other in (a, b, c, d)]

    model = model_of(forward)
    intaglio.save(model, tmp_path / "model")
    loaded = intaglio.load(tmp_path / "model")
    x = torch.randn(1, 2, 8)
    for kwargs in ({}, {"c": x}, {"a": x, "b": x, "c": x, "d": x}):
        assert_same(loaded(x, **kwargs), model(x, **kwargs))
    with pytest.raises(intaglio.InputError, match="not recorded with a, b given"):
        loaded(x, x, x)


def test_an_input_that_was_asked_for_its_type(tmp_path: Path) -> None:
    def forward(self, x, state=None):
        if state is not None and not isinstance(state, Tensor):
            state = state[0]
        return self.linear(x) if state is None else self.linear(x) + state

    model = model_of(forward)
    intaglio.save(model, tmp_path / "model")
    loaded = intaglio.load(tmp_path / "model")
    x = torch.randn(2, 8)
    assert_same(loaded(x, x), model(x, x))
    with pytest.raises(intaglio.InputError, match=r"'state' must be a torch.Tensor, not tuple.*model="):
        loaded(x, (x,))


def test_replaced_forward_and_hooks_are_recorded(tmp_path: Path) -> None:
    model = model_of(lambda self, x: self.linear(x))
    model.forward = types.MethodType(lambda self, x: self.norm(x) + 1, model)
    model.register_forward_hook(lambda module, args, output: output * 3)
    model.blocks["first"].register_forward_pre_hook(lambda module, args: None)
    intaglio.save(model, tmp_path / "model")
    assert_loads(model, tmp_path / "model", (torch.randn(2, 8),))


def test_weight_norm_and_subclasses_are_looked_into(tmp_path: Path) -> None:
    class Doubled(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * 2

    model = nn.Sequential(
        nn.Linear(8, 8), Doubled(8, 8), nn.utils.parametrizations.weight_norm(nn.Conv1d(4, 4, 3))
    )
    model = intaglio.quantize_dynamic(model.eval(), {"0"})
    intaglio.save(model, tmp_path / "model")
    assert_loads(model, tmp_path / "model", (torch.randn(4, 8),))


def test_odd_names(tmp_path: Path) -> None:
    model = nn.ModuleDict({"conv 1/a-b": nn.Linear(8, 8), "0": nn.Linear(8, 8)})

    class Named(nn.ModuleDict):
        def forward(self, x: Tensor) -> Tensor:
            return self["0"](self["conv 1/a-b"](x))

    quantized = intaglio.quantize_dynamic(Named(model).eval())
    intaglio.save(quantized, tmp_path / "model")
    assert_loads(quantized, tmp_path / "model", (torch.randn(4, 8),))

    quantized = intaglio.quantize_dynamic(
        Named({'x");import os;("': nn.Linear(8, 8), "0": nn.Linear(8, 8)}).eval()
    )
    with pytest.warns(UserWarning, match="only be loaded with"):
        intaglio.save(quantized, tmp_path / "model")


FORBIDDEN = """
    load save from_file compile jit hub package utils set_default_device set_num_threads manual_seed
    from_numpy frombuffer set_printoptions use_deterministic_algorithms classes ops library import_module
    vmap func seed fork open exec eval system handle_torch_function has_torch_function boolean_dispatch
"""
FORBIDDEN_METHODS = """
    numpy tolist data_ptr storage untyped_storage apply_ map_ register_hook backward set_ resize_
    share_memory_ requires_grad_ cuda pin_memory record_stream module_load
"""


def test_nothing_that_reaches_beyond_tensors_is_allowed() -> None:
    """A list of names to be sure of; the rest follows from `torch.overrides`."""
    names = {name.rpartition(".")[2] for name in _functions()}
    assert names.isdisjoint(FORBIDDEN.split())
    assert _methods().isdisjoint(FORBIDDEN_METHODS.split())
    assert {n for n in (*names, *_methods()) if n.startswith("_")} == {"_assert", "_weight_norm"}
    assert {f for f in _functions().values() if isinstance(f, type)} == {bool, float, int}
    assert all(callable(f) for f in _functions().values())
