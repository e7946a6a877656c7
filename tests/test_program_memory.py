"""Arenas: nothing lies where something else that is needed lies, and little room is lost; weights are shared;
what `memory` and `profile` say."""

from __future__ import annotations

import gc
import itertools
import json
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import intaglio
from intaglio.runtime.array import Array, Buffer
from intaglio.runtime.calls import Call, HostCall
from intaglio.runtime.memory import lay_out
from tests.program_models import (
    IMAGE_MODELS,
    Branches,
    PreNorm,
    Recurrent,
    Residual,
    converted,
    converted_fx,
    dynamic,
    image,
    image_model,
    same_bits,
)
from tests.test_program import Steps
from tests.test_program_models import small_minilm

# ---- Laying out --------------------------------------------------------------------------------------------


def buffer(size: int) -> Array:
    return Array(Buffer("arena", size), (size,), (1,), "uint8")


Life = tuple[int, int, int]  # bytes, first call, last call


@st.composite
def lives(draw: st.DrawFn) -> list[Life]:
    calls = draw(st.integers(1, 24))
    life = st.tuples(st.integers(0, 5000), st.integers(0, calls - 1), st.integers(0, calls - 1))
    found = draw(st.lists(life, min_size=1, max_size=40))
    return [(size, min(a, b), max(a, b)) for size, a, b in found]


def placed(found: list[Life]) -> tuple[Any, list[Array]]:
    """The arena of buffers that live so long."""
    arrays = [buffer(size) for size, _, _ in found]
    calls: list[Call | HostCall] = []
    for moment in range(max(last for _, _, last in found) + 1):
        writes = [x for x, (_, first, _) in zip(arrays, found, strict=True) if first == moment]
        reads = [x for x, (_, first, last) in zip(arrays, found, strict=True) if first < moment <= last]
        calls.append(Call("any", "any", {"reads": reads, "writes": writes}, ("writes",)))
    return lay_out(calls), arrays


