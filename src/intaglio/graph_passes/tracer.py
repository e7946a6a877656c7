"""The tracer of one module: `torch.fx` with stand-ins that know their values in each example call.

Where the code asks for more than a graph can know, the smallest function, method or module that asks becomes
one step of the graph. May import traced_values, examples, python_calls, method_calls and errors.
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import fields, is_dataclass
from typing import Any, Literal

import torch
from torch import Tensor, fx, nn
from torch.fx._symbolic_trace import _orig_module_call

from intaglio.graph_passes.examples import Call, clone_values
from intaglio.graph_passes.in_place import changes_its_input
from intaglio.graph_passes.method_calls import MethodCall
from intaglio.graph_passes.module_state import check_stateless, held_by, put_back
from intaglio.graph_passes.python_calls import PatchedCalls, find_culprit
from intaglio.graph_passes.traced_values import (
    CHECKS,
    CannotTrace,
    ValueProxy,
    check_equal,
    check_given,
    check_keys,
    is_told,
)
from intaglio.graph_passes.training_mode import MODE, TrainingMode, hidden_modes

__all__ = ["SCOPE", "VALUES", "Tracer", "Treat", "Treatment", "join_paths"]

SCOPE = "intaglio_scope"
"""In a node's meta: the path of the module in whose forward it stands."""
VALUES = "intaglio_values"
"""In a node's meta: its value in each example call, tensors without data (meta)."""

Treatment = Literal["leaf", "inside", "children", "apart"]
"""What a tracer does with a module: call it, look into it, trace only its children, or trace it by itself."""
Treat = Callable[[nn.Module, str], Treatment]


_GIVE_NOTHING = (*CHECKS, torch._assert, operator.setitem)


