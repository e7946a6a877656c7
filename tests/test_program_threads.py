"""Programs called by several threads at once, after a fork, and by threads of several numbers."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import intaglio
from intaglio.runtime.plan import KEPT_ARENAS
from tests.program_models import PreNorm, Recurrent, Residual, dynamic, image, image_model, same_bits
from tests.test_program import Steps

FAMILIES: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor]]] = {
    "cnn": (lambda: image_model(Residual), lambda: torch.randn(2, 3, 16, 16)),
    "lstm": (lambda: dynamic(Recurrent()), lambda: torch.randn(2, 7, 6)),
    "transformer": (lambda: dynamic(PreNorm()), lambda: torch.randn(2, 7, 16)),
    "host": (lambda: dynamic(Steps(lambda m, x: m.a(torch.erf(m.b(x))))), lambda: torch.randn(4, 8)),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_eight_threads_get_the_answers_of_their_own_inputs(family: str) -> None:
    make, inputs = FAMILIES[family]
    program = intaglio.compile(make())
    cases = [inputs() for _ in range(8)]
    expected = [program(x) for x in cases]
    start, until = threading.Barrier(8), time.monotonic() + 0.6
    most = 0

    def call(number: int) -> int:
        nonlocal most
        start.wait()
        calls = 0
        while time.monotonic() < until:
            place = (number + calls) % 8
            # The tensor is let go right after the call, and its memory is used again.
            assert torch.equal(program(cases[place].clone()), expected[place])
            most = max(most, program.memory.arenas)
            calls += 1
        return calls

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(call, range(8))) > 8
    assert most <= 8
    assert 1 <= program.memory.arenas <= KEPT_ARENAS


def test_threads_that_plan_at_once() -> None:
    model = image_model(Residual)
    program = intaglio.compile(model)
    start = threading.Barrier(8)

    def call(number: int) -> bool:
        start.wait()
        inputs = [image(1 + (number + i) % 5, (9 + i, 12)) for i in range(12)]
        return all(same_bits(program(x), model(x)) for x in inputs)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(call, range(8)))
    assert program.memory.plans == 60


def test_what_a_program_says_of_itself_while_others_plan() -> None:
    program = intaglio.compile(dynamic(nn.Sequential(nn.Linear(4, 4))))
    done = threading.Event()

    def plan() -> None:
        for n in range(300):
            program(torch.zeros(n, 4))
        done.set()

    switch = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(1) as pool:
            planned = pool.submit(plan)
            while not done.is_set() and not planned.done():
                assert program.memory.plans <= 64
                assert program.left_to_host == {}
                assert "Program(Sequential" in repr(program)
            planned.result()
    finally:
        sys.setswitchinterval(switch)


def test_errors_of_one_thread_are_its_own() -> None:
    program = intaglio.compile(
        dynamic(nn.Sequential(nn.Embedding(10, 4), nn.Linear(4, 4)), qconfig_spec=_words())
    )
    right, wrong = torch.arange(10), torch.arange(1, 11)
    expected = program(right)

    def call(number: int) -> Any:
        for _ in range(50):
            if number % 2:
                with pytest.raises((IndexError, intaglio.InputError), match="10"):
                    program(wrong)
            else:
                assert torch.equal(program(right), expected)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(call, range(4)))
    assert program.memory.arenas <= KEPT_ARENAS


def _words() -> dict[Any, Any]:
    return {
        nn.Embedding: intaglio.float_qparams_weight_only_qconfig,
        nn.Linear: intaglio.default_dynamic_qconfig,
    }


def run_python(script: str) -> None:
    """Run a script in a process of its own, from the folder above the tests."""
    root = Path(__file__).parents[1]
    found = subprocess.run(
        [sys.executable, "-W", "error", "-c", script], cwd=root, capture_output=True, text=True, timeout=120
    )
    assert found.returncode == 0, found.stdout + found.stderr


FREE = """
import threading, torch, intaglio
from tests.program_models import PreNorm, dynamic

torch.set_num_threads(1)
program = intaglio.compile(dynamic(PreNorm(256, 4, 2)))
x = torch.randn(4, 200, 256)
program(x)
ticks, done = 0, threading.Event()

def work():
    program(x)
    done.set()

thread = threading.Thread(target=work)
thread.start()
while not done.is_set():
    ticks += 1
thread.join()
# With the GIL held, this thread would stand still in each call: it counts a few times at most.
assert ticks > 1000, ticks
"""


def test_other_threads_run_meanwhile() -> None:
    run_python(FREE)


FORKED = """
import os, sys, torch, intaglio
from tests.program_models import PreNorm, Residual, dynamic, image, image_model

torch.set_num_threads(3)
rows, images = intaglio.compile(dynamic(PreNorm(64, 4, 2))), intaglio.compile(image_model(Residual))
x, picture = torch.randn(4, 100, 64), image(4, (64, 64))
expected = rows(x), images(picture)
child = os.fork()
if child == 0:
    import signal
    signal.alarm(4)
    found = rows(x), images(picture)
    # Not by torch.equal, which waits for threads that are gone.
    right = all((a.numpy() == b.numpy()).all() for a, b in zip(found, expected))
    os._exit(0 if right else 1)
status = os.waitpid(child, 0)[1]
assert status == 0, f"the child ended with {status}"
assert torch.equal(rows(x), expected[0])
"""


def test_a_child_of_a_process_whose_threads_have_run() -> None:
    run_python(FORKED)