@settings(max_examples=150)
@given(lives())
def test_no_two_live_buffers_overlap(found: list[Life]) -> None:
    arena, arrays = placed(found)
    places = [
        (arena.offset_of(x.buffer), arena.offset_of(x.buffer) + size, first, last)
        for x, (size, first, last) in zip(arrays, found, strict=True)
    ]
    for i, (begin, end, first, last) in enumerate(places):
        assert begin % 64 == 0
        assert end <= arena.bytes
        for other_begin, other_end, other_first, other_last in places[:i]:
            if first <= other_last and other_first <= last:
                assert end <= other_begin or other_end <= begin or begin == end or other_begin == other_end
    moments = range(max(last for _, _, last in found) + 1)
    rooms = [(-(-size // 64) * 64, first, last) for size, first, last in found]
    live = [sum(room for room, first, last in rooms if first <= moment <= last) for moment in moments]
    assert arena.largest_live == max(live)
    # Greedy placement by size: never very far from what is needed at one moment.
    assert arena.largest_live <= arena.bytes <= 3 * arena.largest_live


def test_a_row_of_calls_takes_two_places() -> None:
    found = [(1000, i, i + 1) for i in range(50)]
    arena, _ = placed(found)
    assert arena.bytes == arena.largest_live == 2 * 1024


def test_nothing_takes_nothing() -> None:
    assert (lay_out([]).bytes, lay_out([]).largest_live) == (0, 0)


MODELS: dict[str, Any] = {
    **{kind.__name__: (lambda kind=kind: image_model(kind), image) for kind in IMAGE_MODELS},
    "Branches": (lambda: converted_fx(Branches(), image(4)), image),
    "PreNorm": (lambda: dynamic(PreNorm(64, 4, 2)), lambda: torch.randn(2, 20, 64)),
    "Recurrent": (lambda: dynamic(Recurrent()), lambda: torch.randn(2, 7, 6)),
    "MiniLM": (small_minilm, lambda: torch.randint(0, 30, (2, 12))),
}


@pytest.mark.parametrize("name", MODELS)
def test_arenas_are_tight(name: str) -> None:
    make, inputs = MODELS[name]
    program = intaglio.compile(make())
    program(inputs())
    memory = program.memory
    assert memory.weights > 0
    assert memory.arenas == memory.plans == 1
    assert 0 < memory.largest_live <= memory.arena <= 1.2 * memory.largest_live


# ---- Weights -----------------------------------------------------------------------------------------------


def constants(program: intaglio.Program, *inputs: Any) -> set[int]:
    calls = program.plan_for(*inputs).calls
    return {a.buffer.number for call in calls for a in call.read() if a.buffer.home == "constant"}


def test_programs_share_the_weights_of_their_model() -> None:
    model, x = dynamic(nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))), torch.randn(3, 8)
    first, second = intaglio.compile(model), intaglio.compile(model)
    packed = {module.packed.data_ptr() for module in model}  # type: ignore[union-attr]
    assert constants(first, x) == constants(second, x) == packed
    assert constants(first, x[:1]) == packed
    before = first.memory.weights
    first(x[:2])
    assert first.memory.weights == before


def test_images_share_the_packed_weights() -> None:
    model: Any = image_model(Residual)
    program = intaglio.compile(model)
    packed = {
        m.packed.data_ptr() for m in model.modules() if isinstance(getattr(m, "packed", None), torch.Tensor)
    }
    assert packed
    assert packed <= constants(program, image())


@pytest.mark.parametrize("name", ["Residual", "PreNorm", "Recurrent"])
def test_a_program_outlives_its_model(name: str) -> None:
    make, inputs = MODELS[name]
    model, x = make(), inputs()
    program = intaglio.compile(model)
    expected = program(x)
    del model
    gc.collect()
    noise = [torch.randn(100, 100) for _ in range(50)]  # over what would be freed
    assert len(noise) == 50
    assert same_bits(program(x), expected)
    assert same_bits(
        program(x[:1]), type(expected)(expected[:1]) if isinstance(expected, tuple) else expected[:1]
    )


def test_a_program_that_is_dropped_goes_with_its_plans() -> None:
    program = intaglio.compile(dynamic(nn.Sequential(nn.Linear(8, 8))))
    plan = weakref.ref(program.plan_for(torch.randn(2, 8)))
    assert plan() is not None
    del program
    gc.collect()
    assert plan() is None


def test_results_are_memory_of_their_own() -> None:
    model, x = dynamic(nn.Sequential(nn.Linear(8, 8))), torch.randn(3, 8)
    program = intaglio.compile(model)
    first = program(x)
    kept = first.clone()
    program(x * 2)
    assert torch.equal(first, kept)
    assert first.data_ptr() != program(x).data_ptr()


def test_inputs_are_not_written() -> None:
    for name in ("Residual", "PreNorm", "Recurrent"):
        make, inputs = MODELS[name]
        x = inputs()
        before = x.clone()
        intaglio.compile(make())(x)
        assert torch.equal(x, before)


# ---- Files -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
def test_models_that_were_loaded(name: str, tmp_path: Path) -> None:
    make, inputs = MODELS[name]
    model, x = make(), inputs()
    intaglio.save(model, tmp_path / "model")
    loaded = intaglio.compile(intaglio.load(tmp_path / "model"))
    expected = intaglio.compile(model)
    assert same_bits(loaded(x), expected(x))
    assert same_bits(loaded(x[:1]), expected(x[:1]))
    assert loaded.model.name == expected.model.name


def test_a_program_is_of_one_state_of_its_model() -> None:
    model, before = image_model(Residual), image_model(Residual)
    program = intaglio.compile(model)
    program(image())
    model.load_state_dict(converted(Residual(), image(4, seed=9)).state_dict())
    other = image(3)
    found = program(other)
    assert same_bits(found, before(other)) or same_bits(found, model(other))


# ---- Profiles ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["Residual", "PreNorm", "Recurrent", "MiniLM"])
def test_profiles_have_a_row_for_each_call(name: str, tmp_path: Path) -> None:
    make, inputs = MODELS[name]
    program, x = intaglio.compile(make()), inputs()
    native = [call for call in program.plan_for(x).calls if isinstance(call, Call)]
    profile = program.profile(x, repetitions=3)
    assert [step.kernel for step in profile.steps] == [call.driver for call in native]
    assert [step.label for step in profile.steps] == [call.label for call in native]
    assert all(step.seconds > 0 and step.bytes > 0 for step in profile.steps)
    assert any(step.operations > 0 for step in profile.steps)
    assert profile.seconds == pytest.approx(sum(step.seconds for step in profile.steps))
    assert profile.peak > 0
    lines = str(profile).splitlines()
    assert len(lines) == len(native) + 2  # a head, and the sum
    assert lines[-1].startswith("all")
    for line, step in zip(lines[1:-1], profile.steps, strict=True):
        assert step.label[-44:] in line
        assert step.kernel[:18] in line
    profile.to_chrome_trace(tmp_path / "trace.json")
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    assert [(e["name"], e["cat"], e["ph"]) for e in events] == [(c.label, c.driver, "X") for c in native]
    assert all(e["dur"] > 0 for e in events)
    assert all(a["ts"] <= b["ts"] for a, b in itertools.pairwise(events))


def test_profiles_of_models_that_torch_helps() -> None:
    program = intaglio.compile(dynamic(Steps(lambda m, x: m.a(torch.erf(m.b(x))))))
    profile = program.profile(torch.randn(4, 8), repetitions=2)
    assert [step.label for step in profile.steps] == ["b", "a"]
    assert program.left_to_host == {"torch.erf": "no kernel computes it"}
