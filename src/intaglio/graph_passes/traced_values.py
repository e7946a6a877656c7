"""`ValueProxy`: a value that stands in a graph and is known for the example calls as well.

What does not vary with data or sizes (rank, dtype, device, which keys a dict has) is simply told. A decision
on what varies is taken where all example calls agree on it, and checked again whenever the graph runs; where
they disagree, or where it hangs on data, `CannotTrace` is raised, and the code that asks stays Python. May
import errors.
"""

# ruff: noqa: SIM905 - lists of names read better as words

from __future__ import annotations

import dis
import operator
import sys
import types
from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import Tensor, fx

from intaglio.errors import InputError

__all__ = ["CHECKS", "CannotTrace", "ValueProxy", "check_equal", "check_given", "check_keys"]


class CannotTrace(Exception):  # noqa: N818  # no error of the user's
    """The code that is traced asks for what no graph can know; the message says what."""


_FACTS = frozenset("dtype device ndim is_cuda is_meta is_quantized is_sparse layout requires_grad".split())
"""Attributes of a tensor that are told as they are."""
_FACT_METHODS = frozenset(
    "dim ndimension is_floating_point is_complex get_device element_size is_contiguous is_nested".split()
)
_TOLD = (str, type(None), torch.dtype, torch.device, type, types.ModuleType)
"""Values of these types are themselves, checked when the graph runs."""


def check_equal(value: Any, traced: Any, what: str) -> None:
    """A step of a graph: raise `InputError` if what was decided while tracing would be decided otherwise."""
    if value is traced or (not isinstance(value, Tensor) and value == traced):
        return
    found = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)
    raise InputError(
        f"{what} is {found} in this call, but it was {traced!r} in the example that the model was traced "
        "with, and the graph holds for that alone: prepare it with example_inputs like this call's"
    )


def check_given(value: Any, what: str) -> None:
    """A step of a graph: raise `InputError` if an argument is None that the traced example had."""
    if value is None:
        raise InputError(
            f"{what} is None in this call, but it was given in the example that the model was traced with, "
            "and the graph holds for that alone: prepare it with example_inputs like this call's"
        )


def check_keys(value: Any, traced: tuple[Any, ...], what: str) -> None:
    """A step of a graph: raise `InputError` unless a dict or a sequence has the traced keys or length."""
    keys = tuple(value) if isinstance(value, dict) else len(value)
    expected = traced if isinstance(value, dict) else traced[0]
    check_equal(keys, expected, f"{what}: the {'keys' if isinstance(value, dict) else 'length'}")


CHECKS = (check_equal, check_given, check_keys)
"""Steps of a graph that give nothing, and raise where a call is not like the example."""


