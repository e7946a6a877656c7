"""Modules that share float weights come to share the quantized ones. May import nn, rules and errors."""

from __future__ import annotations

import torch
from torch import nn

from intaglio.nn.quantized import QuantizedModule
from intaglio.qconfig import QConfig
from intaglio.rules import OpRule

__all__ = ["lower_once"]


def lower_once(
    module: nn.Module, rule: OpRule, qconfig: QConfig, path: str, done: dict[object, nn.Module]
) -> nn.Module:
    """The dynamic form of `module`: a twin of one of `done` if that was made of the same parameters."""
    parameters = tuple((name, id(p)) for name, p in module.named_parameters())
    key = (rule.name, qconfig, module.extra_repr(), parameters)
    earlier = done.get(key)
    if isinstance(earlier, QuantizedModule):
        return earlier.twin(path)
    with torch.no_grad():
        done[key] = rule.lower_dynamic(module, qconfig, path)
    return done[key]
