"""Saved models on numpy arrays: the program's bits; files that are damaged or made to harm are errors."""

from __future__ import annotations

import contextlib
import json
import random
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tools.write_runtime_models import flat, make
from torch import nn

import intaglio
import intaglio.runtime
from intaglio.errors import FileFormatError, InputError
from tests.forging import forge, put_together, take_apart, with_recipe
from tests.program_models import IMAGE_MODELS, Recurrent, dynamic, image, image_model

MODELS = {name: (model, inputs) for name, model, inputs in make()}


def saved(model: nn.Module, folder: Path) -> Path:
    path = folder / "model.safetensors"
    intaglio.save(model, path)
    return path


def arrays(result: Any) -> list[np.ndarray]:
    return [result] if isinstance(result, np.ndarray) else [a for part in result for a in arrays(part)]


def agree(found: Any, expected: Any) -> bool:
    pairs = zip(arrays(found), flat(expected), strict=True)
    return all(
        a.dtype.name in str(b.dtype) and np.array_equal(a, b.numpy(), equal_nan=True) for a, b in pairs
    )


@pytest.mark.parametrize("name", MODELS)
def test_the_bits_of_the_program_for_any_threads(name: str, tmp_path: Path) -> None:
    model, inputs = MODELS[name]
    path = saved(model, tmp_path)
    expected = intaglio.compile(model)(*inputs)
    for threads in (1, 2, 3):
        assert agree(intaglio.runtime.load(path, threads=threads)(*[x.numpy() for x in inputs]), expected)


@pytest.mark.parametrize("kind", IMAGE_MODELS, ids=lambda kind: kind.__name__)
def test_images(kind: Any, tmp_path: Path) -> None:
    model = image_model(kind)
    program = intaglio.runtime.load(saved(model, tmp_path))
    if intaglio.compile(model, image()).left_to_host:
        with pytest.raises(InputError, match="torch"):
            program(image().numpy())
        return
    # Tables that numpy computes may differ from torch's by a step, here and there.
    for a, b in zip(arrays(program(image().numpy())), flat(model(image())), strict=True):
        assert np.abs(a - b.numpy()).max() <= 0.05 * np.abs(b.numpy()).max()


def test_a_program_is_saved_as_its_model(tmp_path: Path) -> None:
    model = dynamic(Recurrent())
    program, x = intaglio.compile(model), torch.randn(2, 7, 6)
    path = tmp_path / "program.safetensors"
    intaglio.save(program, path)
    assert torch.equal(flat(intaglio.load(path)(x))[0], flat(model(x))[0])
    assert agree(intaglio.runtime.load(path)(x.numpy()), program(x))


def test_shapes_strides_and_threads(tmp_path: Path) -> None:
    model, (x,) = MODELS["images"]
    program = intaglio.runtime.load(saved(model, tmp_path), threads=2)
    whole = model(x).numpy()
    assert np.array_equal(program(x.numpy()[:1]), whole[:1])
    assert np.array_equal(program(x.numpy()[:, :, ::1].copy("F")), whole)
    assert program(x.numpy()[:0]).shape == (0, 10)
    wrong: list[int] = []

    def call(seed: int) -> None:
        own = torch.randn(2, 3, 33, 30, generator=torch.Generator().manual_seed(seed))
        expected = model(own).numpy()
        wrong.extend(seed for _ in range(20) if not np.array_equal(program(own.numpy()), expected))

    threads = [threading.Thread(target=call, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert program.memory.arena <= 1.2 * program.memory.largest_live


@pytest.mark.parametrize(
    ("x", "said"),
    [
        (np.zeros((1, 3, 33, 30)), "float64"),
        (np.zeros((1, 4, 33, 30), np.float32), "channels|shape"),
        (np.zeros((1, 3, 33, 30), ">f4"), "dtype"),
        (np.zeros((1, 3, 33, 30), np.float32)[:, :, ::-1], "backwards"),
        ("text", "str|text|unexpected|value"),
    ],
)
def test_wrong_inputs_are_refused(x: Any, said: str, tmp_path: Path) -> None:
    program = intaglio.runtime.load(saved(MODELS["images"][0], tmp_path))
    with pytest.raises((InputError, FileFormatError), match=rf"(?s){said}"):
        program(x)
    with pytest.raises(InputError):
        program()


class NeedsTorch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x):
        return torch.fft.rfft(self.linear(x)).abs()


def test_a_step_that_needs_torch_is_named(tmp_path: Path) -> None:
    path = saved(intaglio.quantize_dynamic(NeedsTorch().eval()), tmp_path)
    with pytest.raises(InputError, match=r"rfft.*torch"):
        intaglio.runtime.load(path)(np.zeros((2, 4), np.float32))


# ---- Files -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=MODELS)
def good(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, bytes]:
    """Inputs of a model, and the bytes of its file."""
    model, inputs = MODELS[request.param]
    return [x.numpy() for x in inputs], saved(model, tmp_path_factory.mktemp("good")).read_bytes()


def run(data: bytes, inputs: Any, folder: Path) -> Any:
    path = folder / "bad.safetensors"
    path.write_bytes(data)
    return intaglio.runtime.load(path, threads=1)(*inputs)


def test_cut_and_flipped_files(good: tuple[Any, bytes], tmp_path: Path) -> None:
    inputs, data = good
    expected = arrays(run(data, inputs, tmp_path))
    chance = random.Random(0)
    for _ in range(60):
        with pytest.raises(FileFormatError):
            run(data[: chance.randrange(len(data))], inputs, tmp_path)
        at = chance.randrange(len(data))
        flipped = data[:at] + bytes([data[at] ^ (1 << chance.randrange(8))]) + data[at + 1 :]
        try:
            found = arrays(run(flipped, inputs, tmp_path))
        except (FileFormatError, InputError):
            continue
        assert all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True)), at


