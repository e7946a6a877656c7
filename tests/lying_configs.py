"""Run by test_file_hostile.py in a process of its own, which a kernel that believes a lie would end.

    python -m tests.lying_configs FOLDER

Changes each value in the config of a saved module to others of its type, with a checksum that agrees, and
runs what still loads: for each example of each rule. Prints how many loaded. Errors are what should happen; a
crash is what must not.
"""

import contextlib
import copy
import resource
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

import intaglio
from intaglio.rules import OpRule
from tests.file_models import RULE_EXAMPLES
from tests.forging import forge

MEMORY = 8 * 2**30
INTEGERS = (0, 1, -1, 2, 3, 7, 64, 1000, 2**31, -(2**31), 2**62)
TEXTS = ("", "same", "valid", "zeros", "reflect", "mean", "max", "sum", "int8", "uint4", "relu", "x" * 100)


def lies_about(value: Any) -> Iterator[Any]:
    """Other values in the place of one in a config."""
    if isinstance(value, bool):
        yield not value
    elif isinstance(value, int):
        yield from {*INTEGERS, value + 1, value - 1, value * 2, -value}
    elif isinstance(value, float):
        yield from (0.0, -1.0, 1e30, -value)
    elif isinstance(value, str):
        yield from TEXTS
    elif value is None:
        yield from (*INTEGERS, 0.5)
    elif isinstance(value, list):
        yield from ([], value[:-1], value * 2)
        for index, item in enumerate(value):
            yield from ([*value[:index], lie, *value[index + 1 :]] for lie in lies_about(item))
    elif isinstance(value, dict):
        for key, item in value.items():
            yield {k: v for k, v in value.items() if k != key}
            yield from ({**value, key: lie} for lie in lies_about(item))


def tell_lies(rule: OpRule, dtype: str, example: int, folder: Path) -> int:
    """How many changed configs of one example of a rule still load."""
    model, inputs = rule.examples[example]()
    if rule.refuse(model, intaglio.qconfig.dynamic_qconfig_of(dtype)) is not None:
        return 0
    quantized = intaglio.quantize_dynamic(nn.ModuleDict({"layer": model.eval()}), {"layer"}, dtype)["layer"]
    intaglio.save(quantized, folder / "model")
    data = (folder / "model").read_bytes()
    loaded = 0
    for config in lies_about(quantized.config()):

        def lie(recipe: dict[str, Any], config: Any = config) -> None:
            recipe["modules"][0].update(config=copy.deepcopy(config))

        (folder / "lie").write_bytes(forge(data, lie))
        with contextlib.suppress(intaglio.FileFormatError):
            liar = intaglio.load(folder / "lie")
            loaded += 1
            with contextlib.suppress(Exception), torch.no_grad():
                liar(*inputs)
    return loaded


def main(folder: Path) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))  # a lie may ask for any output
    torch.manual_seed(0)
    for rule, dtype, example in RULE_EXAMPLES:
        print(rule.name, dtype, example, end=": ", flush=True)
        print(tell_lies(rule, dtype, example, folder), "loaded", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
