"""`QTensor`: integers plus `QParams`, the value that stands for a real tensor.

A small frozen object, not a Tensor subclass: functions that only move values (view, flatten, permute
...) work on it, and those that `register_function` was given; any other, operators included, raises an
error that says which module made the value, which one called, and what to do. It never dequantizes in
silence. May import qparams and errors.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import import_module
from typing import Any, NoReturn, TypeVar

import torch
from torch import Tensor, nn

from intaglio.errors import InputError
from intaglio.qparams import QParams, dequantize, quantize

__all__ = ["QTensor", "refuse", "register_function"]

# What only moves values, and so keeps the parameters of a per-tensor QTensor.
# fmt: off
_MOVES = frozenset({
    "channel_shuffle", "chunk", "clone", "contiguous", "detach", "diagonal", "expand", "expand_as", "flatten",
    "flip", "fliplr", "flipud", "gather", "index_select", "moveaxis", "movedim", "narrow", "permute",
    "pixel_shuffle", "pixel_unshuffle", "ravel", "repeat", "repeat_interleave", "reshape", "reshape_as",
    "roll", "rot90", "select", "split", "squeeze", "swapaxes", "swapdims", "t", "take_along_dim",
    "tensor_split", "tile", "transpose", "unbind", "unflatten", "unsqueeze", "view", "view_as",
})

# What leaves every value where it is, and so keeps per-channel parameters as well.
_STAYS = frozenset({"clone", "contiguous", "detach"})

_OPERATORS = (
    "abs", "add", "bool", "eq", "float", "floordiv", "ge", "gt", "int", "le", "lt", "matmul", "mod", "mul",
    "ne", "neg", "pow", "radd", "rfloordiv", "rmatmul", "rmod", "rmul", "rpow", "rsub", "rtruediv", "sub",
    "truediv",
)

# The method of FloatFunctional that does what a function or an operator cannot.
_FUNCTIONAL = {
    "add": "add", "radd": "add", "add_": "add", "cat": "cat", "concat": "cat", "concatenate": "cat",
    "matmul": "matmul", "rmatmul": "matmul", "bmm": "matmul", "mul": "mul", "rmul": "mul", "mul_": "mul",
    "multiply": "mul", "neg": "mul_scalar", "negative": "mul_scalar", "div": "mul_scalar",
    "divide": "mul_scalar", "truediv": "mul_scalar", "true_divide": "mul_scalar",
}

# The module that does what a function cannot: the function's output has no scale of its own.
_MODULES = {
    "batch_norm": "BatchNorm2d", "celu": "CELU", "elu": "ELU", "gelu": "GELU", "group_norm": "GroupNorm",
    "hardshrink": "Hardshrink", "hardswish": "Hardswish", "instance_norm": "InstanceNorm2d",
    "layer_norm": "LayerNorm", "leaky_relu": "LeakyReLU", "logsigmoid": "LogSigmoid", "mish": "Mish",
    "prelu": "PReLU", "rrelu": "RReLU", "selu": "SELU", "silu": "SiLU", "softplus": "Softplus",
    "softshrink": "Softshrink", "softsign": "Softsign", "tanhshrink": "Tanhshrink", "threshold": "Threshold",
}
# fmt: on

_functions: dict[Callable[..., Any], Callable[..., Any]] = {}
_Implementation = TypeVar("_Implementation", bound=Callable[..., Any])


def register_function(*functions: Callable[..., Any]) -> Callable[[_Implementation], _Implementation]:
    """Decorator: what `functions` of torch do when one of their arguments holds a `QTensor`.

    The implementation is called with the arguments of the function. Methods of `torch.Tensor` count as
    functions: `register_function(torch.relu, torch.Tensor.relu)`.
    """

    import_module("intaglio.nn")  # which registers ours: the latest wins

    def register(implementation: _Implementation) -> _Implementation:
        for function in functions:
            _functions[function] = implementation
        return implementation

    return register


@dataclass(frozen=True, eq=False, init=False)
class QTensor:
    """Integers `data` that stand for real numbers as `qparams` says.

    `data` has the storage dtype of `qparams.dtype`; `dtype` is that of the numbers it stands for, so
    that code which casts its inputs to a weight's dtype goes on working. `source` says which module made
    it, for messages.

    >>> from intaglio.qparams import INT8
    >>> q = QTensor.quantize(torch.tensor([0.0, 1.0]), QParams(torch.tensor(0.5), torch.tensor(0), INT8))
    >>> q.dequantize()
    tensor([0., 1.])
    """

    data: Tensor
    qparams: QParams
    source: str = ""

    def __init__(self, data: Tensor, qparams: QParams, source: str = "") -> None:
        # A frozen dataclass's own takes three times as long, and every layer makes one.
        fields = self.__dict__
        fields["data"] = data
        fields["qparams"] = qparams
        fields["source"] = source

    @classmethod
    def quantize(cls, x: Tensor, qparams: QParams) -> QTensor:
        """Quantize float32 `x` with `qparams`."""
        return cls(quantize(x, qparams), qparams)

    def dequantize(self) -> Tensor:
        """The real numbers, float32, in the shape of `data`."""
        return dequantize(self.data, self.qparams)

    def int_repr(self) -> Tensor:
        """The integers; the legacy name of `data`."""
        return self.data

    def q_scale(self) -> float:
        """The scale, of parameters per tensor; its legacy name."""
        return self.qparams.scalars[0]

    def q_zero_point(self) -> int:
        """The zero point, of parameters per tensor; its legacy name."""
        return self.qparams.scalars[1]

    @property
    def is_quantized(self) -> bool:
        """True."""
        return True

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return self.data.dim()

    @property
    def mT(self) -> QTensor:  # noqa: N802
        """The last two axes transposed."""
        return _moved(self, self.data.mT, "mT")

    @property
    def shape(self) -> torch.Size:
        """Shape of the tensor."""
        return self.data.shape

    @property
    def dtype(self) -> torch.dtype:
        """`torch.float32`: the dtype of the numbers it stands for."""
        return torch.float32

    @property
    def device(self) -> torch.device:
        """Where the integers are."""
        return self.data.device

    def dim(self) -> int:
        """Number of dimensions."""
        return self.data.dim()

    def size(self, *dim: int) -> Any:
        """Like `Tensor.size`."""
        return self.data.size(*dim)

    def numel(self) -> int:
        """Number of values."""
        return self.data.numel()

    def __len__(self) -> int:
        return len(self.data)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = None if name.startswith("_") else getattr(Tensor, name, None)
        if not callable(method):
            raise AttributeError(f"'QTensor' has no attribute {name!r}")

        def call(*args: Any, **kwargs: Any) -> Any:
            return QTensor.__torch_function__(method, (QTensor,), (self, *args), kwargs)

        return call

    def __getitem__(self, index: Any) -> QTensor:
        return _moved(self, self.data[index], "indexing")

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Move the integers where `func` only moves values; refuse what is not registered."""
        if not _functions:  # a pickle imports this module alone
            import_module("intaglio.nn")
        implementation = _functions.get(func)
        if implementation is not None:
            return implementation(*args, **(kwargs or {}))
        name = getattr(func, "__name__", str(func))
        first = args[0] if args else None
        if name not in _MOVES or not isinstance(first, QTensor):
            refuse(name, args)
        others = [arg.data if isinstance(arg, QTensor) else arg for arg in args[1:]]
        moved = func(first.data, *others, **(kwargs or {}))
        if isinstance(moved, Tensor):
            return _moved(first, moved, name)
        return type(moved)(_moved(first, part, name) for part in moved)


