"""docs/moving-over.md against torch.ao.quantization: nothing is forgotten, and what has a tick is there."""

import inspect
import re
import warnings
from pathlib import Path

import intaglio

PAGE = (Path(__file__).parent.parent / "docs" / "moving-over.md").read_text()
TICKED = re.findall(r"^\| `(\w+)` \| ✓ \|$", PAGE, re.MULTILINE)
NAMED = set(re.findall(r"`(\w+)`", PAGE))

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import torch.ao.nn.quantized as legacy_modules
    import torch.ao.quantization as legacy


def test_every_legacy_name_is_on_the_page() -> None:
    assert set(legacy.__all__) <= NAMED
    assert set(legacy_modules.__all__) - {"FXFloatFunctional"} <= NAMED


def test_ticks_are_true_both_ways() -> None:
    assert set(TICKED) == {name for name in legacy.__all__ if hasattr(intaglio, name)}
    assert set(TICKED) <= set(intaglio.__all__)
    assert len(TICKED) == len(set(TICKED)) > 50


def test_functions_take_what_the_legacy_ones_took() -> None:
    for name in TICKED:
        ours, theirs = getattr(intaglio, name), getattr(legacy, name)
        if inspect.isfunction(theirs) and inspect.isfunction(ours):
            taken = list(inspect.signature(ours).parameters)
            expected = [p.name for p in inspect.signature(theirs).parameters.values()]
            given = [p for p in expected if p not in ("kwargs", "additional_qat_module_mapping")]
            assert [p for p in taken if p in given] == given, name


def test_quantized_modules_exist() -> None:
    rows = re.findall(r"^\| `(\w+)` \| `(\w+)` \|$", PAGE.split("## Quantized modules")[1], re.MULTILINE)
    assert len(rows) > 20
    assert all(hasattr(intaglio.nn, ours) for _, ours in rows)
