"""What must work with numpy and without torch; tools/check_without_torch.py runs it on each Python."""

import importlib.util
import subprocess
import sys

import numpy as np

import intaglio
from intaglio import _core, errors


def measure_import() -> float:
    """Milliseconds that importing takes in a process that has started; the least of five."""
    code = (
        "from time import perf_counter\nstart = perf_counter()\nimport intaglio._core, intaglio.errors\n"
        "print((perf_counter() - start) * 1e3)"
    )
    command = [sys.executable, "-c", code]
    return min(float(subprocess.run(command, capture_output=True, check=True).stdout) for _ in range(5))


def check_names() -> None:
    """What needs no torch is there, and a name that needs it says so."""
    assert importlib.util.find_spec("torch") is None, "torch is installed: this checks nothing"
    assert issubclass(errors.InputError, intaglio.errors.IntaglioError)
    said = ""
    try:
        _ = intaglio.convert
    except ImportError as error:
        said = str(error)
    assert "intaglio.runtime" in said, said


def check_kernels() -> None:
    """Every instruction set of this CPU gives one answer, on one thread and on two."""
    x = np.arange(100_003, dtype=np.uint64).astype(np.uint8)
    table = np.random.default_rng(0).permutation(256).astype(np.uint8)
    for isa in _core.available_isas():
        _core.force_isa(isa)
        for threads in (1, 2):
            y = np.empty_like(x)
            _core.look_up_bytes(
                x.ctypes.data, x.size, table.ctypes.data, y.ctypes.data, _core.cpu_permutes_bytes(), threads
            )
            assert (y == table[x]).all(), (isa, threads)


check_names()
check_kernels()
print(f"Python {sys.version.split()[0]}, numpy {np.__version__}: imported in {measure_import():.1f} ms")
