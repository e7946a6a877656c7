"""Debian's packages of data: in place, kept, fetched by stand-ins for Debian's tools, or not at all."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import pytest

from intaglio.demo.debian import DebianCarrier, locate_debian
from intaglio.demo.errors import CarrierError

DATA = b"images"


def _ignore(label: str, done: float, total: float) -> None:
    pass


def _write_tool(folder: Path, name: str, script: str) -> None:
    path = folder / name
    path.write_text(f"#!{sys.executable}\nimport sys\nfrom pathlib import Path\n{script}\n")
    path.chmod(0o755)


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder in which programs are found."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return folder


@pytest.fixture
def carrier(tmp_path: Path) -> DebianCarrier:
    return DebianCarrier(
        package="dataset-test",
        version="1",
        licence="none",
        package_bytes=len(DATA),
        root=tmp_path / "installed",
        files={"images.gz": hashlib.sha256(DATA).hexdigest()},
    )


def _write_tools(tools: Path, carrier: DebianCarrier, data: bytes) -> None:
    _write_tool(tools, "apt-get", f"Path({carrier.package + '_1_all.deb'!r}).write_text('')")
    unpack = f"folder = Path(sys.argv[3]) / {str(carrier.root.relative_to('/'))!r}\n"
    unpack += f"folder.mkdir(parents=True); (folder / 'images.gz').write_bytes({data!r})"
    _write_tool(tools, "dpkg-deb", unpack)


def test_installed_files_are_used_in_place(tmp_path: Path, tools: Path, carrier: DebianCarrier) -> None:
    carrier.root.mkdir()
    (carrier.root / "images.gz").write_bytes(DATA)
    assert locate_debian(carrier, tmp_path / "cache", _ignore) == {"images.gz": carrier.root / "images.gz"}
    assert not (tmp_path / "cache").exists()


def test_fetched_once_and_kept(tmp_path: Path, tools: Path, carrier: DebianCarrier) -> None:
    _write_tools(tools, carrier, DATA)
    found = locate_debian(carrier, tmp_path / "cache", _ignore)
    assert found == {"images.gz": tmp_path / "cache" / "dataset-test" / "images.gz"}
    assert found["images.gz"].read_bytes() == DATA
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["dataset-test"]
    _write_tool(tools, "apt-get", "sys.exit(9)")
    assert locate_debian(carrier, tmp_path / "cache", _ignore) == found


def test_no_debian(tmp_path: Path, tools: Path, carrier: DebianCarrier) -> None:
    with pytest.raises(CarrierError, match=r"dataset-test \(0 MB\) is not on this machine.* no apt-get here"):
        locate_debian(carrier, tmp_path / "cache", _ignore)


def test_other_files_than_expected_are_refused(tmp_path: Path, tools: Path, carrier: DebianCarrier) -> None:
    _write_tools(tools, carrier, b"other images")
    with pytest.raises(CarrierError, match=r"images\.gz has SHA-256 .*, expected"):
        locate_debian(carrier, tmp_path / "cache", _ignore)
    assert list((tmp_path / "cache").iterdir()) == []
