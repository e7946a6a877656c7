"""A float model whose weights and outputs are rounded as quantization will round them, in plain torch.

May import running, nn, qconfig and qparams.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from intaglio.accuracy.reconstruction import swapped
from intaglio.accuracy.running import Run, layers_of
from intaglio.nn.copying import copy_model
from intaglio.nn.fused import FusedModule, kind_of
from intaglio.observer import ObserverBase
from intaglio.qconfig import QConfig
from intaglio.qparams import QParams, dequantize, quantize

__all__ = ["Simulation", "quantized_outputs", "simulate"]


def quantized_outputs(model: nn.Module) -> dict[str, nn.Module]:
    """The modules whose outputs become integers: fused modules and the layers that are in none."""
    found: dict[str, nn.Module] = {}
    inside: list[str] = []
    for path, module in model.named_modules():
        if isinstance(module, FusedModule):
            inside.append(f"{path}." if path else "")
            found[path] = module
    for path, layer in layers_of(model).items():
        if not any(path.startswith(prefix) for prefix in inside):
            found[path] = layer
    return found


@dataclass
class Simulation:
    """The copy that rounds, and the parameters of its outputs by path."""

    model: nn.Module
    parameters: dict[str, QParams] = field(default_factory=dict)


def simulate(model: nn.Module, run: Run, qconfig: QConfig) -> Simulation:
    """A copy of `model` that rounds, calibrated by `run`: inputs, weights, and every layer's output."""
    observers = {path: qconfig.activation() for path in ("", *quantized_outputs(model))}
    for path, observer in observers.items():
        observer.name = path or "the model's input"
    _observe(model, observers, run)
    simulated = copy_model(model, {})
    found = Simulation(simulated, {path: o.choose() for path, o in observers.items() if o.has_seen_data})
    for path, layer in layers_of(simulated).items():
        _round_weight(layer, qconfig.weight, path)
    for path, module in quantized_outputs(simulated).items():
        if path in found.parameters:
            module.register_forward_hook(_rounding(found.parameters[path]))
    if "" in found.parameters:
        simulated.register_forward_pre_hook(_rounding_inputs(found.parameters[""]))
    return found


def _observe(model: nn.Module, observers: dict[str, ObserverBase], run: Run) -> None:
    def see(path: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            if isinstance(output, Tensor):
                observers[path](output)

        return hook

    def see_inputs(module: nn.Module, args: Any) -> None:
        for x in args:
            if isinstance(x, Tensor) and x.is_floating_point():
                observers[""](x)

    handles = [module.register_forward_hook(see(path)) for path, module in quantized_outputs(model).items()]
    handles.append(model.register_forward_pre_hook(see_inputs))
    try:
        run(model)
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def _round_weight(layer: nn.Module, make: Callable[..., Any], path: str) -> None:
    weight = layer.weight
    assert isinstance(weight, Tensor)
    transposed = kind_of(layer, (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)) is not None
    groups = int(layer.groups) if transposed else 1  # type: ignore[arg-type]
    # Output channels first, as observers of weights want them.
    rows = swapped(weight, groups) if transposed else weight
    observer = make()
    observer.name = f"{path}.weight"
    observer(rows)
    qparams = observer.choose()
    rounded = dequantize(quantize(rows.float(), qparams), qparams)
    weight.copy_(swapped(rounded, groups) if transposed else rounded)


def _rounding(qparams: QParams) -> Callable[..., Any]:
    def hook(module: nn.Module, args: Any, output: Any) -> Any:
        return dequantize(quantize(output, qparams), qparams) if isinstance(output, Tensor) else output

    return hook


def _rounding_inputs(qparams: QParams) -> Callable[..., Any]:
    def hook(module: nn.Module, args: Any) -> Any:
        return tuple(
            dequantize(quantize(x, qparams), qparams)
            if isinstance(x, Tensor) and x.is_floating_point()
            else x
            for x in args
        )

    return hook
