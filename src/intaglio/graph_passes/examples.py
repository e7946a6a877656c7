"""Example inputs: the calls on which a model is traced, and calls of other sizes that it takes as well.

A trace must hold for other batches, images and lengths than the example's. Which sizes may change is found by
trying: the model is run with one size changed at a time, and what it accepts is changed together in up to
two further calls. What then differs between the calls must not be decided once and for all. May import
errors.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from intaglio.errors import ConfigError

__all__ = ["Call", "clone_values", "example_call", "read_example_inputs", "vary_sizes"]

_STEPS = ((32, 8, 1), (5, 7, 1))
"""By how much a size is changed to see whether it may, in a second and in a third call.

Strides and windows allow some and not others; what is even in one call should be odd in another.
"""
_MOST_SIZES = 6


@dataclass(frozen=True)
class Call:
    """Arguments of one call."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def copied(self) -> Call:
        """The same with tensors of its own, which a forward may change."""
        args, kwargs = clone_values((self.args, self.kwargs))
        return Call(args, kwargs)

    def run(self, model: nn.Module) -> Any:
        """Call `model`, leaving the arguments and torch's random numbers as they were."""
        mine = self.copied()
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            return model(*mine.args, **mine.kwargs)


def clone_values(values: Any) -> Any:
    """`values` with tensors of their own."""
    return tree_map(lambda x: x.detach().clone() if isinstance(x, Tensor) else x, values)


def read_example_inputs(example_inputs: Any) -> Call:
    """The call that `example_inputs` stand for: a tensor, a tuple of arguments, or a dict of named ones.

    Raises `ConfigError` for None and for what holds no tensor.
    """
    if example_inputs is None:
        raise ConfigError(
            "example_inputs is missing: pass a tuple of what the model takes, for instance "
            "(torch.randn(1, 3, 224, 224),), or a dict of keyword arguments"
        )
    if isinstance(example_inputs, Call):
        return example_inputs
    if isinstance(example_inputs, Mapping):
        call = Call((), dict(example_inputs))
    elif isinstance(example_inputs, (tuple, list)):
        call = Call(tuple(example_inputs), {})
    else:
        call = Call((example_inputs,), {})
    if not any(True for _ in _tensors_of(call)):
        raise ConfigError(
            f"example_inputs holds no tensor ({type(example_inputs).__name__}): pass a tuple of what the "
            "model takes"
        )
    return call


def example_call(model: nn.Module, example_inputs: Any) -> Call:
    """`read_example_inputs`, tried on the model; `ConfigError` if it does not take them."""
    call = read_example_inputs(example_inputs)
    try:
        call.run(model)
    except Exception as error:  # whatever a user's forward raises for inputs that are not its own
        raise ConfigError(
            f"the model cannot be run on example_inputs {_describe(call)}: {type(error).__name__}: "
            f"{_first_line(error)}; pass inputs that model(*example_inputs) takes"
        ) from error
    return call


def vary_sizes(model: nn.Module, call: Call) -> list[Call]:
    """`call`, and up to two more with every size changed that `model` lets change."""
    calls = [call]
    sizes = _sizes_of(call)[:_MOST_SIZES]
    for steps in _STEPS:
        changes = {size: step for size in sizes if (step := _accepted(model, call, size, steps))}
        together = _resized(call, changes)
        if changes and _runs(model, together):
            calls.append(together)
        elif changes:  # each by itself, but not all at once
            calls.append(_resized(call, dict([next(iter(changes.items()))])))
        sizes = [size for size in changes if size != _BATCH]
    return calls


def _accepted(model: nn.Module, call: Call, size: int, steps: Sequence[int]) -> int:
    """The first step by which `model` lets a size change, or 0."""
    for step in (1,) if size == _BATCH else steps:
        if _runs(model, _resized(call, {size: step})):
            return step
    return 0


_BATCH = -1
"""Stands for the size of the first axis of the first tensor, and of what has as many."""


def _sizes_of(call: Call) -> list[int]:
    """Sizes that may be one: the batch, then each size of a further axis, the largest first."""
    found = {_key(x, axis, call) for x in _tensors_of(call) for axis in range(x.dim())}
    return sorted(found - {0}, key=lambda size: (size != _BATCH, -size))


def _key(x: Tensor, axis: int, call: Call) -> int:
    first = next(_tensors_of(call))
    is_batch = axis == 0 and first.dim() > 0 and x.shape[0] == first.shape[0]
    return _BATCH if is_batch else x.shape[axis]


def _resized(call: Call, changes: Mapping[int, int]) -> Call:
    """`call` with each size that `changes` names changed by so much: what is there is repeated, or cut."""

    def resize(x: Any) -> Any:
        if not isinstance(x, Tensor):
            return x
        for axis, size in enumerate(x.shape):
            step = changes.get(_key(x, axis, call), 0)
            if step and size:
                x = x.index_select(axis, torch.arange(size + step) % size)
        return x

    args, kwargs = tree_map(resize, (call.args, call.kwargs))
    return Call(args, kwargs)


def _tensors_of(call: Call) -> Iterator[Tensor]:
    return (x for x in tree_leaves((call.args, call.kwargs)) if isinstance(x, Tensor))


def _runs(model: nn.Module, call: Call) -> bool:
    try:
        call.run(model)
    except Exception:  # whatever a user's forward raises for a size that it does not take
        return False
    return True


def _describe(call: Call) -> str:
    parts = [_shape(x) for x in call.args] + [f"{name}={_shape(x)}" for name, x in call.kwargs.items()]
    return f"({', '.join(parts)})"


def _shape(x: Any) -> str:
    if isinstance(x, Tensor):
        return f"{str(x.dtype).removeprefix('torch.')}{list(x.shape)}"
    if isinstance(x, Sequence) and not isinstance(x, str):
        return f"[{', '.join(map(_shape, x))}]"
    return type(x).__name__


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