class Tracer(fx.Tracer):
    """Traces one module, with its value in each example call beside every node."""

    def __init__(self, path: str, treat: Treat, *, is_qat: bool = False) -> None:
        super().__init__()
        self.path = path
        self.is_qat = is_qat
        self.values: dict[fx.Node, tuple[Any, ...]] = {}
        self.left: dict[str, str] = {}
        self.opaque_modules: list[str] = []
        self.calls: dict[str, list[Call]] = {}
        self._treat = treat
        self._data: set[fx.Node] = set()
        self._sizes: set[fx.Node] = set()
        self._inside: list[str] = []
        self._computing = 0
        self._given: Sequence[Call] = ()
        self._pending: list[tuple[Callable[..., None], fx.Node, tuple[Any, ...]]] = []
        self._names: dict[int, str] = {}
        self._storages: set[int] = set()
        self._patched: PatchedCalls
        self._called_inside = False

    def graph_module(self, module: nn.Module, calls: Sequence[Call]) -> fx.GraphModule:
        """The graph of `module`, for calls like these."""
        self._given = [call.copied() for call in calls]
        with (
            torch.no_grad(),
            torch.random.fork_rng(devices=[]),
            PatchedCalls(self, module) as self._patched,
            hidden_modes(module, self._looks_into) if self.is_qat else nullcontext(),
        ):
            graph = self.trace(module)
        graph._tracer_cls = None  # a pickle is read by torch's own
        for node in graph.nodes:
            node.meta[VALUES] = tuple(_without_data(value) for value in self.values.get(node, ()))
            if node.op == "call_function" and not _is_of_torch(node.target):
                node.meta["is_wrapped"] = True  # so that reading a pickle does not look into it
        made = fx.GraphModule(self.root, graph, type(module).__name__)
        made.train(module.training)
        return made

    def forget(self) -> None:
        """Let go of all values: what lives on for a while and holds the tracer then holds nothing large."""
        self.values.clear()
        self.calls.clear()
        self._given, self._pending = (), []
        self.root = nn.Module()

    def reason_of(self, error: Exception) -> str:
        """Why something stays Python, in words."""
        if isinstance(error, CannotTrace):
            return str(error)
        text = str(error).strip().partition("\n")[0]
        return f"its code asks more of a value than a graph can know ({type(error).__name__}: {text})"

    def where(self) -> str:
        """The path of the module whose forward is being traced."""
        return join_paths(self.path, self._inside[-1] if self._inside else "")

    def is_data(self, node: fx.Node) -> bool:
        """Whether a value follows from what tensors hold, and not from their sizes alone."""
        return node in self._data or isinstance(self.values[node][0], Tensor)

    def is_size(self, node: fx.Node) -> bool:
        """Whether a value follows from a size that other calls may have otherwise."""
        return node in self._sizes

    def _looks_into(self, module: nn.Module, path: str) -> bool:
        """Whether the forward of a module in the traced one is traced."""
        return self._treat(module, join_paths(self.path, path)) == "inside"

    # ---- What torch.fx asks --------------------------------------------------------------------------------

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """What is called and not looked into."""
        return (
            isinstance(m, MethodCall)
            or self._treat(m, join_paths(self.path, module_qualified_name)) == "leaf"
        )

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """A step of the graph, or the steps of its forward, if that can be traced."""
        if self._computing:
            self._called_inside = True
            return forward(*args, **kwargs)
        path = self.path_of_module(m)
        if self.is_leaf_module(m, path):
            return self.create_proxy("call_module", path, args, kwargs)
        if self._treat(m, join_paths(self.path, path)) in ("children", "apart"):
            return self._leave(path, args, kwargs)
        while True:
            count, left, held = len(self.graph.nodes), dict(self.left), held_by(m)
            self._inside.append(path)
            try:
                found = forward(*args, **kwargs)
                check_stateless(m, held)
                return found
            except Exception as error:  # as above
                for node in list(self.graph.nodes)[count:][::-1]:
                    self.graph.erase_node(node)
                self.left = left
                put_back(m, held)
                reason = self.reason_of(error)
                culprit = find_culprit(error, m)
                if culprit is None or not self._patched.leave(culprit, reason):
                    self.left[join_paths(self.path, path)] = reason
                    return self._leave(path, args, kwargs)
            finally:
                self._inside.pop()

    def _leave(self, path: str, args: Any, kwargs: Any) -> Any:
        """A step that calls a module whose forward stays Python."""
        if path not in self.opaque_modules:
            self.opaque_modules.append(path)
            per_call = [self._known((args, kwargs), number) for number in range(len(self._given))]
            self.calls[path] = [Call(*clone_values(found)) for found in per_call]
        return self.create_proxy("call_module", path, args, kwargs)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, fx.Proxy]) -> Any:
        """A stand-in for each parameter and buffer: methods of tensors do not see those among their sizes."""
        if attr_val is MODE:
            return False if self._computing else self._mode()
        if self._computing or not isinstance(attr_val, Tensor):
            return attr_val
        if not self._names:
            held = [*self.root.named_parameters(), *self.root.named_buffers()]
            self._names.update((id(tensor), name) for name, tensor in held)
        name = self._names.get(id(attr_val))
        if name is None:
            return attr_val
        return self.create_proxy("get_attr", name, (), {})

    def _mode(self) -> Any:
        """What stands for a module's `training`: the graph asks for it when it runs."""
        name = "training_mode"
        if not isinstance(self.root._modules.get(name), TrainingMode):
            self.root._modules[name] = TrainingMode()
        flag = self.create_node("call_module", name, (), {})
        self.values[flag] = (False,) * len(self._given)
        self._data.add(flag)  # no decision on it can be taken once and for all
        return ValueProxy(flag, self)

    def proxy(self, node: fx.Node) -> fx.Proxy:
        """A stand-in that knows its values."""
        return ValueProxy(node, self)

    def create_proxy(self, kind: str, target: Any, args: Any, kwargs: Any, *more: Any, **named: Any) -> Any:
        """Make a node, work out its values, and give what stands for it, or its value if that may be told."""
        node = self.create_node(kind, target, self.create_arg(args), self.create_arg(kwargs))
        self._refuse_change(node)
        values = self._values_of(node)
        if self._follows_from_data(node):
            self._data.add(node)
        if self._follows_from_sizes(node):
            self._sizes.add(node)
        if kind != "placeholder" and is_told(values[0]):
            if any(value != values[0] for value in values):
                raise CannotTrace("a value that depends on the size of the input")
            if node.op == "call_function" and node.target in _GIVE_NOTHING:
                return None
            where = f"a value in the forward of '{self.where()}'"
            self._check(check_equal, node, (values[0], where))
            return values[0]
        return ValueProxy(node, self)

    def _refuse_change(self, node: fx.Node) -> None:
        """Raise `CannotTrace` for what changes a tensor of the model: the next call would not see it."""
        if not changes_its_input(node) or not node.args or not isinstance(node.args[0], fx.Node):
            return
        changed = self._values_of(node.args[0])[0]
        if not self._storages:
            held = (*self.root.parameters(), *self.root.buffers())
            self._storages.update(tensor.untyped_storage().data_ptr() for tensor in held)
        if isinstance(changed, Tensor) and changed.untyped_storage().data_ptr() in self._storages:
            raise CannotTrace("a tensor of the model that it changes in place")

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        """A node that knows in whose forward it stands."""
        node = super().create_node(*args, **kwargs)
        node.meta[SCOPE] = self._inside[-1] if self._inside else ""
        return node

    def create_arg(self, a: Any) -> Any:
        """Tensors by the names that they have in the module; others become constants of the graph."""
        if isinstance(a, ValueProxy):
            return a.node
        if isinstance(a, dict) and type(a) is not dict:  # a class of answers, as transformers has them
            return self._made_again(a)
        return super().create_arg(a)

    def _made_again(self, value: dict[Any, Any]) -> fx.Node:
        """A step that makes a dict of its own class: by its fields, if it has them, or from a plain dict."""
        if is_dataclass(value):
            held = {
                f.name: getattr(value, f.name) for f in fields(value) if getattr(value, f.name) is not None
            }
            return self.create_node("call_function", type(value), (), self.create_arg(held))
        return self.create_node("call_function", type(value), (self.create_arg(dict(value)),), {})

    def create_args_for_root(self, root_fn: Any, is_module: bool, concrete_args: Any = None) -> Any:
        """The arguments as the example calls give them: tensors and numbers stand for themselves."""
        call = self._given[0]
        signature = inspect.signature(self.root.forward)
        bound = signature.bind(*call.args, **call.kwargs).arguments
        args: list[Any] = [self.root]
        kwargs: dict[str, Any] = {}
        for name, parameter in signature.parameters.items():
            value = self._argument(parameter, bound)
            if parameter.kind is parameter.VAR_POSITIONAL:
                args += [value[i] for i in range(len(bound.get(name, ())))]
            elif parameter.kind is parameter.VAR_KEYWORD:
                kwargs |= {key: value[key] for key in bound.get(name, {})}
            elif len(args) <= len(call.args) and parameter.kind is not parameter.KEYWORD_ONLY:
                args.append(value)
            elif name in bound or isinstance(value, fx.Proxy):  # what is not given the forward knows itself
                kwargs[name] = value

        for check in self._pending:
            self._check(*check)
        return self._call_root(kwargs), args

    def _call_root(self, kwargs: Mapping[str, Any]) -> Callable[..., Any]:
        def call(root: nn.Module, *given: Any) -> Any:
            while True:
                count, left = len(self.graph.nodes), dict(self.left)
                held = held_by(root)
                try:
                    found = root.forward(*given, **kwargs)
                    check_stateless(root, held)
                    return found
                except Exception as error:  # as above
                    culprit = find_culprit(error, root)
                    if culprit is None or not self._patched.leave(culprit, self.reason_of(error)):
                        raise
                    for node in list(self.graph.nodes)[count:][::-1]:
                        self.graph.erase_node(node)
                    self.left = left

        call.__annotations__ = {}  # which torch.fx would write into the graph's code
        return call

    def _argument(self, parameter: inspect.Parameter, bound: Mapping[str, Any]) -> Any:
        """What stands for one argument of the traced module; a told one is checked when the graph runs."""
        name = parameter.name
        stars: dict[Any, str] = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}
        is_given = name in bound
        target = stars.get(parameter.kind, "") + name
        default = () if parameter.default is parameter.empty else (parameter.default,)
        node = self.create_node("placeholder", target, default, {})
        empty: Any = () if parameter.kind is parameter.VAR_POSITIONAL else {}
        otherwise = parameter.default if parameter.default is not parameter.empty else empty
        self.values[node] = tuple(
            inspect.signature(self.root.forward).bind(*c.args, **c.kwargs).arguments.get(name, otherwise)
            for c in self._given
        )
        value = self.values[node][0]
        what = f"the argument '{name}'" + (f" of '{self.path}'" if self.path else "")
        if parameter.kind in stars:
            keys = tuple(value) if isinstance(value, dict) else (len(value),)
            self._pending.append((check_keys, node, (keys, what)))
            return ValueProxy(node, self)
        varies = isinstance(value, (Tensor, int, float, tuple, list, dict)) and not isinstance(value, bool)
        if varies and is_given and parameter.default is None:
            self._pending.append((check_given, node, (what,)))
        if varies and (is_given or isinstance(value, Tensor)):
            return ValueProxy(node, self)
        self._pending.append((check_equal, node, (value, what)))
        return value

    def _check(self, function: Callable[..., None], node: fx.Node, arguments: tuple[Any, ...]) -> None:
        checked = self.create_node("call_function", function, (node, *self.create_arg(arguments)), {})
        self.values[checked] = (None,) * len(self._given)

    # ---- Values --------------------------------------------------------------------------------------------

    def _known(self, values: Any, number: int) -> Any:
        """`values` with each stand-in replaced by what it stands for in a call."""
        return fx.node.map_aggregate(
            values,
            lambda x: (
                self._values_of(x.node if isinstance(x, fx.Proxy) else x)[number]
                if isinstance(x, (fx.Proxy, fx.Node))
                else x
            ),
        )

    def _values_of(self, node: fx.Node) -> tuple[Any, ...]:
        """A node's value in each example call, worked out when it is first asked for."""
        if node not in self.values:
            self.values[node] = tuple(self._compute(node, number) for number in range(len(self._given)))
        return self.values[node]

    def _compute(self, node: fx.Node, number: int) -> Any:
        args, kwargs = self._known((node.args, node.kwargs), number)
        self._computing += 1
        try:
            if node.op == "get_attr":
                return operator.attrgetter(str(node.target))(self.root)
            if node.op == "call_module":
                return _orig_module_call(self.root.get_submodule(str(node.target)), *args, **kwargs)
            if node.op == "call_method":
                return getattr(args[0], str(node.target))(*args[1:], **kwargs)
            assert callable(node.target)
            return node.target(*args, **kwargs)
        finally:
            self._computing -= 1

    def _follows_from_data(self, node: fx.Node) -> bool:
        """Whether a Python value is made from what a tensor holds."""
        if isinstance(self.values[node][0], (Tensor, torch.Size)):
            return False
        inputs = node.all_input_nodes
        if any(source in self._data for source in inputs):
            return True
        if node.target in (getattr, len) or str(node.target) in (
            "size",
            "numel",
            "dim",
            "nelement",
            "stride",
        ):
            return False
        holds_tensor = isinstance(self.values[node][0], (tuple, list, dict)) or not inputs
        return not holds_tensor and any(isinstance(self.values[source][0], Tensor) for source in inputs)

    def _follows_from_sizes(self, node: fx.Node) -> bool:
        """Whether a Python value is made from a size that differs between the example calls."""
        values = self.values[node]
        if isinstance(values[0], Tensor):
            return False
        if any(source in self._sizes for source in node.all_input_nodes):
            # One axis of a shape may differ and another not: of what is taken out, its own values tell.
            return node.target is not operator.getitem or _differ(values)
        return isinstance(values[0], (int, float, torch.Size)) and _differ(values)

    def call_left(self, function: Callable[..., Any], args: Any, kwargs: Any, reason: str) -> Any:
        """A step that calls a function which stays Python; `CannotTrace` if it calls modules."""
        self._called_inside = False
        found = self.create_proxy("call_function", function, args, kwargs)
        if self._called_inside or not isinstance(found, fx.Proxy):
            raise CannotTrace(reason)
        name = f"{function.__module__}.{function.__qualname__}"
        self.left[f"{self.where() or '(model)'}: {name}()"] = reason
        return found

    def method_left(
        self, owner: nn.Module, function: Callable[..., Any], args: Any, kwargs: Any, reason: str
    ) -> Any:
        """The same for a method of a module."""
        path = self.path_of_module(owner)
        name = f"call_{path}_{function.__name__}".replace(".", "_")
        held = self.root._modules.get(name)
        if not (isinstance(held, MethodCall) and held.method is function):
            while hasattr(self.root, name):
                name += "_"
            self.root._modules[name] = MethodCall(owner, function, join_paths(self.path, path))
        self._called_inside = False
        found = self.create_proxy("call_module", name, args, kwargs)
        if self._called_inside or not isinstance(found, fx.Proxy):
            raise CannotTrace(reason)
        self.left[f"{self.where() or '(model)'}: {function.__qualname__}()"] = reason
        return found


def _is_of_torch(function: Any) -> bool:
    return str(getattr(function, "__module__", "")).partition(".")[0] in ("torch", "_operator", "operator")


def _differ(values: Sequence[Any]) -> bool:
    return any(value != values[0] for value in values)


def _without_data(value: Any) -> Any:
    """A value with its tensors' shapes and types alone."""
    return fx.node.map_aggregate(
        value,
        lambda x: (
            torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device="meta")
            if isinstance(x, Tensor)
            else x
        ),
    )


def join_paths(prefix: str, name: str) -> str:
    """The path of what is called `name` in the module at `prefix`."""
    return f"{prefix}.{name}" if prefix and name else prefix or name
