"""`Planner`: walks a graph for inputs of given shapes, and writes down the kernel calls that it comes to.

Every step is run on `Array`s, which have shapes and no values: a lowering (registered below by the name of a
layer or function) appends calls and gives the arrays that they will write. What depends on no input is
computed now. What no lowering knows is left to the `Host`: torch where it is installed. May import array,
graph, files and errors.
"""

from __future__ import annotations

import builtins
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from numpy.lib.stride_tricks import as_strided

from intaglio.errors import InputError, IntaglioError
from intaglio.files.python_names import BUILTINS, MATH, OPERATORS
from intaglio.runtime.array import Array, Buffer, Quant, contiguous_strides, image_strides
from intaglio.runtime.calls import Call, Host, HostCall, arrays_in
from intaglio.runtime.graph import Graph, Layer, Made, Node, Value, map_values

__all__ = ["NotLowered", "Planner", "lower_function", "lower_layer"]


class NotLowered(Exception):  # noqa: N818  # no error of the user's
    """A step that no kernel computes as it is called here; the message says why."""


Lowering = Callable[..., Any]
_Lowering = TypeVar("_Lowering", bound=Lowering)

# Several lowerings of one name are tried in turn: one for quantized values, one for floats.
_layers: dict[str, list[Lowering]] = {}
_functions: dict[str, list[Lowering]] = {}


def lower_layer(*kinds: str) -> Callable[[_Lowering], _Lowering]:
    """Decorator: how layers of these kinds are planned, `(planner, layer, *args, **kwargs)`."""

    def register(lowering: _Lowering) -> _Lowering:
        for kind in kinds:
            _layers.setdefault(kind, []).append(lowering)
        return lowering

    return register


def lower_function(*names: str) -> Callable[[_Lowering], _Lowering]:
    """Decorator: how functions of these names are planned, `(planner, *args, **kwargs)`.

    Methods are `Tensor.<name>`, attributes `attribute.<name>`.
    """

    def register(lowering: _Lowering) -> _Lowering:
        for name in names:
            _functions.setdefault(name, []).append(lowering)
        return lowering

    return register


_PYTHON = {
    **{f"operator.{name}": getattr(operator, name) for name in OPERATORS},
    **{f"math.{name}": getattr(math, name) for name in MATH},
    **{f"builtins.{name}": getattr(builtins, name) for name in BUILTINS},
}
_LARGEST_NUMBER = 2**63
_RANDOM = ("rand", "normal", "bernoulli", "multinomial", "dropout")


