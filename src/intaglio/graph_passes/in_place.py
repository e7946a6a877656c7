"""Which steps of a graph change what they are given. May import nothing from the package."""

# ruff: noqa: SIM905 - lists of names read better as words

from __future__ import annotations

from torch import fx

__all__ = ["changes_its_input"]

_NUMERIC = "add and floordiv lshift matmul mod mul or pow rshift sub truediv xor".split()
_OPERATORS = frozenset({"setitem", *(f"i{name}" for name in _NUMERIC)})


def changes_its_input(node: fx.Node) -> bool:
    """Whether a function or a method changes the tensor that it takes first."""
    if node.op not in ("call_function", "call_method"):
        return False
    name = str(node.target if node.op == "call_method" else getattr(node.target, "__name__", ""))
    by_name = (name.endswith("_") and not name.endswith("__")) or name in _OPERATORS
    return by_name or bool(node.kwargs.get("inplace"))
