"""`TorchHost`: torch as what computes the steps that no kernel does.

May import nn, serialization and runtime.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from intaglio.errors import InputError
from intaglio.nn.activation import function_named
from intaglio.ops.tables import make_table
from intaglio.qparams import UINT8, QParams
from intaglio.qtensor import QTensor
from intaglio.runtime.array import Array, Quant
from intaglio.runtime.graph import Layer, Named, Node
from intaglio.serialization.allowed_functions import function_called

__all__ = ["TorchHost", "qparams_of", "quant_of"]


class TorchHost:
    """Calls torch's functions, and the model's own `modules` by path."""

    def __init__(self, modules: Mapping[str, nn.Module]) -> None:
        self._modules = modules

    def find(self, node: Node, layer: Layer | None) -> Callable[..., Any] | None:
        """What computes a step."""
        if layer is not None:
            return _without_gradient(self._modules[layer.path])
        if node.kind == "method":
            return _without_gradient(partial(_call_method, node.target))
        if node.kind == "attribute":
            return partial(_read_attribute, node.target)
        function = function_called(node.target) if node.function is None else node.function
        return None if function is None else _without_gradient(function)

    def wrap(self, data: np.ndarray[Any, Any], array: Array) -> Any:
        """A tensor over this memory; a `QTensor` where the array is quantized."""
        tensor = torch.from_numpy(data) if data.flags.writeable else torch.from_numpy(data.copy())
        return tensor if array.quant is None else QTensor(tensor, qparams_of(array.quant))

    def unwrap(self, value: Any) -> tuple[np.ndarray[Any, Any], Quant | None] | None:
        """A tensor's memory and parameters."""
        if isinstance(value, QTensor):
            return value.data.numpy(), quant_of(value.qparams)
        if not isinstance(value, Tensor):
            return None
        if value.dtype is torch.bfloat16:
            raise InputError(
                "a step gives a bfloat16 tensor, which has no place in a program: keep to float32"
            )
        return value.detach().resolve_conj().resolve_neg().numpy(), None

    def constant(self, value: Any) -> Any:
        """A dtype, device, layout or memory format by its name."""
        if not isinstance(value, Named):
            return value
        return torch.device(value.name) if value.kind == "device" else getattr(torch, value.name)

    def table(self, name: str, arguments: dict[str, Any], x: Quant, output: Quant) -> np.ndarray[Any, Any]:
        """What an activation makes of each integer."""
        function = partial(function_named(name), **arguments)
        table: np.ndarray[Any, Any] = make_table(function, qparams_of(x), qparams_of(output)).numpy()
        return table


def qparams_of(quant: Quant) -> QParams:
    """Parameters as the modules have them."""
    zero_point = torch.tensor(quant.zero_point, dtype=torch.int32)
    return QParams(
        torch.tensor(quant.scale, dtype=torch.float32), zero_point, UINT8, None, quant.lower, quant.upper
    )


def quant_of(qparams: QParams) -> Quant:
    """Parameters as plans have them."""
    return Quant(*qparams.scalars, *qparams.limits())


def _call_method(name: str, x: Any, *args: Any, **kwargs: Any) -> Any:
    if name.endswith("_") and not name.endswith("__") and hasattr(x, name[:-1]):
        name = name[:-1]  # plans give what is written in place a place of its own
    return getattr(x, name)(*args, **kwargs)


def _read_attribute(name: str, x: Any) -> Any:
    return getattr(x, name)


def _without_gradient(function: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        with torch.no_grad():
            return function(*args, **kwargs)

    return call
