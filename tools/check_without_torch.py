"""Builds a wheel for each Python, installs it beside numpy and nothing else, and runs a script there.

usage: python tools/check_without_torch.py [--script FILE] [3.10 3.11 ...]

This Python has torch and intaglio: it writes the models that the others run. They are those on PATH called
python3.10, python3.11 ... One that is not found is a failure, unless the command line leaves it out.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from write_runtime_models import write

ROOT = Path(__file__).parent.parent
VERSIONS = ("3.10", "3.11", "3.12", "3.13")


def is_found(version: str) -> bool:
    """Whether pythonX.Y runs: a version manager may put the name of what it lacks on PATH."""
    code = "import sys; print('%d.%d' % sys.version_info[:2])"
    try:
        done = subprocess.run([f"python{version}", "-c", code], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return False
    return done.stdout.strip() == version


def check(version: str, script: Path, models: Path, folder: Path) -> None:
    """Build, install and run; raises `CalledProcessError` at the first that fails."""
    venv, wheels = folder / "venv", folder / "wheels"
    python = str(venv / "bin" / "python")
    run(f"python{version}", "-m", "venv", str(venv))
    run(python, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(wheels), str(ROOT))
    run(python, "-m", "pip", "install", "-q", "numpy")
    run(python, "-m", "pip", "install", "-q", "--no-deps", *map(str, wheels.glob("*.whl")))
    run(
        *(python, "-I", str(script.resolve()), str(models)), cwd=folder
    )  # the sources are not in reach: the wheel is imported


def run(*command: str, cwd: Path = ROOT) -> None:
    """Run `command`, its output among ours."""
    subprocess.run(command, cwd=cwd, check=True)


def main() -> int:
    """The exit status: 0 if every version that was asked for passed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("versions", nargs="*", default=VERSIONS)
    parser.add_argument("--script", type=Path, default=ROOT / "tools" / "run_without_torch.py")
    arguments = parser.parse_args()
    results = {}
    models = Path(tempfile.mkdtemp())
    write(models)
    for version in arguments.versions:
        if not is_found(version):
            results[version] = "NOT FOUND on PATH"
            continue
        with tempfile.TemporaryDirectory() as folder:
            try:
                check(version, arguments.script, models, Path(folder))
                results[version] = "passed"
            except subprocess.CalledProcessError as error:
                results[version] = f"FAILED: {' '.join(error.cmd)}"
    for version, result in results.items():
        print(f"python{version}: {result}")
    return int(any(result != "passed" for result in results.values()))


if __name__ == "__main__":
    sys.exit(main())