class ValueProxy(fx.Proxy):
    """A node of the graph that knows its value in each example call."""

    @property
    def known(self) -> tuple[Any, ...]:
        """Its value in each example call."""
        found: tuple[Any, ...] = self.tracer.values[self.node]  # type: ignore[attr-defined]
        return found

    # No __class__ that says Tensor, and no __index__: torch's own C++ code would take it at its word.

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.known[0], name)  # AttributeError as the value itself would raise
        is_tensor = isinstance(self.known[0], Tensor)
        if is_tensor and name in _FACTS:
            return found
        if callable(found) and not isinstance(found, Tensor):
            return _Method(self, name, found if is_tensor and name in _FACT_METHODS else None)
        return self.tracer.create_proxy("call_function", getattr, (self, name), {})

    # ---- Where Python wants to know -----------------------------------------------------------------------

    def __bool__(self) -> bool:
        """The decision, if it may be taken; an assertion becomes a step of the graph."""
        decisions = [bool(value) for value in self.known]
        if _only_raises(sys._getframe(1), not decisions[0]):
            if not self.tracer.is_data(self.node):  # type: ignore[attr-defined]
                self._assert(decisions[0])
            return decisions[0]
        if self.tracer.is_data(self.node):  # type: ignore[attr-defined]
            raise CannotTrace("a decision that depends on data")
        return bool(self._agreed(decisions, "a decision that depends on the size of the input"))

    def _assert(self, holds: bool) -> None:
        condition = self if holds else self.tracer.create_proxy("call_function", operator.not_, (self,), {})
        message = f"a check in the forward of '{self.tracer.where()}' failed"  # type: ignore[attr-defined]
        self.tracer.create_proxy("call_function", torch._assert, (condition, message), {})

    def __int__(self) -> int:
        return int(self.number())

    def __float__(self) -> float:
        return float(self.number())

    def number(self) -> Any:
        """The number that it is, where all example calls agree."""
        if self.tracer.is_data(self.node):  # type: ignore[attr-defined]
            raise CannotTrace("a Python number that is made from data")
        return self._agreed(list(self.known), "a Python number that depends on the size of the input")

    def _agreed(self, found: list[Any], what: str) -> Any:
        """What all example calls agree on, with a step that checks it."""
        varies = self.tracer.is_size(self.node) and not self._compares_sizes()  # type: ignore[attr-defined]
        if varies or any(value != found[0] for value in found):
            raise CannotTrace(what)
        self.tracer.create_proxy(
            "call_function",
            check_equal,
            (self, self.known[0], f"in the forward of '{self.tracer.where()}', {what}"),  # type: ignore[attr-defined]
            {},
        )
        return found[0]

    def _compares_sizes(self) -> bool:
        """Whether two sizes are compared, and three calls of different sizes can tell how."""
        inputs = self.node.all_input_nodes
        compares = self.node.target in (operator.eq, operator.ne) and len(inputs) == 2
        return compares and len(self.known) > 2 and all(self.tracer.is_size(x) for x in inputs)  # type: ignore[attr-defined]

    def __len__(self) -> int:
        lengths = {len(value) for value in self.known}
        if len(lengths) > 1:
            raise CannotTrace("a length that depends on the size of the input")
        if isinstance(self.known[0], Tensor):
            size = self.tracer.create_proxy("call_method", "size", (self, 0), {})
            return int(cast(ValueProxy, size).number())
        self._check_keys()
        return lengths.pop()

    def _check_keys(self) -> None:
        value = self.known[0]
        if isinstance(value, torch.Size) or hasattr(value, "_fields"):
            return  # whose length follows from the rank or the type
        keys = tuple(value) if isinstance(value, dict) else (len(value),)
        where = f"a value in the forward of '{self.tracer.where()}'"  # type: ignore[attr-defined]
        self.tracer.create_proxy("call_function", check_keys, (self, keys, where), {})

    def __iter__(self) -> Iterator[Any]:
        count = _unpacked(sys._getframe(1))
        if count is None or isinstance(self.known[0], dict):
            if isinstance(self.known[0], dict):
                self._check_keys()
                return iter(list(self.known[0]))
            count = len(self)
        return iter([self[i] for i in range(count)])

    def __contains__(self, item: Any) -> bool:
        value = self.known[0]
        if isinstance(value, Tensor) or isinstance(item, fx.Proxy):
            raise CannotTrace("a search in a value that is not known")
        self._check_keys()
        return bool(item in value)

    def keys(self) -> Any:
        """The keys of a dict, as `**` asks for them."""
        return list(self)

    def __getitem__(self, key: Any) -> Any:
        return self.tracer.create_proxy("call_function", operator.getitem, (self, key), {})

    def __setitem__(self, key: Any, value: Any) -> None:
        self.tracer.create_proxy("call_function", operator.setitem, (self, key, value), {})

    def __hash__(self) -> int:
        return id(self)

    def __round__(self, digits: int | None = None) -> Any:
        return self.tracer.create_proxy(
            "call_function", round, (self,) if digits is None else (self, digits), {}
        )

    def __reversed__(self) -> Iterator[Any]:
        return iter(list(self)[::-1])


class _Method:
    """A method of a value that stands in a graph; one that only states a fact is called at once."""

    def __init__(self, proxy: ValueProxy, name: str, fact: Any) -> None:
        self._proxy, self._name, self._fact = proxy, name, fact

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self._fact is not None:
            return self._fact(*args, **kwargs)
        value = self._proxy.known[0]
        if isinstance(value, dict) and self._name in ("keys", "values", "items"):
            keys = list(self._proxy)
            found = {"keys": keys, "values": [self._proxy[k] for k in keys]}
            return found[self._name] if self._name in found else [(k, self._proxy[k]) for k in keys]
        return self._proxy.tracer.create_proxy("call_method", self._name, (self._proxy, *args), kwargs)


def is_told(value: Any) -> bool:
    """Whether a value is its own stand-in."""
    return isinstance(value, _TOLD)


# ---- Reading the code that asks ----------------------------------------------------------------------------

_SKIPPED = ("CACHE", "TO_BOOL", "NOT_TAKEN", "EXTENDED_ARG", "NOP", "PRECALL")
_MOST_READ = 40


def _instructions(code: types.CodeType) -> list[dis.Instruction]:
    return [found for found in dis.get_instructions(code) if found.opname not in _SKIPPED]


def _only_raises(frame: types.FrameType, decision: bool) -> bool:
    """Whether `decision`, which `frame` is about to take, leads to nothing but an exception."""
    found = _instructions(frame.f_code)
    at = next((i for i, step in enumerate(found) if step.offset >= frame.f_lasti), None)
    if at is None:
        return False
    jump = found[at].opname
    if "JUMP" not in jump or not ("IF_TRUE" in jump or "IF_FALSE" in jump):
        return False
    jumps_if = "IF_TRUE" in jump
    start = at + 1
    if jumps_if is decision:
        start = next((i for i, step in enumerate(found) if step.offset >= found[at].argval), len(found))
    for step in found[start : start + _MOST_READ]:
        if step.opname == "RAISE_VARARGS":
            return True
        if "JUMP" in step.opname or "RETURN" in step.opname or step.opname.startswith(("STORE", "FOR_ITER")):
            return False
    return False


def _unpacked(frame: types.FrameType) -> int | None:
    """Into how many names `frame` is about to unpack a value, or None if it does something else."""
    for step in _instructions(frame.f_code):
        if step.offset >= frame.f_lasti:
            return int(step.argval) if step.opname == "UNPACK_SEQUENCE" else None
    return None
