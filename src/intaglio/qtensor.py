"""`QTensor`: integers plus `QParams`, the value that stands for a real tensor.

A small frozen object, not a Tensor subclass: functions that only move values (view, flatten, permute
...) work on it; any other, operators included, raises an error that says what to do. It never
dequantizes in silence. May import qparams and errors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from intaglio.errors import InputError
from intaglio.qparams import QParams, dequantize, quantize

__all__ = ["QTensor"]

# What only moves values, and so keeps the parameters of a per-tensor QTensor.
# fmt: off
_MOVES = frozenset({
    "chunk", "clone", "contiguous", "detach", "expand", "flatten", "flip", "movedim", "narrow", "permute",
    "repeat", "reshape", "select", "split", "squeeze", "swapaxes", "t", "tile", "transpose", "unflatten",
    "unsqueeze", "view",
})

# What leaves every value where it is, and so keeps per-channel parameters as well.
_STAYS = frozenset({"clone", "contiguous", "detach"})

_OPERATORS = (
    "abs", "add", "bool", "eq", "float", "floordiv", "ge", "gt", "int", "le", "lt", "matmul", "mod", "mul",
    "ne", "neg", "pow", "radd", "rfloordiv", "rmatmul", "rmod", "rmul", "rpow", "rsub", "rtruediv", "sub",
    "truediv",
)
# fmt: on


@dataclass(frozen=True, eq=False)
class QTensor:
    """Integers `data` that stand for real numbers as `qparams` says.

    `data` has the storage dtype of `qparams.dtype`; `dtype` is that of the numbers it stands for, so
    that code which casts its inputs to a weight's dtype goes on working.

    >>> from intaglio.qparams import INT8
    >>> q = QTensor.quantize(torch.tensor([0.0, 1.0]), QParams(torch.tensor(0.5), torch.tensor(0), INT8))
    >>> q.dequantize()
    tensor([0., 1.])
    """

    data: Tensor
    qparams: QParams

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
        """Move the integers where `func` only moves values; refuse everything else."""
        name = getattr(func, "__name__", str(func))
        first = args[0] if args else None
        if name not in _MOVES or not isinstance(first, QTensor):
            raise _no_form(name, args)
        moved = func(first.data, *args[1:], **(kwargs or {}))
        if isinstance(moved, Tensor):
            return _moved(first, moved, name)
        return type(moved)(_moved(first, part, name) for part in moved)


def _moved(source: QTensor, data: Tensor, name: str) -> QTensor:
    if source.qparams.axis is not None and name not in _STAYS:
        raise InputError(
            f"{name} would move the axis of a per-channel QTensor of shape {tuple(source.shape)}: "
            "call .dequantize() first"
        )
    return QTensor(data, source.qparams)


def _no_form(name: str, args: tuple[Any, ...]) -> InputError:
    return InputError(
        f"{name}() has no quantized form for a QTensor of shape {_shape_of(args)}: "
        "call .dequantize() first, or keep the module that calls it in float"
    )


def _refusing(operator: str) -> Callable[..., Any]:
    def refuse(self: QTensor, *others: Any) -> Any:
        raise _no_form(operator, (self, *others))

    return refuse


# Python looks operators up on the class, where __getattr__ is not asked.
for _operator in _OPERATORS:
    setattr(QTensor, f"__{_operator}__", _refusing(_operator))
QTensor.__hash__ = object.__hash__  # type: ignore[method-assign]


def _shape_of(args: tuple[Any, ...]) -> tuple[int, ...] | None:
    flat = [item for arg in args for item in (arg if isinstance(arg, (list, tuple)) else (arg,))]
    return next((tuple(item.shape) for item in flat if isinstance(item, QTensor)), None)
