"""Every example in a docstring of the package runs and prints what it says."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import intaglio

MODULES = sorted(module.name for module in pkgutil.walk_packages(intaglio.__path__, "intaglio."))
MODULES.remove("intaglio._core")


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name: str) -> None:
    module = importlib.import_module(name)
    results = doctest.testmod(module, extraglobs={"intaglio": intaglio})
    assert results.failed == 0


def test_examples_were_found() -> None:
    finder = doctest.DocTestFinder()
    modules = [importlib.import_module(name) for name in MODULES]
    assert sum(bool(test.examples) for module in modules for test in finder.find(module)) >= 15
