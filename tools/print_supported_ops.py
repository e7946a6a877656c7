"""Prints docs/supported-ops.md from the registered rules: the table is what the code does.

usage: python tools/print_supported_ops.py > docs/supported-ops.md
"""

from __future__ import annotations

from intaglio.rules import OpRule, all_rules

HEAD = """# What can be quantized

Printed from the rules by `tools/print_supported_ops.py`; a test keeps it true.

A float class also covers its subclasses that do not override `forward`. "By default" names the dtypes for
which `quantize_dynamic` takes the class when it is not told what to take. Whatever has no rule stays float,
and `intaglio.summary` says so.

"Static" says what `convert` makes of a class that `prepare` observed: a module between quantized values, one
whose parameters hold whatever comes ("fixed range"), or one that gives float values.

| float class | dynamic: weights as | by default for | static |
| --- | --- | --- | --- |"""


def row(rule: OpRule) -> str:
    """The line of one rule."""
    classes = [
        f"`{'nn' if kind.__module__.startswith('torch') else 'intaglio'}.{kind.__name__}`"
        for kind in rule.float_types
    ]
    names = [f"`{name}`" for name in sorted(rule.float_type_names)]
    cells = (
        ", ".join(classes + names),
        listed(rule.weight_dtypes),
        listed(rule.default_for),
        static_form(rule),
    )
    return f"| {' | '.join(cells)} |"


def static_form(rule: OpRule) -> str:
    """What the static form gives."""
    if rule.static is None:
        return "-"
    output = rule.static.output
    return {"observed": "quantized", "float": "float"}[output] if isinstance(output, str) else "fixed range"


def listed(names: frozenset[str]) -> str:
    """Names in a fixed order."""
    return ", ".join(sorted(names)) or "-"


def table() -> str:
    """The page."""
    return "\n".join([HEAD, *(row(rule) for rule in sorted(all_rules(), key=lambda rule: rule.name))])


if __name__ == "__main__":
    print(table())
