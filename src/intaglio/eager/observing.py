"""What `prepare` attaches to a module, and how `convert` finds it again.

A prepared module has its `qconfig`, an observer named `activation_post_process` (the legacy name, which
checkpoints of observers have) and one forward hook that shows the observer what the module gives. May import
observer, qconfig and errors.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from intaglio.nn.float_functional import FloatFunctional
from intaglio.observer import InputMean, ObserverBase
from intaglio.qconfig import QConfig

__all__ = ["INPUT_MEAN", "OBSERVER", "attach_observer", "is_prepared", "observe_output", "observer_of"]

OBSERVER = "activation_post_process"
"""The observer of a prepared module's output; the legacy name."""
INPUT_MEAN = "input_mean"
"""What records the mean of its input."""


def observe_output(module: nn.Module, inputs: Any, output: Any) -> None:
    """Forward hook: show the module's observer its output, of a tuple the first part."""
    recorder = module._modules.get(INPUT_MEAN)
    if recorder is not None and inputs and isinstance(inputs[0], Tensor):
        recorder(inputs[0])
    observed = output
    while isinstance(observed, (tuple, list)) and observed:
        observed = observed[0]
    if isinstance(observed, Tensor) and observed.is_floating_point():
        getattr(module, OBSERVER)(observed.detach())


def attach_observer(
    module: nn.Module,
    qconfig: QConfig,
    path: str,
    *,
    observe: bool,
    input_channels: tuple[int, int] | None = None,
) -> None:
    """Make `module` a prepared one; without `observe` nothing looks at its output."""
    vars(module)["qconfig"] = qconfig
    if not observe:
        return
    observer = qconfig.activation()
    observer.name = path
    observer.train(module.training)
    tensors = [*module.parameters(), *module.buffers()]
    if tensors:
        observer.to(tensors[0].device)
    setattr(module, OBSERVER, observer)
    if input_channels is not None:
        recorder = InputMean(*input_channels)
        module.add_module(INPUT_MEAN, recorder.to(tensors[0].device) if tensors else recorder)
    if not isinstance(module, FloatFunctional):  # which shows its results itself
        module.register_forward_hook(observe_output)


def observer_of(module: nn.Module) -> ObserverBase | None:
    """The observer that `prepare` gave `module`."""
    observer = module._modules.get(OBSERVER)
    return observer if isinstance(observer, ObserverBase) else None


def is_prepared(module: nn.Module) -> bool:
    """Whether anything in `module` has been prepared and not converted."""
    return any(observer_of(part) is not None for part in module.modules())
