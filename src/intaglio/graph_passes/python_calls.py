"""What the traced code calls that `torch.fx` does not see: Python's built-in functions, factories, helpers.

`len`, `int`, `max` and torch's factories take stand-ins while a model is traced; a function or method that
cannot be traced is replaced, where the code looks it up, by one that becomes a step of the graph. All is put
back afterwards. May import patched_names, traced_values.
"""

# ruff: noqa: SIM905 - lists of names read better as words

from __future__ import annotations

import builtins
import inspect
import types
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves

from intaglio.graph_passes.patched_names import PatchedNames, package_of
from intaglio.graph_passes.traced_values import ValueProxy

__all__ = ["PatchedCalls", "find_culprit"]

_FACTORIES = """
    arange empty eye full linspace logspace ones rand randint randn randperm tril_indices triu_indices zeros
""".split()


class Traces(Protocol):
    """What a tracer offers to the calls that it patches."""

    def create_proxy(self, kind: str, target: Any, args: Any, kwargs: Any) -> Any:
        """Make a step of the graph."""

    def call_left(self, function: Callable[..., Any], args: Any, kwargs: Any, reason: str) -> Any:
        """Make a step that calls a function as it is."""

    def method_left(
        self, owner: nn.Module, function: Callable[..., Any], args: Any, kwargs: Any, reason: str
    ) -> Any:
        """Make a step that calls a module's method as it is."""


def _is_traced(values: Any) -> bool:
    return any(isinstance(x, fx.Proxy) for x in tree_leaves(values))


def find_culprit(error: BaseException, module: nn.Module) -> list[types.CodeType]:
    """The code of the functions in which an error came up below the forward of `module`, best to leave first.

    The outermost function of another library than the module's own comes first, for what is inside is not the
    user's; then the innermost of the user's own.
    """
    forward = getattr(type(module).forward, "__code__", None)
    frames: list[types.FrameType] = []
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code is forward and trace.tb_frame.f_locals.get("self") is module:
            frames = []
        else:
            frames.append(trace.tb_frame)
        trace = trace.tb_next
    own = package_of(type(module).__module__)
    users: list[types.FrameType] = []
    for frame in frames:
        name = str(frame.f_globals.get("__name__"))
        if name.startswith(("torch.", "intaglio.graph_passes")) or name == "torch":
            if users:
                break
            continue
        users.append(frame)
    foreign = [f for f in users if package_of(str(f.f_globals.get("__name__"))) != own][:1]
    return [frame.f_code for frame in (*foreign, *reversed(users))]


class PatchedCalls(PatchedNames):
    """While it is entered, the code of `module` meets calls that know stand-ins."""

    def __init__(self, tracer: Traces, module: nn.Module) -> None:
        super().__init__(module)
        self._tracer = tracer
        self._left: set[types.CodeType] = set()

    def is_instance(self, value: Any, kinds: Any) -> bool:
        """What is asked of a stand-in is answered for its value."""
        return _isinstance(value, kinds)

    def __enter__(self) -> PatchedCalls:
        super().__enter__()
        replaced: dict[str, Any] = {"len": self._len, "range": _range}
        replaced |= {"min": self._joining(min), "max": self._joining(max)}
        replaced |= {kind.__name__: self._number(kind) for kind in (int, float)}
        for space in self._namespaces():
            for name, function in replaced.items():
                if name not in space:
                    self._set(space, name, function)
        for name in _FACTORIES:
            self._set(vars(torch), name, self._joining(getattr(torch, name)))
        return self

    def leave(self, codes: list[types.CodeType], reason: str) -> bool:
        """Make the first function of `codes` that can be found a step of its own; whether there is one."""
        for code in codes:
            if code not in self._left and self._leave(code, reason):
                self._left.add(code)
                return True
        return False

    def _leave(self, code: types.CodeType, reason: str) -> bool:
        count = len(self._undo)
        for space in self._namespaces(code.co_filename):
            for name, value in list(space.items()):
                if isinstance(value, types.FunctionType) and _code_of(value) is code:
                    self._set(space, name, self._leaving(value, reason))
        for kind in self._classes:
            for name, value in list(vars(kind).items()):
                function = value.__func__ if isinstance(value, (staticmethod, classmethod)) else value
                if not isinstance(function, types.FunctionType) or _code_of(function) is not code:
                    continue
                if name == "forward" or isinstance(value, classmethod):
                    continue
                is_static = isinstance(value, staticmethod)
                made: Any = (
                    self._leaving(function, reason) if is_static else self._leaving_method(function, reason)
                )
                setattr(kind, name, staticmethod(made) if is_static else made)
                self._undo.append(lambda kind=kind, name=name, value=value: setattr(kind, name, value))  # type: ignore[misc]
        return len(self._undo) > count

    def _leaving(self, function: Callable[..., Any], reason: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if not _is_traced((args, kwargs)):
                return function(*args, **kwargs)
            return self._tracer.call_left(function, args, kwargs, reason)

        return call

    def _leaving_method(self, function: Callable[..., Any], reason: str) -> Callable[..., Any]:
        def call(owner: Any, *args: Any, **kwargs: Any) -> Any:
            if not isinstance(owner, nn.Module) or not _is_traced((args, kwargs)):
                return function(owner, *args, **kwargs)
            return self._tracer.method_left(owner, function, args, kwargs, reason)

        return call

    # ---- Built-in functions --------------------------------------------------------------------------------

    def _joining(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """A function that becomes a step if any of its arguments is a stand-in."""

        def call(*args: Any, **kwargs: Any) -> Any:
            if not _is_traced((args, kwargs)):
                return function(*args, **kwargs)
            return self._tracer.create_proxy("call_function", function, args, kwargs)

        return call

    def _len(self, value: Any) -> Any:
        if isinstance(value, ValueProxy) and isinstance(value.known[0], Tensor):
            return value.size(0)
        return builtins.len(value)

    def _number(self, kind: type) -> type:
        """A class that stands for `int` or `float`: the type, but for stand-ins of numbers."""

        class Meta(type):
            def __call__(cls, *args: Any) -> Any:
                if not (args and isinstance(args[0], ValueProxy)):
                    return kind(*args)
                if isinstance(args[0].known[0], kind):
                    return args[0]
                return args[0].tracer.create_proxy("call_function", kind, args, {})

            def __instancecheck__(cls, instance: Any) -> bool:
                return _isinstance(instance, kind)

        return Meta(kind.__name__, (), {})


def _isinstance(value: Any, kinds: Any) -> bool:
    """What is asked of a stand-in is answered for its value."""
    return isinstance(value.known[0] if type(value) is ValueProxy else value, kinds)


def _range(*args: Any) -> range:
    return range(*(x.number() if isinstance(x, ValueProxy) else x for x in args))


def _code_of(function: Callable[..., Any]) -> types.CodeType | None:
    return getattr(inspect.unwrap(function), "__code__", None)
