"""Finding recorded voices: installed, cached, fetched by stand-ins for Debian's tools, or not at all."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from intaglio.demo.voices import PACKAGES, find_voices


def _ignore(label: str, done: float, total: float) -> None:
    pass


def _write_tool(folder: Path, name: str, script: str) -> None:
    path = folder / name
    path.write_text(f"#!{sys.executable}\nimport os, sys\nfrom pathlib import Path\n{script}\n")
    path.chmod(0o755)


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder in which programs are found."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return folder


def _find(tmp_path: Path) -> tuple[dict[str, Path], str]:
    voices = find_voices(tmp_path / "cache", _ignore, installed=tmp_path / "installed")
    return dict(voices.folders), voices.missing


def test_installed_voices_are_used_in_place(tmp_path: Path, tools: Path) -> None:
    for voice in PACKAGES:
        (tmp_path / "installed" / voice).mkdir(parents=True)
    folders, missing = _find(tmp_path)
    assert folders == {voice: tmp_path / "installed" / voice for voice in PACKAGES}
    assert missing == ""


def test_no_debian(tmp_path: Path, tools: Path) -> None:
    assert _find(tmp_path) == ({}, "Debian's recordings are not installed and there is no apt-get here")


DOWNLOAD = """
if sys.argv[-len(PACKAGES):] == PACKAGES and "download" in sys.argv:
    for name in PACKAGES:
        Path(name + "_1_all.deb").write_text(name)
elif sys.argv[-1] != "update":
    sys.exit("E: what is " + " ".join(sys.argv))
"""
UNPACK = """
for voice, name in VOICES.items():
    if Path(sys.argv[2]).name.startswith(name + "_"):
        (Path(sys.argv[3]) / "usr/share/asterisk/sounds" / voice).mkdir(parents=True, exist_ok=True)
"""
NAMES = f"PACKAGES = {list(PACKAGES.values())!r}; VOICES = {dict(PACKAGES)!r}\n"


def test_fetched_without_root_and_kept(tmp_path: Path, tools: Path) -> None:
    _write_tool(tools, "apt-get", NAMES + DOWNLOAD)
    _write_tool(tools, "dpkg-deb", NAMES + UNPACK)
    folders, missing = _find(tmp_path)
    assert missing == ""
    assert folders.keys() == PACKAGES.keys()
    assert all(folder.is_dir() for folder in folders.values())
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["asterisk-sounds"]
    _write_tool(tools, "apt-get", "sys.exit(9)")
    assert _find(tmp_path)[0] == folders


def test_empty_package_lists_are_made_good(tmp_path: Path, tools: Path) -> None:
    # As in a container that never ran `apt-get update`: only with lists of its own are there packages.
    absent = (
        "if not any('Dir::State=' in word for word in sys.argv): sys.exit('E: Unable to locate package')\n"
    )
    _write_tool(tools, "apt-get", absent + NAMES + DOWNLOAD)
    _write_tool(tools, "dpkg-deb", NAMES + UNPACK)
    assert _find(tmp_path)[1] == ""


@pytest.mark.parametrize(
    ("apt_get", "dpkg_deb", "why"),
    [
        ("sys.exit('E: Could not resolve the host')", "", "Could not resolve the host"),
        (NAMES + DOWNLOAD, "sys.exit('dpkg-deb: error: no space')", "no space"),
        (NAMES + DOWNLOAD, "", "other folders than expected"),
    ],
)
def test_failures_are_told_and_leave_nothing(
    tmp_path: Path, tools: Path, apt_get: str, dpkg_deb: str, why: str
) -> None:
    _write_tool(tools, "apt-get", apt_get)
    _write_tool(tools, "dpkg-deb", dpkg_deb)
    folders, missing = _find(tmp_path)
    assert folders == {}
    assert missing.startswith("Debian's recordings cannot be fetched")
    assert why in missing
    assert list((tmp_path / "cache").iterdir()) == []
