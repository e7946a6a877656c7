"""What conversion costs in memory at its peak, and what is left when it is done.

Each case runs in a process of its own and reads its resident set size from the kernel.
"""

import json
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc/self/status")

WIDTH, LAYERS = 1536, 10
LAYER = 4 * WIDTH * WIDTH
"""Bytes of one float layer: 9.4 MB."""
FLOAT_MODEL = LAYERS * LAYER

MEASURE = f"""
import gc, json, sys, threading, time, torch, intaglio
from torch import nn
torch.set_num_threads(1)


def status(field):
    for line in open("/proc/self/status"):
        if line.startswith(field):
            return 1024 * int(line.split()[1])


def reset_peak():
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")


def build():
    return nn.Sequential(*(nn.Linear({WIDTH}, {WIDTH}) for _ in range({LAYERS}))).eval()


# Whatever is loaded or allocated at first use, on a small model.
small = intaglio.quantize_dynamic(nn.Sequential(nn.Linear(64, 64)), dtype=DTYPE, inplace=INPLACE)
small(torch.randn(1, 64))
gc.collect()
empty = status("VmRSS")
model = build()
floats = status("VmRSS")
reset_peak()
quantized = intaglio.quantize_dynamic(model, dtype=DTYPE, inplace=INPLACE)
peak = status("VmHWM")
del model
gc.collect()
left = status("VmRSS")
quantized(torch.randn(4, {WIDTH}))
sizes = dict(floats=floats, peak=peak, left=left, used=status("VmRSS"))
print(json.dumps({{name: size - empty for name, size in sizes.items()}}))
"""


def measure(dtype: str, inplace: bool) -> dict[str, int]:
    code = MEASURE.replace("DTYPE", repr(dtype)).replace("INPLACE", str(inplace))
    # Large blocks go back to the system when they are freed: what is measured is what is held.
    environment = {"MALLOC_MMAP_THRESHOLD_": "262144", "MALLOC_TRIM_THRESHOLD_": "262144", "PATH": ""}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize(("dtype", "share"), [("int8", 1 / 4), ("float16", 1 / 2)])
@pytest.mark.parametrize("inplace", [True, False])
def test_conversion(dtype: str, share: float, inplace: bool) -> None:
    # The float model and one layer; a copy also has the quantized model beside it, of course.
    # microsoft/onnxruntime#15106: both the packed and the plain weights stayed in memory.
    found = measure(dtype, inplace)
    assert found["floats"] > 0.95 * FLOAT_MODEL  # the measurement sees the model
    quantized = share * FLOAT_MODEL
    most = FLOAT_MODEL + 1.1 * LAYER + (0 if inplace else quantized)
    assert found["peak"] < most, {name: f"{size / LAYER:.2f} layers" for name, size in found.items()}
    assert found["left"] < quantized + 0.5 * LAYER
    assert found["used"] < quantized + 0.75 * LAYER
