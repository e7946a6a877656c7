"""Running a package client: its progress, its failures, in its own words."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from intaglio.demo import fetching
from intaglio.demo.fetching import run_download


def _run(folder: Path, script: str) -> tuple[str, list[tuple[str, float, float]]]:
    seen: list[tuple[str, float, float]] = []
    fault = run_download(
        [sys.executable, "-c", script],
        folder=folder,
        expected_bytes=1000,
        label="fetching",
        on_progress=lambda *told: seen.append(told),
    )
    return fault, seen


def test_arriving_bytes_are_progress(tmp_path: Path) -> None:
    script = (
        "import time; from pathlib import Path; Path('part').write_bytes(bytes(600)); time.sleep(0.4); "
        "Path('rest').write_bytes(bytes(9999))"
    )
    fault, seen = _run(tmp_path, script)
    assert fault == ""
    assert seen[0] == ("fetching", 0, 1000)
    assert ("fetching", 600, 1000) in seen
    assert seen[-1] == ("fetching", 1000, 1000)
    assert [done for _, done, _ in seen] == sorted(done for _, done, _ in seen)


def test_the_clients_own_error_is_told(tmp_path: Path) -> None:
    fault, _ = _run(
        tmp_path, "print('working'); print('ERROR: no such thing'); print('[notice] a new release'); exit(3)"
    )
    assert fault == "ERROR: no such thing"


def test_silent_failure(tmp_path: Path) -> None:
    assert _run(tmp_path, "exit(3)")[0] == "exit status 3"


def test_no_such_client(tmp_path: Path) -> None:
    fault = run_download(
        [str(tmp_path / "absent")],
        folder=tmp_path,
        expected_bytes=1,
        label="",
        on_progress=lambda *told: None,
    )
    assert "cannot be run" in fault


def test_a_client_that_hangs_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "_TIMEOUT_SECONDS", 0.3)
    assert "nothing after" in _run(tmp_path, "import time; time.sleep(60)")[0]
