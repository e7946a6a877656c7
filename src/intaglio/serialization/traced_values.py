"""What a forward meets while it is traced: values that are not known, and calls that need none of them.

`CarefulProxy` stands for the former and does not pretend to know more than it does; `ConcreteCalls` watches
the latter. May import allowed_functions and values.
"""

# ruff: noqa: SIM905 - lists of names read better as words

from __future__ import annotations

import dis
import sys
import types
from typing import Any

import torch
from torch import Tensor, fx
from torch.overrides import TorchFunctionMode

from intaglio.serialization.allowed_functions import RANDOM
from intaglio.serialization.values import UnstorableError

__all__ = ["CarefulProxy", "ConcreteCalls", "is_in_place"]


_RANDOM_METHODS = frozenset(
    "bernoulli_ cauchy_ exponential_ geometric_ log_normal_ normal_ random_ uniform_".split()
)
_IN_PLACE_OPERATORS = frozenset(
    "iadd iand ifloordiv ilshift imatmul imod imul ior ipow irshift isub itruediv ixor setitem".split()
)


class CarefulProxy(fx.Proxy):
    """A value that is not known while tracing. torch.fx's own says it is no tensor, and code believes it.

    Asked by the user's code (`isinstance`), inputs and parameters are tensors, which `RecordedModel` then
    demands; what a result would be is not known.
    """

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        asker = sys._getframe(1)
        asks_for_parameter = asker.f_globals.get("__name__") == "torch.nn.parameter"
        if asks_for_parameter and asker.f_back is not None:
            asker = asker.f_back
        package = str(asker.f_globals.get("__name__")).partition(".")[0]
        if package in ("torch", "intaglio") and asker.f_code.co_name != "is_tensor":
            return CarefulProxy
        if self.node.op == "placeholder" and not asks_for_parameter:
            self.tracer.asked_for_type.add(str(self.node.target))  # type: ignore[attr-defined]
        elif self.node.op != "get_attr" or asks_for_parameter:
            raise UnstorableError("it asks for the type of a value (isinstance), which a graph does not know")
        return Tensor

    def __bool__(self) -> bool:
        """An assertion becomes a step of the graph; any other decision cannot be recorded."""
        message = _message_of_assertion(sys._getframe(1))
        if message is None:
            return super().__bool__()
        self.tracer.create_proxy("call_function", torch._assert, (self, message), {})
        return True


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
