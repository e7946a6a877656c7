"""Run a package client that downloads, and tell how far it is.

The clients print their own progress each in its own way and only to a terminal, so the bytes that arrive
in the folder they download to are counted instead. Imports: the standard library alone.
Neighbours: `carriers` runs pip with it, `debian` runs apt-get.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

__all__ = ["OnProgress", "run_download"]

OnProgress = Callable[[str, float, float], None]
"""Called with what is being done, how much of it is done, and how much there is."""

_POLL_SECONDS = 0.1
_TIMEOUT_SECONDS = 900.0


def run_download(
    command: Sequence[str], *, folder: Path, expected_bytes: int, label: str, on_progress: OnProgress
) -> str:
    """Run `command` in `folder` until it ends.

    Returns
    -------
    str
        What went wrong, in one line of the client's own words; empty if nothing did.
    """
    on_progress(label, 0, expected_bytes)
    log = folder / "log"
    # The client's temporary files count as progress, so they belong in the folder too.
    environment = {**os.environ, "TMPDIR": str(folder), "LC_ALL": "C"}
    try:
        with log.open("wb") as output:
            client = subprocess.Popen(
                command,
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
            status = _wait(client, folder, expected_bytes, label, on_progress)
    except OSError as error:
        return f"{command[0]} cannot be run: {error}"
    if status is None:
        return f"nothing after {_TIMEOUT_SECONDS:.0f} s"
    on_progress(label, expected_bytes, expected_bytes)
    return _last_error(log.read_text(errors="replace")) or f"exit status {status}" if status else ""


def _wait(
    client: subprocess.Popen[bytes], folder: Path, expected_bytes: int, label: str, on_progress: OnProgress
) -> int | None:
    """The exit status; None, and the client ended, if it does not end by itself or we are interrupted."""
    try:
        for _ in range(int(_TIMEOUT_SECONDS / _POLL_SECONDS)):
            try:
                return client.wait(_POLL_SECONDS)
            except subprocess.TimeoutExpired:
                on_progress(label, min(_arrived(folder), expected_bytes), expected_bytes)
        return None
    finally:
        if client.poll() is None:
            client.kill()
            client.wait()


def _arrived(folder: Path) -> int:
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.stat(os.path.join(parent, name)).st_size
            except OSError:  # moved or removed since it was listed
                continue
    return total


def _last_error(log: str) -> str:
    """The line that says most: the last that is marked as an error, or else the last."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    marked = [line for line in lines if line.lower().startswith(("error", "e:"))]
    return (marked or lines or [""])[-1]
