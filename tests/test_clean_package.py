"""The package stands on nothing that torch is removing, and evaluates no untrusted bytes."""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = sorted((ROOT / "src").rglob("*.py"))
CORE = sorted(path for suffix in ("*.h", "*.cpp", "*.inc") for path in (ROOT / "csrc").rglob(suffix))

READS_OTHERS_FILES = ROOT / "src" / "intaglio" / "demo" / "checkpoints.py"
"""A published checkpoint is a pickle: the demo may read it, with `weights_only=True`."""

FORBIDDEN_NAMES = {
    "torch.ao": "the legacy stack that this package replaces",
    "torch.quantization": "its older name",
    "torch.ops.quantized": "its kernels",
    "torch.ops.onednn": "its kernels",
    "torch.quint8": "a quantized dtype, which torch deprecates",
    "torch.qint8": "a quantized dtype",
    "torch.qint32": "a quantized dtype",
    "torch.quint4x2": "a quantized dtype",
    "torch.quantize_per_tensor": "makes a tensor of a quantized dtype",
    "torch.quantize_per_channel": "makes a tensor of a quantized dtype",
    "torch.jit": "TorchScript, which torch deprecates",
    "pickle": "runs code that a file holds",
    "torch.load": "pickle",
    "torch.save": "pickle",
    "marshal": "runs code that a file holds",
    "shelve": "pickle",
    "eval": "runs text",
    "exec": "runs text",
}


def dotted(node: ast.AST) -> str:
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def names_used(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Every dotted name in the code, imports included, with its line; strings and comments are not code."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)
        elif isinstance(node, (ast.Attribute, ast.Name)):
            yield dotted(node), node.lineno


def offences(path: Path) -> list[str]:
    found = []
    for name, line in names_used(ast.parse(path.read_text())):
        for forbidden, why in FORBIDDEN_NAMES.items():
            if name == forbidden or name.startswith(f"{forbidden}."):
                found.append(f"{path.relative_to(ROOT)}:{line}: {name} is {why}")
    return found


@pytest.mark.parametrize(
    "path",
    [path for path in SOURCES if path != READS_OTHERS_FILES],
    ids=lambda path: str(path.relative_to(ROOT / "src")),
)
def test_no_source_uses_what_torch_removes_or_what_runs_files(path: Path) -> None:
    assert offences(path) == []


def test_a_published_checkpoint_is_read_without_running_it() -> None:
    calls = [
        node for node in ast.walk(ast.parse(READS_OTHERS_FILES.read_text())) if isinstance(node, ast.Call)
    ]
    loads = [node for node in calls if dotted(node.func) == "torch.load"]
    assert len(loads) == 1
    flags = {keyword.arg: ast.unparse(keyword.value) for keyword in loads[0].keywords}
    assert flags["weights_only"] == "True"


def test_the_check_sees_what_it_forbids() -> None:
    tree = ast.parse(
        "import torch.ao.nn\nfrom torch.ao import quantization\nx = torch.ops.quantized.linear(y)\n"
        "import pickle\nz = torch.qint8\nfrom torch import load\n"
    )
    assert {name for name, _ in names_used(tree)} >= {
        "torch.ao.nn",
        "torch.ao.quantization",
        "torch.ops.quantized.linear",
        "pickle",
        "torch.qint8",
        "torch.load",
    }


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT / "src")))
def test_sources_are_of_readable_size_and_finished(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= 450, "split it"
    comments = [
        t.string for t in tokenize.generate_tokens(io.StringIO(text).readline) if t.type == tokenize.COMMENT
    ]
    assert not [c for c in comments if re.search(r"\b(TODO|FIXME|XXX|HACK)\b", c)]
    assert path.stem not in ("utils", "helpers", "common", "base")


@pytest.mark.parametrize("path", CORE, ids=lambda path: str(path.relative_to(ROOT / "csrc")))
def test_the_core_knows_no_torch_and_no_python(path: Path) -> None:
    includes = re.findall(r"#include [<\"](\S+)[>\"]", path.read_text())
    assert not [name for name in includes if name.startswith(("torch", "ATen", "c10", "pybind"))]
    if path.parent.name != "bindings":
        assert not [name for name in includes if name.startswith(("nanobind", "Python"))]
    if path.parent.name == "kernels" and (path.name.endswith("-inl.h") or path.name.startswith("avx")):
        # Compiled for one instruction set: an inline std function could be the copy that the linker keeps.
        allowed = {"cstdint", "cstddef", "cstring", "cmath", "immintrin.h"}
        assert {name for name in includes if "." not in name or name == "immintrin.h"} <= allowed
