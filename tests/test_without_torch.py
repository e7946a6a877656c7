"""What works where torch is not installed, and that nothing is lost by importing it late.

Each test is a process of its own: in this one, torch has long been imported.
"""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import intaglio

SCRIPT = Path(__file__).parent.parent / "tools" / "run_without_torch.py"

WITHOUT_TORCH = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "safetensors"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Refuse())
"""


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_the_package_leaves_torch_and_numpy_alone() -> None:
    code = (
        "import sys, intaglio, intaglio.errors, intaglio._core\nprint(*{'torch', 'numpy'} & set(sys.modules))"
    )
    assert run(code).split() == []


@pytest.mark.parametrize(
    "statement",
    [
        "import intaglio._core, intaglio.errors",
        "from intaglio import _core, errors",
        "import intaglio; intaglio._core.active_isa(), intaglio.errors.IntaglioError, intaglio.__version__",
        "import intaglio; '_core' in dir(intaglio), hasattr(intaglio, '__wrapped__'), help(intaglio)",
    ],
)
def test_what_needs_no_torch_works_where_there_is_none(statement: str) -> None:
    run(WITHOUT_TORCH + statement)


@pytest.mark.parametrize(
    "statement",
    [
        "import intaglio; intaglio.convert",
        "from intaglio import convert",
        "from intaglio import *",
        "from intaglio import nn",
    ],
)
def test_a_name_that_needs_torch_says_so(statement: str) -> None:
    said = run(f"{WITHOUT_TORCH}try: exec({statement!r})\nexcept ImportError as error: print(error)")
    assert "needs torch, which is not installed: pip install torch;" in said
    assert "intaglio.runtime" in said


def test_what_other_pythons_are_checked_with_passes_on_this_one(tmp_path: Path) -> None:
    """Beside the standard library there is a folder with numpy and intaglio, and nothing else."""
    for package in (np, intaglio):
        installed = Path(str(package.__file__)).parent
        for path in installed.parent.glob(f"{installed.name}*"):  # numpy.libs too
            (tmp_path / path.name).symlink_to(path)
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    models = tmp_path / "models"
    models.mkdir()
    subprocess.run(
        [sys.executable, str(SCRIPT.with_name("write_runtime_models.py")), str(models)], check=True
    )
    subprocess.run([sys.executable, "-S", str(SCRIPT), str(models)], env=environment, check=True)


def test_an_import_error_of_our_own_is_not_taken_for_a_missing_torch() -> None:
    code = "import sys; sys.modules['intaglio.eager'] = None\nimport intaglio\n"
    said = run(f"{code}try: intaglio.convert\nexcept ImportError as error: print(error)")
    assert "intaglio.eager" in said
    assert "not installed" not in said


@pytest.mark.parametrize(
    "statement",
    [
        "import intaglio; names = dir(intaglio)",
        "import intaglio; names = intaglio.__all__",
        "from intaglio import *; names = dir()",
        "import intaglio.errors, intaglio; intaglio.convert; names = vars(intaglio)",
        "import intaglio.nn, intaglio; intaglio.fx; names = vars(intaglio)",
    ],
)
def test_every_name_comes_however_the_first_is_asked_for(statement: str) -> None:
    assert (
        run(f"{statement}\nimport intaglio.api\nprint(set(intaglio.api.__all__) - set(names))") == "set()\n"
    )


def test_a_name_that_nobody_has_is_an_attribute_error() -> None:
    code = "import intaglio\nprint(hasattr(intaglio, 'quantise'), hasattr(intaglio, '_quantise'))"
    assert run(code).split() == ["False", "False"]


@pytest.mark.parametrize(
    "code",
    [
        "from intaglio.rules import all_rules\nprint(len(all_rules()))",
        "from intaglio.rules import all_rules, register_rule\n"
        "print(register_rule('mine'), all_rules().index('mine'))",
        "from intaglio.qtensor import QTensor\nfrom intaglio.qparams import UINT8, QParams\nimport torch\n"
        "q = QTensor.quantize(torch.ones(2), QParams(torch.tensor(0.5), torch.tensor(0), UINT8))\n"
        "print(torch.sigmoid(q).dequantize())",
        "import intaglio.ops, torch\n"
        "print(sum(name.startswith('intaglio::') for name in torch._C._dispatch_get_all_op_names()))",
    ],
    ids=["rules", "a user's rule", "functions of a QTensor", "ops"],
)
def test_a_module_imported_alone_knows_all_that_is_registered(code: str) -> None:
    """As a pickle or a file of the user's own imports it."""
    assert run(code) == run(f"import intaglio.api\n{code}")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("order", ["torch, intaglio._core", "intaglio._core, torch"])
def test_one_openmp_serves_torch_and_us_whichever_comes_first(order: str) -> None:
    """The loader knows it by its SONAME, that of torch's wheel and of the system's copy alike."""
    code = f"import {order}\nmaps = open('/proc/self/maps').read().split()\n"
    assert run(f"{code}print(len({{p for p in maps if 'omp' in p.rpartition('/')[2]}}))") == "1\n"
