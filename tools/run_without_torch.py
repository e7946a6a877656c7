"""What must work with numpy and without torch; tools/check_without_torch.py runs it on each Python.

usage: python tools/run_without_torch.py FOLDER, with what tools/write_runtime_models.py wrote there.
"""

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

import intaglio
import intaglio.runtime
from intaglio import _core, errors


def measure_import() -> float:
    """Milliseconds that importing takes in a process that has started; the least of five."""
    code = (
        "from time import perf_counter\nstart = perf_counter()\nimport intaglio.runtime\n"
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


def check_models(folder: Path) -> int:
    """Saved models give the answers that they gave where torch was; how many there are."""
    files = sorted(folder.glob("*.safetensors"))
    for file in files:
        with np.load(file.with_suffix(".npz")) as known:
            inputs = [known[name] for name in sorted(known.files) if name.startswith("x")]
            expected = [known[name] for name in sorted(known.files) if name.startswith("y")]
        for threads in (1, 2):
            program = intaglio.runtime.load(file, threads=threads)
            found = flat(program(*inputs))
            assert len(found) == len(expected)
            for a, b in zip(found, expected):  # noqa: B905
                assert a.dtype == b.dtype, file.name
                assert np.array_equal(a, b), (file.name, threads, np.abs(a - b).max())
            assert not program.left_to_host, program.left_to_host
    return len(files)


def flat(result: Any) -> list[Any]:
    """The arrays of a result."""
    if isinstance(result, np.ndarray):
        return [result]
    return [array for part in result for array in flat(part)]


check_names()
check_kernels()
models = check_models(Path(sys.argv[1]))
assert models > 0, f"no models in {sys.argv[1]}"
versions = f"Python {sys.version.split()[0]}, numpy {np.__version__}"
print(f"{versions}: {models} models, imported in {measure_import():.1f} ms")
