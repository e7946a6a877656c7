"""What `prepare` attaches to a module, and how `convert` finds it again.

A prepared module has its `qconfig`, an observer named `activation_post_process` (the legacy name, which
checkpoints of observers have) and one forward hook that shows the observer what the module gives. May import
observer, qconfig and errors.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from torch import Tensor, nn

from intaglio.fake_quantize import FakeQuantizeBase
from intaglio.nn.float_functional import FloatFunctional
from intaglio.nn.fused import FusedModule
from intaglio.nn.residual import ResidualLayer
from intaglio.observer import InputMean, ObserverBase
from intaglio.qconfig import QConfig

__all__ = [
    "INPUT_MEAN",
    "OBSERVER",
    "attach_observer",
    "calls_its_rounder",
    "hang_observer",
    "is_observing_hook",
    "is_prepared",
    "observer_of",
    "observing_hook",
]

OBSERVER = "activation_post_process"
"""The observer of a prepared module's output; the legacy name."""
INPUT_MEAN = "input_mean"
"""What records the mean of its input."""


_Hook = TypeVar("_Hook", bound=Callable[..., Any])


def observing_hook(hook: _Hook) -> _Hook:
    """Mark a hook, or a class of hooks, as one that preparation registers."""
    hook.is_of_preparation = True  # type: ignore[attr-defined]
    return hook


@observing_hook
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


@observing_hook
def round_output(module: nn.Module, inputs: Any, output: Any) -> Any:
    """Forward hook: round the module's output as its fake quantizer does, of a tuple the first part."""
    if isinstance(output, (tuple, list)) and output:
        return type(output)([round_output(module, inputs, output[0]), *output[1:]])
    if isinstance(output, Tensor) and output.is_floating_point():
        return getattr(module, OBSERVER)(output)
    return output


def attach_observer(
    module: nn.Module,
    qconfig: QConfig,
    path: str,
    *,
    observe: bool,
    input_channels: tuple[int, int] | None = None,
) -> None:
    """Make `module` a prepared one; without `observe` nothing looks at its output.

    A fake quantizer, where the qconfig's activation is one, rounds the output too.
    """
    vars(module)["qconfig"] = qconfig
    if not observe:
        return
    observer = qconfig.activation()
    if not isinstance(observer, ObserverBase):  # an Identity, of a qconfig for weights alone
        return
    hang_observer(module, observer, path, input_channels)


def hang_observer(
    module: nn.Module, observer: ObserverBase, path: str, input_channels: tuple[int, int] | None = None
) -> None:
    """Let `observer` see what `module` gives, and round it if it is a fake quantizer."""
    observer.name = path
    observer.train(module.training)
    tensors = [*module.parameters(), *module.buffers()]
    if tensors:
        observer.to(tensors[0].device)
    setattr(module, OBSERVER, observer)
    if isinstance(observer, FakeQuantizeBase):
        if not calls_its_rounder(module):
            module.register_forward_hook(round_output)
        return
    if input_channels is not None:
        recorder = InputMean(*input_channels)
        module.add_module(INPUT_MEAN, recorder.to(tensors[0].device) if tensors else recorder)
    if not isinstance(module, FloatFunctional):  # which shows its results itself
        module.register_forward_hook(observe_output)


def calls_its_rounder(module: nn.Module) -> bool:
    """Whether the forward of `module` itself rounds what it gives, so that it needs no hook for that."""
    return isinstance(module, (FloatFunctional, FusedModule, ResidualLayer))


def is_observing_hook(hook: Any) -> bool:
    """Whether a hook is one that `prepare` or `prepare_qat` registered: `convert` takes it away."""
    return getattr(hook, "is_of_preparation", False) is True


def observer_of(module: nn.Module) -> ObserverBase | None:
    """The observer that `prepare` gave `module`."""
    observer = module._modules.get(OBSERVER)
    return observer if isinstance(observer, ObserverBase) else None


def is_prepared(module: nn.Module) -> bool:
    """Whether anything in `module` has been prepared and not converted."""
    return any(observer_of(part) is not None for part in module.modules())