def places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where the leaves of a JSON value are."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    inner = [place for key, item in items for place in places(item, (*at, key))]
    return inner or [at]


ABSURD = (
    *(None, True, -1, 0, 1, 2, 3, 255, 256, 2**31, 2**62, -(2**62), 0.5, 1e300, "", "x", "float32", [], {}),
    *([0], [1, 2, 3], {"node": 0}, {"node": 10**6}, {"tuple": [1, 2]}, {"slice": [None, None, -1]}, [[1]]),
)


def test_recipes_with_absurd_values(good: tuple[Any, bytes], tmp_path: Path) -> None:
    """Every leaf of the recipe in turn, up to a number of them, and often several at once."""
    inputs, data = good
    recipe = json.loads(take_apart(data)[0]["__metadata__"]["intaglio"])
    chance = random.Random(1)
    leaves = [place for place in places(recipe) if place]
    for _ in range(250):
        forged = json.loads(json.dumps(recipe))
        for place in chance.sample(leaves, chance.choice((1, 1, 1, 2, 3))):
            owner = forged
            for key in place[:-1]:
                owner = owner[key]
            owner[place[-1]] = chance.choice(ABSURD)
        with contextlib.suppress(FileFormatError, InputError):  # and nothing else, and no crash
            run(with_recipe(data, json.dumps(forged)), inputs, tmp_path)


@pytest.mark.parametrize(
    "target", ["builtins.eval", "builtins.__import__", "os.system", "operator.methodcaller", "math.__class__"]
)
def test_functions_that_no_file_may_name(target: str, tmp_path: Path) -> None:
    model, inputs = MODELS["images"]

    def edit(recipe: dict[str, Any]) -> None:
        steps = recipe["modules"][0]["graph"]["steps"]
        steps[0] = {"kind": "function", "target": target, "args": ["1"]}

    data = forge(saved(model, tmp_path).read_bytes(), edit)
    with pytest.raises((InputError, FileFormatError)):
        run(data, [x.numpy() for x in inputs], tmp_path)


def test_newer_and_structureless_files(good: tuple[Any, bytes], tmp_path: Path) -> None:
    inputs, data = good
    newer = forge(data, lambda recipe: recipe.update(format_version="9.0"))
    with pytest.raises(FileFormatError, match="newer"):
        run(newer, inputs, tmp_path)
    without = forge(data, lambda recipe: recipe.update(structure={"way": "none", "reason": "a reason"}))
    with pytest.raises(FileFormatError, match="a reason"):
        run(without, inputs, tmp_path)
    header, tensors = take_apart(data)
    del header["__metadata__"]["intaglio"]
    with pytest.raises(FileFormatError, match="no recipe"):
        run(put_together(header, tensors), inputs, tmp_path)
    with pytest.raises(OSError, match=r"nowhere"):
        intaglio.runtime.load(tmp_path / "nowhere")
    path = tmp_path / "good.safetensors"
    path.write_bytes(data)
    with pytest.raises(InputError, match="at least one thread"):
        intaglio.runtime.load(path, threads=0)
