"""Recorded speech of known speakers: the announcements of a telephone exchange, packaged by Debian.

Six sets, each read by one person. They are taken where the packages are installed; else, on a machine
with apt-get and dpkg-deb, the packages are downloaded and unpacked into the cache, without root. On any
other machine there are none, which is no error: the demo then says so and scores something else.
Imports: the standard library. Neighbours: `debian` fetches packages, `voice_tasks` reads what is found here.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from intaglio.demo.debian import fetch_packages, missing_tool
from intaglio.demo.fetching import OnProgress

__all__ = ["PACKAGES", "Voices", "find_voices"]

INSTALLED_ROOT = Path("/usr/share/asterisk/sounds")
# The folder of each voice, named after language, country, sex and speaker, and the package it comes in.
PACKAGES: Mapping[str, str] = {
    "en_US_f_Allison": "asterisk-core-sounds-en-wav",
    "es_MX_f_Allison": "asterisk-core-sounds-es-wav",
    "fr_CA_f_June": "asterisk-core-sounds-fr-wav",
    "it_IT_f_Menardi": "asterisk-prompt-it-menardi-wav",
    "it_IT_m_Carlo": "asterisk-core-sounds-it-wav",
    "ru_RU_f_IvrvoiceRU": "asterisk-core-sounds-ru-wav",
}
_EXPECTED_BYTES = 116_400_000


@dataclass(frozen=True)
class Voices:
    """The folder of each voice, or, where there is none, why."""

    folders: Mapping[str, Path]
    missing: str = ""


def find_voices(cache: Path, on_progress: OnProgress, *, installed: Path = INSTALLED_ROOT) -> Voices:
    """Find the recordings, or fetch them; never raises, for a machine without them is an ordinary one."""
    kept = cache / "asterisk-sounds"
    for root in (installed, kept):
        if _is_complete(root):
            return _voices_in(root)
    tool = missing_tool()
    if tool:
        return Voices({}, f"Debian's recordings are not installed and there is no {tool} here")
    try:
        fault = _fetch(kept, on_progress)
    except OSError as error:
        fault = str(error)
    return Voices({}, f"Debian's recordings cannot be fetched: {fault}") if fault else _voices_in(kept)


def _is_complete(root: Path) -> bool:
    return all((root / voice).is_dir() for voice in PACKAGES)


def _voices_in(root: Path) -> Voices:
    return Voices({voice: root / voice for voice in PACKAGES})


def _fetch(target: Path, on_progress: OnProgress) -> str:
    """Fetch all six packages, then move the recordings into place at once; what went wrong."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".fetch-") as name:
        scratch = Path(name)
        fault = fetch_packages(
            [*PACKAGES.values()],
            scratch,
            expected_bytes=_EXPECTED_BYTES,
            label="fetching recorded voices",
            on_progress=on_progress,
        )
        if fault:
            return fault
        sounds = scratch / "unpacked" / INSTALLED_ROOT.relative_to("/")
        if not _is_complete(sounds):
            return "the packages hold other folders than expected"
        shutil.rmtree(target, ignore_errors=True)
        try:
            sounds.rename(target)
        except OSError:
            # Another process was faster.
            if not _is_complete(target):
                raise
    return ""
