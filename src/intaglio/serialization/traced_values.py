"""What a forward meets while it is traced: values that are not known, and calls that need none of them.

`CarefulProxy` stands for the former and does not pretend to know more than it does, `TypeQuestions` answers
for it; `ConcreteCalls` watches the latter. May import graph_passes, allowed_functions and values.
"""

# ruff: noqa: SIM905 - lists of names read better as words

from __future__ import annotations

import dis
import sys
import types
from typing import Any, Protocol

import torch
from torch import Tensor, fx, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from intaglio.graph_passes.patched_names import PatchedNames
from intaglio.serialization.allowed_functions import RANDOM
from intaglio.serialization.values import UnstorableError

__all__ = ["CarefulProxy", "ConcreteCalls", "TypeQuestions", "is_in_place"]


_RANDOM_METHODS = frozenset(
    "bernoulli_ cauchy_ exponential_ geometric_ log_normal_ normal_ random_ uniform_".split()
)
_IN_PLACE_OPERATORS = frozenset(
    "iadd iand ifloordiv ilshift imatmul imod imul ior ipow irshift isub itruediv ixor setitem".split()
)


_PARAMETERS = (nn.Parameter, nn.Buffer)


class AskedTracer(Protocol):
    """A tracer that keeps the names of the inputs whose type was asked for."""

    asked_for_type: set[str]


class CarefulProxy(fx.Proxy):
    """A value that is not known while tracing."""

    def __bool__(self) -> bool:
        """An assertion becomes a step of the graph; any other decision cannot be recorded."""
        message = _message_of_assertion(sys._getframe(1))
        if message is None:
            return super().__bool__()
        self.tracer.create_proxy("call_function", torch._assert, (self, message), {})
        return True


class TypeQuestions(PatchedNames):
    """Tells the user's code (`isinstance`) that inputs and parameters are tensors.

    `RecordedModel` then demands that the inputs be; what a result would be is not known.
    """

    def __init__(self, tracer: AskedTracer, module: nn.Module) -> None:
        super().__init__(module)
        self._tracer = tracer

    def is_instance(self, value: Any, kinds: Any) -> bool:
        """`isinstance(value, kinds)`, where that is known."""
        if not isinstance(value, CarefulProxy):
            return isinstance(value, kinds)
        asked = set(tree_leaves(kinds))
        if value.node.op not in ("placeholder", "get_attr") or not asked.isdisjoint(_PARAMETERS):
            raise UnstorableError("it asks for the type of a value (isinstance), which a graph does not know")
        if value.node.op == "placeholder":
            self._tracer.asked_for_type.add(str(value.node.target))
        return issubclass(Tensor, kinds)


def _message_of_assertion(frame: types.FrameType) -> str | None:
    """The message of the `assert` that `frame` is about to decide, or None if it decides something else."""
    skipped = ("CACHE", "TO_BOOL", "NOT_TAKEN")
    following = [
        instruction
        for instruction in dis.get_instructions(frame.f_code)
        if instruction.offset >= frame.f_lasti and instruction.opname not in skipped
    ][:3]
    opnames = [instruction.opname for instruction in following]
    if len(following) < 3 or not opnames[0].endswith("IF_TRUE"):
        return None
    if opnames[1] != "LOAD_ASSERTION_ERROR" and following[1].argval is not AssertionError:
        return None
    message = following[2].argval if opnames[2] == "LOAD_CONST" else None
    return message if isinstance(message, str) else "an assertion of the model's own code"


class ConcreteCalls(TorchFunctionMode):
    """Watches the calls that do not depend on inputs and are therefore carried out while tracing.

    Random numbers become a step of the graph, as they would otherwise be those of the one call traced. What
    changes a tensor of the user's model, one of `shared`, is refused before it happens.
    """

    def __init__(self, tracer: fx.Tracer, shared: frozenset[int]) -> None:
        super().__init__()
        self._tracer = tracer
        self._shared = shared
        self._random = {name: getattr(torch, name) for name in RANDOM}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if name in self._random and getattr(torch.Tensor, name, None) is not func:
            return self._tracer.create_proxy("call_function", self._random[name], args, kwargs or {})
        if args and isinstance(args[0], Tensor) and is_in_place(name):
            if id(args[0]) in self._shared:
                raise UnstorableError(f"it changes a tensor of the model in place ({name})")
            if name in _RANDOM_METHODS:
                raise UnstorableError(f"it fills a tensor with random numbers ({name})")
        return func(*args, **(kwargs or {}))


def is_in_place(name: str) -> bool:
    """Whether a method or operator of this name changes its first argument."""
    return name.strip("_") in _IN_PLACE_OPERATORS or (name.endswith("_") and not name.endswith("__"))
