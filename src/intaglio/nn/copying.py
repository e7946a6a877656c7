"""Copies of models: modules are copied, and what the caller says is not. May import nothing from here."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor, nn

__all__ = ["copy_model", "share_tensors"]


def copy_model(model: nn.Module, memo: dict[int, Any]) -> nn.Module:
    """`copy.deepcopy(model, memo)`, also of a model that keeps a result of an earlier call.

    Such a result hangs on its graph and cannot be copied (pytorch/pytorch#48448); its value is.
    """
    for module in model.modules():
        for tensor in _tensors_in(vars(module).values()):
            if not tensor.is_leaf and id(tensor) not in memo:
                memo[id(tensor)] = tensor.detach().clone()
    return copy.deepcopy(model, memo)


def share_tensors(model: nn.Module, memo: dict[int, Any], *, attributes: bool) -> None:
    """Make a copy with `memo` share the parameters and buffers of `model`, which are then held once.

    With `attributes`, also the tensors that modules hold as plain attributes.
    """
    for module in model.modules():
        held = [*module._parameters.values(), *module._buffers.values()]
        if attributes:
            held.extend(vars(module).values())
        memo.update((id(tensor), tensor) for tensor in _tensors_in(held))


def _tensors_in(values: Iterable[Any]) -> Iterator[Tensor]:
    """The tensors among `values`, and in the lists, tuples and dicts among them."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from (item for item in value if isinstance(item, Tensor))
        elif isinstance(value, dict):
            yield from (item for item in value.values() if isinstance(item, Tensor))