def _moved(origin: QTensor, data: Tensor, name: str) -> QTensor:
    if origin.qparams.axis is not None and name not in _STAYS:
        raise InputError(
            f"{name} would move the axis of a per-channel QTensor of shape {tuple(origin.shape)}: "
            "call .dequantize() first"
        )
    return QTensor(data, origin.qparams, origin.source)


# ---- What has no quantized form ------------------------------------------------------------------------


def refuse(name: str, args: Iterable[Any], why: str = "has no quantized form") -> NoReturn:
    """Raise the `InputError` for a function or operator called with QTensors among `args`."""
    found = [item for arg in args for item in (arg if isinstance(arg, (list, tuple)) else (arg,))]
    tensors = [item for item in found if isinstance(item, QTensor)]
    shapes = " and ".join(dict.fromkeys(str(tuple(q.shape)) for q in tensors)) or "()"
    makers = " and ".join(dict.fromkeys(q.source for q in tensors if q.source))
    made = f", made by {makers}," if makers else ""
    raise InputError(
        f"{name}() {why} for a QTensor of shape {shapes}{made}{_called_by()}: {_remedy(name)}. "
        ".dequantize() gives float values"
    )


def _called_by() -> str:
    """Says in whose `forward` this happens: the innermost module, and those around up to the user's own."""
    names: list[str] = []
    last: nn.Module | None = None
    frame = sys._getframe(1)
    while frame.f_back is not None:
        frame = frame.f_back
        module = frame.f_locals.get("self")
        if not isinstance(module, nn.Module) or module is last:
            continue
        last = module
        names.append(type(module).__name__)
        if not type(module).__module__.startswith("torch.nn."):
            break
    return f" called in the forward of {' in '.join(names)}" if names else ""


def _remedy(name: str) -> str:
    if name in _FUNCTIONAL:
        method = _FUNCTIONAL[name]
        return (
            f"make a FloatFunctional in the module's __init__, one for each place, and call its {method}() "
            "here; or let the value pass a DeQuantStub first"
        )
    if name in _MODULES:
        return (
            f"make an nn.{_MODULES[name]} in the module's __init__ and call it here, so that its output is "
            "given a scale; or let the value pass a DeQuantStub first"
        )
    return "let the value pass a DeQuantStub first, or keep the module that calls it in float"


def _refusing(operator: str) -> Callable[..., Any]:
    def refuse_operator(self: QTensor, *others: Any) -> NoReturn:
        refuse(operator, (self, *others))

    return refuse_operator


# Python looks operators up on the class, where __getattr__ is not asked.
for _operator in _OPERATORS:
    setattr(QTensor, f"__{_operator}__", _refusing(_operator))
QTensor.__hash__ = object.__hash__  # type: ignore[method-assign]
