"""What holds for every registered rule, proved on the rule's own examples.

A rule that is added is covered here by itself: for each of its weight types and each of its examples the
quantized module must be accurate, give the same bits on every instruction set and number of threads, copy,
pickle, save and load, be traced, exported and compiled, refuse bad input, and serve several threads.
"""

from __future__ import annotations

import copy
import functools
import io
import json
import pickle
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

import intaglio
from intaglio import InputError, _core, quantize_dynamic
from intaglio.nn.normed import folded
from intaglio.nn.quantized import QuantizedModule, quantized_class
from intaglio.qconfig import dynamic_qconfig_of
from intaglio.rules import OpRule, all_rules
from tests.op_recorder import Recorder
from tests.test_static_ops_export import calls_of_static_ops

FLOORS = {"float16": 55.0, "uint4": 18.0}
"""Decibels where the type alone decides: 11 bits for all the rule's floor asks, and no more than 4 bits."""

Inputs = tuple[Any, ...]


class Holder(nn.Module):
    """Stands for the user's model: one layer, under a name."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, *inputs: Any) -> Any:
        return self.layer(*inputs)


@dataclass(frozen=True)
class Case:
    rule: OpRule
    dtype: str
    example: int

    def __str__(self) -> str:
        return f"{self.rule.name}-{self.dtype}-{self.example}"

    def make(self, seed: int = 0) -> tuple[nn.Module, nn.Module, Inputs]:
        """The float model, the quantized one, and inputs; another seed makes other weights."""
        torch.manual_seed(seed)
        layer, inputs = self.rule.examples[self.example]()
        model = Holder(layer).eval()
        return model, quantize_dynamic(model, {type(layer)}, dtype=self.dtype), inputs

    def tensors_only(self) -> bool:
        """Whether the inputs are plain tensors, as tracing and exporting need them."""
        return all(type(item) is Tensor for item in self.rule.examples[self.example]()[1])

    def takes_floats(self) -> bool:
        first = self.rule.examples[self.example]()[1][0]
        return isinstance(first, Tensor) and first.is_floating_point()


def all_cases() -> Iterator[Case]:
    for rule in all_rules():
        for dtype in sorted(rule.weight_dtypes):
            for example, make in enumerate(rule.examples):
                if rule.refuse(make()[0], dynamic_qconfig_of(dtype)) is None:
                    yield Case(rule, dtype, example)


CASES = list(all_cases())
every_case = pytest.mark.parametrize("case", CASES, ids=str)
cases_of_tensors = pytest.mark.parametrize("case", [c for c in CASES if c.tensors_only()], ids=str)
cases_of_floats = pytest.mark.parametrize("case", [c for c in CASES if c.takes_floats()], ids=str)


def tensors(output: Any) -> list[Tensor]:
    return [leaf.detach() for leaf in tree_leaves(output) if isinstance(leaf, Tensor)]


def same_bits(a: Any, b: Any) -> bool:
    pairs = list(zip(tensors(a), tensors(b), strict=True))
    return bool(pairs) and all(x.dtype == y.dtype and torch.equal(x, y) for x, y in pairs)


def quantized_parts(model: nn.Module) -> list[QuantizedModule]:
    """The outermost quantized modules."""
    parts = [(path, m) for path, m in model.named_modules() if isinstance(m, QuantizedModule)]
    return [m for path, m in parts if not any(path.startswith(f"{other}.") for other, _ in parts)]


def test_each_rule_has_a_case_for_each_of_its_types() -> None:
    found = {(case.rule.name, case.dtype) for case in CASES}
    assert found == {(rule.name, dtype) for rule in all_rules() for dtype in rule.weight_dtypes}


@every_case
def test_accuracy(case: Case) -> None:
    model, quantized, inputs = case.make()
    assert quantized_parts(quantized)
    floor = FLOORS.get(case.dtype, case.rule.floor_sqnr)
    for found, expected in zip(tensors(quantized(*inputs)), tensors(model(*inputs)), strict=True):
        assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
        if expected.is_floating_point():
            sqnr = 20 * torch.log10(expected.norm() / (found - expected).norm())
            assert float(sqnr) >= floor


@every_case
def test_same_bits_on_every_instruction_set_and_number_of_threads(case: Case) -> None:
    _, quantized, inputs = case.make()
    expected = quantized(*inputs)
    for isa in _core.available_isas():
        _core.force_isa(isa)
        repacked = pickle.loads(pickle.dumps(quantized))  # packs for the instruction set in use
        for threads in (1, 3):
            torch.set_num_threads(threads)
            assert same_bits(repacked(*inputs), expected), (isa, threads)


PACKED_MAGIC = (b"inlg", b"hnlg", b"conv", b"cell")


@every_case
def test_weights_packed_for_a_cpu_that_is_not_here_can_be_unpacked(case: Case) -> None:
    # An exported program that moved to another machine carries packed weights with it.
    _, quantized, _ = case.make()
    expected = {key: value.clone() for key, value in quantized.state_dict().items()}
    for isa in _core.available_isas():
        _core.force_isa(isa)
        foreign = pickle.loads(pickle.dumps(quantized))
        codes = [b for b in foreign.buffers() if b.dtype is torch.uint8 and b.dim() == 1]
        packed = [b for b in codes if bytes(b[:4].tolist()) in PACKED_MAGIC]
        assert bool(packed) == (not case.rule.name.startswith("Embedding"))  # tables of rows are one for all
        for buffer in packed:
            buffer[4:8] = 7  # the number of no instruction set
        state = foreign.state_dict()
        assert state.keys() == expected.keys()
        assert all(torch.equal(state[key], expected[key]) for key in state)


# ---- State ------------------------------------------------------------------------------------------------


@every_case
def test_deepcopy_is_independent(case: Case) -> None:
    # pytorch/pytorch#51216, huggingface/optimum-quanto#358
    _, quantized, inputs = case.make()
    expected = quantized(*inputs)
    copied = copy.deepcopy(quantized)
    assert same_bits(copied(*inputs), expected)
    for buffer in quantized.buffers():
        buffer.zero_()
    assert same_bits(copied(*inputs), expected)


@every_case
def test_pickle(case: Case) -> None:
    # pytorch/pytorch#57352
    _, quantized, inputs = case.make()
    loaded = pickle.loads(pickle.dumps(quantized))
    assert same_bits(loaded(*inputs), quantized(*inputs))
    assert [m.path for m in quantized_parts(loaded)] == [m.path for m in quantized_parts(quantized)]


@every_case
def test_state_dict_holds_plain_tensors_and_loads_into_another_model(case: Case) -> None:
    # pytorch/pytorch#32691: state dicts held packed script objects that only the same classes could load.
    _, quantized, inputs = case.make()
    _, other, _ = case.make(seed=1)
    expected = quantized(*inputs)
    assert not same_bits(other(*inputs), expected)
    file = io.BytesIO()
    torch.save(quantized.state_dict(), file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    assert all(not tensor.is_quantized and tensor.is_contiguous() for tensor in state.values())
    assert other.load_state_dict(state) == ([], [])
    assert same_bits(other(*inputs), expected)


@every_case
def test_a_state_dict_that_does_not_fit_is_refused_and_loads_nothing(case: Case) -> None:
    _, quantized, inputs = case.make()
    expected, state = quantized(*inputs), quantized.state_dict()
    name = next(iter(state))
    with pytest.raises(RuntimeError, match=rf"Missing key\(s\) in state_dict: .*{name}"):
        quantized.load_state_dict({key: value for key, value in state.items() if key != name})
    with pytest.raises(RuntimeError, match=rf"Unexpected key\(s\) in state_dict: .*{name}_of_old"):
        quantized.load_state_dict(state | {f"{name}_of_old": torch.zeros(1)})
    with pytest.raises(RuntimeError, match=rf"{name}: the state dict has \(1,\) torch.int64"):
        quantized.load_state_dict(state | {name: torch.zeros(1, dtype=torch.int64)})
    assert same_bits(quantized(*inputs), expected)


@every_case
def test_plain_state_and_config_are_all_there_is(case: Case) -> None:
    _, quantized, inputs = case.make()
    expected = quantized(*inputs)
    assert len(quantized_parts(quantized)) == 1
    for part in quantized_parts(quantized):
        assert quantized_class(part.kind) is type(part)
        config = json.loads(json.dumps(part.config()))
        state, spec = part.plain_state(), part.state_spec()
        assert {name: (tuple(t.shape), t.dtype) for name, t in state.items()} == spec
        assert part.plain_bytes() == sum(t.numel() * t.element_size() for t in state.values())
        assert list(part.parameters()) == []
        rebuilt = type(part).from_config(config)
        rebuilt.load_plain_state(state)
        quantized.layer = rebuilt
    assert same_bits(quantized(*inputs), expected)


@every_case
def test_a_twin_shares_its_weights(case: Case) -> None:
    _, quantized, inputs = case.make()
    (part,) = quantized_parts(quantized)
    twin = part.twin("elsewhere")
    assert (twin.path, type(twin)) == ("elsewhere", type(part))
    assert [b.data_ptr() for b in twin.buffers()] == [b.data_ptr() for b in part.buffers()]
    assert same_bits(twin(*inputs), quantized(*inputs))


@every_case
def test_summary_lists_it_with_its_bytes(case: Case) -> None:
    model, quantized, _ = case.make()
    (layer,) = intaglio.summary(quantized).layers
    (part,) = quantized_parts(quantized)
    assert (layer.path, layer.kind, layer.quantized) == (part.path, type(part).__name__, True)
    assert layer.bytes == part.plain_bytes() < layer.float_bytes
    parameters = folded(model.get_submodule("layer")).parameters()  # what replaces a batch norm has none
    assert layer.float_bytes == sum(p.numel() * p.element_size() for p in parameters)
    assert part.extra_repr() in repr(quantized)


# ---- Calls ------------------------------------------------------------------------------------------------


def widen(inputs: Inputs, dtype: torch.dtype) -> Inputs:
    cast = lambda x: x.to(dtype) if isinstance(x, Tensor) and x.is_floating_point() else x  # noqa: E731
    return tree_map(cast, inputs)


@cases_of_floats
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_other_float_types_are_computed_in_float32_and_given_back(case: Case, dtype: torch.dtype) -> None:
    _, quantized, inputs = case.make()
    inputs = widen(inputs, dtype)
    expected = quantized(*widen(inputs, torch.float32))
    found = quantized(*inputs)
    assert same_bits(found, widen(tree_leaves(expected), dtype))


@every_case
def test_layout_and_modes_do_not_matter(case: Case) -> None:
    _, quantized, inputs = case.make()
    expected = quantized(*inputs)

    def scatter(x: Any) -> Any:
        if type(x) is not Tensor or x.dim() == 0:
            return x
        wide = torch.zeros(*x.shape[:-1], 2 * x.shape[-1], dtype=x.dtype)
        wide[..., ::2] = x
        return wide[..., ::2]

    if case.tensors_only():
        assert same_bits(quantized(*map(scatter, inputs)), expected)
    with torch.no_grad():
        assert same_bits(quantized(*inputs), expected)
    with torch.inference_mode():
        assert same_bits(quantized(*inputs), expected)


@every_case
def test_inputs_are_not_written(case: Case) -> None:
    _, quantized, inputs = case.make()
    before = copy.deepcopy(inputs)
    quantized(*inputs)
    assert all(torch.equal(a, b) for a, b in zip(tensors(inputs), tensors(before), strict=True))


@every_case
def test_eight_threads_get_the_right_answers(case: Case) -> None:
    _, quantized, inputs = case.make()
    expected = quantized(*inputs)

    def call(_: int) -> bool:
        return all(same_bits(quantized(*inputs), expected) for _ in range(5))

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(call, range(8)))


@every_case
def test_training_mode_is_refused_by_name(case: Case) -> None:
    _, quantized, inputs = case.make()
    with pytest.raises(InputError, match=r"'layer[^']*' \(\w+\).*training mode: call model.eval\(\)"):
        quantized.train()(*inputs)


@cases_of_floats
def test_integers_and_other_objects_are_refused_by_name(case: Case) -> None:
    _, quantized, inputs = case.make()
    with pytest.raises(InputError, match=r"'layer[^']*' \(\w+\).*int64.*float"):
        quantized(inputs[0].long(), *inputs[1:])
    with pytest.raises(InputError, match=r"'layer[^']*' \(\w+\).*must be a torch.Tensor, not list"):
        quantized(inputs[0].tolist(), *inputs[1:])


@cases_of_floats
def test_gradients_are_refused_by_name(case: Case) -> None:
    _, quantized, inputs = case.make()
    for dtype in (torch.float32, torch.float64):
        x = inputs[0].to(dtype).requires_grad_()
        outputs = [t for t in tree_leaves(quantized(x, *widen(inputs[1:], dtype))) if isinstance(t, Tensor)]
        with pytest.raises(InputError, match="has no gradient"):
            sum(t.sum() for t in outputs).backward()


# ---- Tracing, exporting, compiling ------------------------------------------------------------------------


def with_arguments(layer: nn.Module, count: int) -> nn.Module:
    """A model with a forward of `count` named arguments, which fx can trace."""
    names = ", ".join(f"x{i}" for i in range(count))
    scope: dict[str, Callable[..., Any]] = {}
    exec(f"def forward(self, {names}):\n    return self.layer({names})", scope)
    return type("Traced", (Holder,), {"forward": scope["forward"]})(layer)


@cases_of_tensors
def test_fx_traces_it_as_one_node(case: Case) -> None:
    _, quantized, inputs = case.make()
    model = with_arguments(quantized.layer, len(inputs))
    traced = torch.fx.symbolic_trace(model)
    nodes = [node for node in traced.graph.nodes if node.op not in ("placeholder", "output")]
    assert [(node.op, node.target) for node in nodes] == [("call_module", "layer")]
    assert same_bits(traced(*inputs), model(*inputs))
    assert same_bits(copy.deepcopy(traced)(*inputs), model(*inputs))


@cases_of_tensors
def test_compile_without_a_break(case: Case) -> None:
    # pytorch/pytorch#100817, huggingface/optimum-quanto#221
    torch._dynamo.reset()
    _, quantized, inputs = case.make()
    compiled = torch.compile(quantized, fullgraph=True, backend="aot_eager", dynamic=True)
    with torch.no_grad():
        assert same_bits(compiled(*inputs), quantized(*inputs))


@cases_of_tensors
def test_export(case: Case) -> None:
    # pytorch/pytorch#130822, #157729
    _, quantized, inputs = case.make()
    program = torch.export.export(quantized, inputs)
    targets = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert any(target.startswith("intaglio.") for target in targets), targets
    assert same_bits(program.module()(*inputs), quantized(*inputs))


@every_case
def test_what_intercepts_ops_sees_them(case: Case) -> None:
    # Tracers and profilers that work by dispatch: a kernel called behind their back would be missing.
    _, quantized, inputs = case.make()
    expected = quantized(*inputs)
    with Recorder() as recorder:
        assert same_bits(quantized(*inputs), expected)
    assert recorder.calls


@functools.cache
def recorded_calls(case: Case) -> list[tuple[Any, tuple[Any, ...], dict[str, Any]]]:
    _, quantized, inputs = case.make()
    exported = torch.export.export(quantized, inputs).module()
    with Recorder() as recorder:
        exported(*inputs)
    return recorder.calls


@cases_of_tensors
def test_ops_obey_the_rules_of_torch_library(case: Case) -> None:
    calls = recorded_calls(case)
    assert calls
    for op, args, kwargs in calls:
        torch.library.opcheck(op, args, kwargs)


def test_every_op_is_reached_by_some_rule() -> None:
    defined = {name for name in torch._C._dispatch_get_all_op_names() if name.startswith("intaglio::")}
    reached = {op.name() for case in CASES if case.tensors_only() for op, _, _ in recorded_calls(case)}
    reached |= {op.name() for op, _, _ in calls_of_static_ops()}
    of_ties = {"intaglio::linear_rows"}  # takes two modules: tests/test_ties.py
    assert {name.split(".")[0] for name in reached} | of_ties == defined
