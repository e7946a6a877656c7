"""Calibration data, and running a model on it. May import nn and errors."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from intaglio.errors import ConfigError, InputError
from intaglio.nn.copying import copy_model
from intaglio.nn.fused import LAYERS, kind_of

__all__ = ["Data", "Run", "layers_of", "runner_of", "working_copy"]

Data = Iterable[Any] | Callable[[nn.Module], Any]
"""Batches, each a tensor or a tuple of arguments; or a function that runs a model on data of its own."""

Run = Callable[[nn.Module], None]


def runner_of(data: Data) -> Run:
    """A function that runs a model on all of `data`, as often as it is called, always alike."""
    if callable(data) and not isinstance(data, nn.Module):
        return _without_gradients(data)
    if isinstance(data, (torch.Tensor, nn.Module)) or not isinstance(data, Iterable):
        raise ConfigError(
            f"data must be an iterable of batches or a function of a model, not {type(data).__name__}: "
            "put a single batch in a list"
        )
    batches = [item if isinstance(item, tuple) else (item,) for item in data]
    if not batches:
        raise InputError("data holds no batches: nothing can be learned from it")

    def run(model: nn.Module) -> None:
        for batch in batches:
            model(*batch)

    return _without_gradients(run)


def _without_gradients(run: Callable[[nn.Module], Any]) -> Run:
    def quietly(model: nn.Module) -> None:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            run(model)

    return quietly


def working_copy(model: nn.Module, inplace: bool) -> nn.Module:
    """`model` itself, or a copy; `ConfigError` if it is in train mode."""
    if not isinstance(model, nn.Module):
        raise ConfigError(f"a float nn.Module is needed, not {type(model).__name__}")
    if model.training:
        raise ConfigError("the model is in train mode: call model.eval() first")
    return model if inplace else copy_model(model, {})


def layers_of(model: nn.Module) -> dict[str, nn.Module]:
    """The layers that multiply, by path."""
    kinds = tuple(LAYERS)
    return {path: module for path, module in model.named_modules() if kind_of(module, kinds)}
