"""A user's model, copied and traced as the user's configuration wants it.

May import tracing, examples, module_state, fx (the configuration), nn and rules.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from intaglio.fx.custom_config import PrepareCustomConfig, StandaloneModuleConfigEntry
from intaglio.graph_passes.examples import Call, example_call, vary_sizes
from intaglio.graph_passes.module_state import kept_state
from intaglio.graph_passes.tracer import Treatment
from intaglio.graph_passes.tracing import Traced, trace_model
from intaglio.nn.copying import copy_model
from intaglio.nn.fast_path import leave_fast_paths
from intaglio.rules import all_rules, rule_of

__all__ = ["calls_of", "custom_classes", "entry_of", "trace_copy", "treat_plainly"]


def custom_classes(mapping: Mapping[Any, Mapping[Any, Any]]) -> dict[Any, Any]:
    """A mapping of classes for each type of quantization, as one."""
    return {kind: made for classes in mapping.values() for kind, made in classes.items()}


def _is_leaf(module: nn.Module, path: str) -> bool:
    """Layers: what has a rule, and what torch computes without calling further modules that have one."""
    if rule_of(module, all_rules()) is not None:
        return True
    if not type(module).__module__.startswith("torch.nn") or isinstance(module, nn.Sequential):
        return False
    return not any(rule_of(part, all_rules()) for part in module.modules() if part is not module)


def treat_plainly(module: nn.Module, path: str) -> Treatment:
    """Call what is a layer and look into everything else."""
    return "leaf" if _is_leaf(module, path) else "inside"


def trace_copy(
    model: nn.Module, example_inputs: Any, custom: PrepareCustomConfig, *, is_qat: bool = False
) -> Traced:
    """Trace a copy of `model`, for training in eval mode, as the user's configuration wants it."""
    observed = tuple(custom_classes(custom.float_to_observed_mapping))

    def treat(module: nn.Module, path: str) -> Treatment:
        if path and entry_of(custom, path, module) is not None:
            return "apart"
        if path in custom.non_traceable_module_names or type(module) in custom.non_traceable_module_classes:
            return "children"
        return "leaf" if type(module) in observed else treat_plainly(module, path)

    copied = copy_model(model, {})
    if is_qat:
        copied.eval()
    leave_fast_paths(copied)
    for part in copied.modules():
        vars(part).pop("qconfig", None)
    return trace_model(copied, calls_of(copied, example_inputs), treat, is_qat=is_qat)


def calls_of(copied: nn.Module, example_inputs: Any) -> list[Call]:
    """The example call, and those of other sizes that the model takes."""
    with kept_state(copied):
        return vary_sizes(copied, example_call(copied, example_inputs))


def entry_of(custom: PrepareCustomConfig, path: str, module: nn.Module) -> StandaloneModuleConfigEntry | None:
    """What the user wants of a standalone module, or None if it is none."""
    return custom.standalone_module_names.get(path) or custom.standalone_module_classes.get(type(module))