def compute(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """What Python gives for numbers; `InputError` for what no program computes with."""
    numbers = [arg for arg in args if isinstance(arg, int)]
    if name.endswith((".pow", ".lshift", ".ipow", ".ilshift")) and max(map(abs, numbers), default=0) > 10**6:
        raise InputError(f"{name}{tuple(args)!r:.60} is beyond what a program computes")
    if name.endswith((".mul", ".imul")) and any(isinstance(arg, (str, list, tuple)) for arg in args):
        raise InputError(f"{name} repeats a sequence")
    try:
        found = _PYTHON[name](*args, **kwargs)
    except (TypeError, ValueError, ArithmeticError, LookupError) as error:
        raise InputError(f"{name}{tuple(args)!r:.60}: {error}") from None
    if isinstance(found, int) and abs(found) >= _LARGEST_NUMBER:
        raise InputError(f"{name}{tuple(args)!r:.60} is beyond 64 bits")
    return found


@dataclass
class Planner:
    """The calls of one plan, in order."""

    layers: Mapping[str, Layer]
    graphs: Mapping[str, Graph]
    host: Host
    calls: list[Call | HostCall] = field(default_factory=list)
    label: str = ""
    left_to_host: dict[str, str] = field(default_factory=dict)
    rewritten: dict[int, tuple[Array, Array]] = field(default_factory=dict)
    overwritten: dict[int, str] = field(default_factory=dict)

    # ---- Arrays and calls --------------------------------------------------------------------------------

    def new(
        self,
        shape: Sequence[int],
        dtype: str = "float32",
        quant: Quant | None = None,
        strides: Sequence[int] | None = None,
    ) -> Array:
        """Memory of the arena for a dense array; contiguous unless its strides are given."""
        laid = contiguous_strides(shape) if strides is None else tuple(strides)
        array = Array(Buffer("arena", 0), tuple(shape), laid, dtype, quant)
        array.buffer.bytes = array.bytes
        return array

    def new_image(self, shape: Sequence[int], quant: Quant | None, dtype: str = "uint8") -> Array:
        """The same with the channels innermost."""
        return self.new(shape, dtype, quant, image_strides(shape))

    def constant(self, values: np.ndarray[Any, Any], quant: Quant | None = None) -> Array:
        """An array whose values are known."""
        values = np.ascontiguousarray(values).reshape(values.shape)  # which a number keeps
        buffer = Buffer("constant", values.nbytes, values.ctypes.data, values)
        return Array(
            buffer, values.shape, contiguous_strides(values.shape), values.dtype.name, quant, 0, values
        )

    def packed(self, values: np.ndarray[Any, Any]) -> Array:
        """A packed weight as a constant, in the very memory in which it lies."""
        return Array(Buffer("constant", values.nbytes, values.ctypes.data, values), (), (), "uint8")

    def call(self, driver: str, writes: str, /, **arguments: Any) -> None:
        """Append a call of `driver` that fills the arguments named in `writes`, of so much `work`."""
        work, names = arguments.pop("work", 0), tuple(writes.split())
        if any(array.size for array in arrays_in([arguments[name] for name in names])):
            self.calls.append(Call(driver, self.label, arguments, names, work))

    def copy(self, x: Array, strides: Sequence[int]) -> Array:
        """`x` in memory of its own with these dense strides."""
        y = self.new(x.shape, x.dtype, x.quant, strides)
        self.copy_into(x, y)
        return y

    def copy_into(self, x: Array, y: Array) -> None:
        """Copy `x` to `y`, of its shape."""
        item = x.item_bytes
        self.call(
            "copy_strided",
            "y",
            x=x,
            y=y,
            item_bytes=item,
            sizes=list(x.shape),
            x_strides=[s * item for s in x.strides],
            y_strides=[s * item for s in y.strides],
        )

    def contiguous(self, x: Array) -> Array:
        """`x`, copied unless it is contiguous."""
        return x if x.is_contiguous else self.copy(x, contiguous_strides(x.shape))

    def image(self, x: Array) -> Array:
        """`x`, copied unless its channels are innermost."""
        return x if x.is_image else self.copy(x, image_strides(x.shape))

    def dense(self, x: Array) -> Array:
        """`x`, copied unless it is dense."""
        return x if x.is_dense else self.copy(x, x.dense_strides())

    def reshape(self, x: Array, shape: Sequence[int]) -> Array:
        """`x` under another shape, copied where no view can be that."""
        view = x.reshaped(shape)
        if view is None:
            view = self.contiguous(x).reshaped(shape)
            assert view is not None
        return view

    # ---- Graphs ------------------------------------------------------------------------------------------

    def run_graph(self, graph: Graph, inputs: Sequence[Any], prefix: str = "") -> Any:
        """What a graph gives for these inputs; `prefix` is the path of the module that it is."""
        values = list(inputs)

        def known(leaf: Any) -> Any:
            value = values[leaf.number] if isinstance(leaf, Value) else leaf
            while id(value) in self.rewritten:
                value = self.rewritten[id(value)][1]
            for array in arrays_in(value) if self.overwritten else ():
                self._check_written(array)
            return value

        for node in graph.nodes:
            args, kwargs = map_values(node.args, known), map_values(dict(node.kwargs), known)
            values.append(self.run_node(node, args, kwargs, prefix))
        return map_values(graph.output, known)

    def run_node(self, node: Node, args: Any, kwargs: Any, prefix: str) -> Any:
        """What one step gives."""
        if node.kind == "module":
            return self.run_layer(prefix + node.target, args, kwargs)
        if node.kind == "tensor":
            owner, _, name = (prefix + node.target).rpartition(".")
            return self.tensor_of(self.layers[owner], name)
        name = {"method": "Tensor.", "attribute": "attribute."}.get(node.kind, "") + node.target
        self.label = node.target
        arrays = arrays_in([args, kwargs])
        if not arrays and node.function in (int, float, bool):
            return node.function(*args, **kwargs)
        if isinstance(node.function, type):
            return Made(node.function, args, kwargs)
        if node.kind == "attribute" and isinstance(args[0], Made):
            return args[0].attribute(node.target)
        if not arrays and name in _PYTHON:
            return compute(name, args, kwargs)
        is_check = name.startswith("intaglio.")
        lowerings = _functions.get(name, []) if arrays or is_check or node.kind != "function" else []
        return self._lower(lowerings, node, None, args, kwargs)

    def run_layer(self, path: str, args: Any, kwargs: Any) -> Any:
        """What a layer gives."""
        layer = self.layers[path]
        self.label = path or layer.kind
        if path in self.graphs:
            graph = self.graphs[path]
            if len(args) != len(graph.inputs):
                named = dict(zip(graph.inputs, args, strict=False)) | kwargs
                args = [named.get(name, graph.defaults.get(name)) for name in graph.inputs]
            return self.run_graph(graph, args, f"{path}." if path else "")
        return self._lower(_layers.get(layer.kind, []), Node("module", path), layer, args, kwargs)

    def run_part(self, layer: Layer, args: Any, kwargs: Any) -> Any:
        """What a part of a layer gives; `NotLowered` where no kernel computes it."""
        for lowering in _layers.get(layer.kind, []):
            return lowering(self, layer, *args, **kwargs)
        raise NotLowered(f"no kernel computes its part {layer.where()}")

    def _lower(
        self, lowerings: Sequence[Lowering], node: Node, layer: Layer | None, args: Any, kwargs: Any
    ) -> Any:
        """What the first lowering that can gives, or the host."""
        result = self._lower_alone(lowerings, node, layer, args, kwargs)
        if _is_in_place(node, layer, args, kwargs) and result is not args[0]:
            self.rewritten[id(args[0])] = args[0], result
            self.overwritten[id(args[0].buffer)] = self.label
        return result

    def _check_written(self, array: Array) -> None:
        """`InputError` for what shares memory, in another shape, with a tensor that was written in place."""
        label = self.overwritten.get(id(array.buffer))
        if label is not None and id(array) not in self.rewritten:
            raise InputError(
                f"'{self.label}' reads a tensor after '{label}' has written in place over a view of it: "
                "use the form that gives a new tensor"
            )

    def _lower_alone(
        self, lowerings: Sequence[Lowering], node: Node, layer: Layer | None, args: Any, kwargs: Any
    ) -> Any:
        before = () if layer is None else (layer,)
        why = "no kernel computes it"
        made = len(self.calls)
        for lowering in lowerings:
            try:
                return lowering(self, *before, *args, **kwargs)
            except NotLowered as reason:
                why = str(reason)
                del self.calls[made:]
        return self.leave(node, layer, args, kwargs, why)

    def children(self, path: str) -> list[str]:
        """Paths of a layer's children, in order."""
        prefix = f"{path}." if path else ""
        return [p for p in self.layers if p.startswith(prefix) and p != path and "." not in p[len(prefix) :]]

    def tensor_of(self, layer: Layer, name: str) -> Array:
        """A layer's tensor as a constant."""
        made: Array = layer.made(f"array {name}", lambda: self.constant(layer.array(name)))
        return made

    # ---- What is left to the host ------------------------------------------------------------------------

    def leave(self, node: Node, layer: Layer | None, args: Any, kwargs: Any, why: str) -> Any:
        """Let the host compute a step: now where all of it is known, otherwise in each call."""
        function = self.host.find(node, layer)
        label = node.target if layer is None else layer.where()
        if function is None:
            raise InputError(
                f"{label}: {why}, and there is nothing else here that could: run it where torch is, with "
                "intaglio.compile"
            )
        arrays = arrays_in([args, kwargs])
        is_known = all(array.is_constant for array in arrays)
        is_random = node.kind != "module" and any(mark in node.target for mark in _RANDOM)
        lent: list[np.ndarray[Any, Any]] = []
        try:
            example = self._example(function, args, kwargs, lent)
        except IntaglioError:
            raise
        except (ArithmeticError, AttributeError, IndexError, RuntimeError, TypeError, ValueError) as error:
            raise InputError(f"{label}: {error}") from error
        if is_known and not is_random:
            return map_values(example, self._keep)
        self.left_to_host.setdefault(label, why)
        call = HostCall(label, function, args, kwargs)
        found = map_values(example, lambda leaf: self._receive(leaf, call, lent))
        self.calls.append(call)
        return found

    def _example(
        self, function: Callable[..., Any], args: Any, kwargs: Any, lent: list[np.ndarray[Any, Any]]
    ) -> Any:
        """What the host gives for zeros in the place of what is not known; `lent` gets those of the arena."""

        def stand_in(leaf: Any) -> Any:
            if not isinstance(leaf, Array):
                return self.host.constant(leaf)
            values = leaf.data if leaf.data is not None else _zeros_like(leaf)
            if leaf.buffer.home == "arena":
                lent.append(values)
            return self.host.wrap(values, leaf)

        return function(*map_values(args, stand_in), **map_values(kwargs, stand_in))

    def _keep(self, leaf: Any) -> Any:
        """A host value as a constant."""
        found = self.host.unwrap(leaf)
        return leaf if found is None else self.constant(np.array(found[0], order="C"), found[1])

    def _receive(self, leaf: Any, call: HostCall, lent: Sequence[np.ndarray[Any, Any]]) -> Any:
        """A host value that each call gives anew."""
        found = self.host.unwrap(leaf)
        if found is None:
            if leaf is not None and not isinstance(leaf, (bool, int, float, str)):
                raise InputError(
                    f"{self.label} gives a {type(leaf).__name__}, which has no place in a program: only "
                    "tensors, numbers, and tuples, lists and dicts of them have"
                )
            call.others.append(leaf)
            return leaf
        data, quant = found
        if any(np.may_share_memory(data, other) for other in lent):
            call.copied.add(len(call.results))
            data = data.copy("K")
        strides = tuple(s // data.itemsize for s in data.strides)
        array = Array(Buffer("host", data.nbytes), data.shape, strides, data.dtype.name, quant)
        call.results.append(array)
        return array


_IN_PLACE = (
    "iadd",
    "isub",
    "imul",
    "itruediv",
    "ifloordiv",
    "imod",
    "ipow",
    "imatmul",
    "iand",
    "ior",
    "ixor",
)


def _is_in_place(node: Node, layer: Layer | None, args: Any, kwargs: Any) -> bool:
    """Whether a step writes its float result over its first argument, whose name then stands for that."""
    if not args or not isinstance(args[0], Array) or args[0].quant is not None:
        return False
    if layer is not None:
        return bool(layer.config.get("inplace", False))
    module, _, name = node.target.rpartition(".")
    if module == "operator":
        return name in _IN_PLACE
    is_named = name.endswith("_") and not name.endswith("__")
    is_function = module == "torch.nn.functional" and "relu" in name and args[-1] is True
    return is_named or is_function or kwargs.get("inplace") is True


def _zeros_like(array: Array) -> np.ndarray[Any, Any]:
    """Zeros that lie in memory just as `array` will: the layout of results hangs on it."""
    reach = sum((n - 1) * s for n, s in zip(array.shape, array.strides, strict=True)) + 1 if array.size else 0
    zeros = np.zeros(reach, array.dtype)
    return as_strided(zeros, array.shape, [s * zeros.itemsize for s in array.strides])
