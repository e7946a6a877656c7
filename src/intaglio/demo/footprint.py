"""What a model takes of a process's memory, measured in a process of its own.

    python -m intaglio.demo.footprint {minilm,voice} {float32,int8} FILE

prints one line of JSON. The process first runs a tiny network of the same kind, so that the code it needs
is in memory; what the resident set grows by between then and after the real model's first call is the
model's. Nothing of another model was ever in the process. Linux alone tells a process its resident set.
Imports: torch, intaglio's public names, `subjects`.
"""

from __future__ import annotations

import ctypes
import gc
import json
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

import intaglio
from intaglio.demo.subjects import SUBJECTS, Subject
from intaglio.errors import IntaglioError

__all__ = ["Footprint", "measure_footprint"]


@dataclass(frozen=True)
class Footprint:
    """Bytes: what the model added to the resident set, the whole set, and its peak while loading."""

    model: int
    process: int
    peak: int


def measure_footprint(key: str, form: str, file: Path) -> Footprint | None:
    """Load `file` in a new process and measure it; None where the platform cannot tell.

    Parameters
    ----------
    key
        which of `SUBJECTS`.
    form
        `'float32'` for a file of plain weights, `'int8'` for one written by `intaglio.save`.
    file
        the file.

    Raises
    ------
    IntaglioError
        the process failed.
    """
    if not Path("/proc/self/status").exists():
        return None
    command = [sys.executable, "-m", "intaglio.demo.footprint", key, form, str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise IntaglioError(f"measuring the memory of {key} in {form} failed: {last}")
    return Footprint(**json.loads(done.stdout.splitlines()[-1]))


def _measure_here(subject: Subject, form: str, file: Path) -> Footprint:
    tiny = subject.build_tiny().eval()
    for model in (tiny, subject.quantize(tiny)):
        _call(subject, model)
    del tiny, model
    before = _resident("VmRSS")
    model = _load(subject, form, file)
    _call(subject, model)
    after = _resident("VmRSS")
    return Footprint(model=after - before, process=after, peak=_resident("VmHWM"))


def _load(subject: Subject, form: str, file: Path) -> nn.Module:
    model = subject.build().eval()
    if form == "int8":
        return intaglio.load(file, model)
    # Copied, not mapped: a file's pages that were never read would not count as resident.
    model.load_state_dict(load_file(file))
    return model


def _call(subject: Subject, model: nn.Module) -> None:
    batch, length = subject.shapes[0]
    with torch.inference_mode():
        model(subject.make_input(batch, length, model))


def _resident(field: str) -> int:
    """A field of the process's own status, in bytes, after memory that is free went back to the system."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise IntaglioError(f"/proc/self/status has no {field}")


if __name__ == "__main__":
    print(json.dumps(asdict(_measure_here(SUBJECTS[sys.argv[1]], sys.argv[2], Path(sys.argv[3])))))
