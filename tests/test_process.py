"""What holds for a whole process: the instruction set it is told to use, one OpenMP, threads that obey."""

import os
import subprocess
import sys

import pytest

from intaglio import _core

WORK = """
import torch, intaglio
torch.manual_seed(0)
layer = intaglio.quantize_dynamic(torch.nn.Sequential(torch.nn.Linear(512, 512)))
x = torch.randn(256, 512)
"""


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=False)


def test_environment_with_an_unknown_instruction_set_fails_at_the_first_name() -> None:
    done = run("from intaglio import convert", INTAGLIO_ISA="sse9")
    assert done.returncode != 0
    assert "'sse9' is not one that this CPU can run; it has: scalar" in done.stderr


def test_environment_forces_an_instruction_set_and_each_gives_one_answer() -> None:
    code = WORK + (
        "import hashlib\n"
        "print(intaglio._core.active_isa(), hashlib.sha256(layer(x).detach().numpy().tobytes()).hexdigest())"
    )
    isas = _core.available_isas()
    printed = [run(code, INTAGLIO_ISA=isa).stdout.split() for isa in isas]
    assert [isa for isa, _ in printed] == isas
    assert len({answer for _, answer in printed}) == 1


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_one_openmp_serves_torch_and_us() -> None:
    code = WORK + (
        "layer(x)\n"
        "maps = open('/proc/self/maps').read().split()\n"
        "print(len({p for p in maps if 'libgomp' in p}), len({p for p in maps if 'libomp' in p}))"
    )
    assert run(code).stdout.split() == ["1", "0"]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("threads", [1, 2])
def test_set_num_threads_is_obeyed(threads: int) -> None:
    code = f"import torch; torch.set_num_threads({threads})\n" + WORK
    code += (
        "import os\nbefore = len(os.listdir('/proc/self/task'))\nlayer(x)\n"
        "print(len(os.listdir('/proc/self/task')) - before)"
    )
    started = int(run(code, OMP_NUM_THREADS=str(threads)).stdout)
    assert started <= threads - 1
    if threads == 1:
        assert started == 0
