"""The printed table of supported ops, and the legacy table that it must cover."""

import importlib.util
import warnings
from pathlib import Path

import torch

from intaglio.rules import all_rules, rule_of

ROOT = Path(__file__).parent.parent


def test_the_page_is_what_the_rules_say() -> None:
    spec = importlib.util.spec_from_file_location("page", ROOT / "tools" / "print_supported_ops.py")
    assert spec is not None
    assert spec.loader is not None
    page = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(page)
    assert (ROOT / "docs" / "supported-ops.md").read_text() == page.table() + "\n"


def test_everything_that_legacy_quantized_dynamically_has_a_rule() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torch.ao.quantization.quantization_mappings import get_default_dynamic_quant_module_mappings
    covered = {kind for rule in all_rules() for kind in rule.float_types}
    legacy = {
        kind for kind in get_default_dynamic_quant_module_mappings() if kind.__module__.startswith("torch.nn")
    }
    subclasses = {torch.nn.modules.linear.NonDynamicallyQuantizableLinear}
    assert legacy - subclasses <= covered
    assert rule_of(torch.nn.modules.linear.NonDynamicallyQuantizableLinear(2, 2), all_rules()) is not None
