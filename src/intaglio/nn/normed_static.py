"""The rule of `NormedLayer`: whatever the rule of its layer does, with the batch norm folded in.

May import rules, normed, the forms of the layers, and errors.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from intaglio.nn.conv import CONV
from intaglio.nn.conv_transpose import CONV_TRANSPOSE
from intaglio.nn.linear import LINEAR
from intaglio.nn.normed import NormedLayer, folded, without_norm
from intaglio.qconfig import QConfig
from intaglio.qparams import QParams
from intaglio.rules import Example, OpRule, StaticForm, register_rule

__all__ = ["NORMED"]


def _rule_of_layer(module: nn.Module) -> OpRule:
    layer = without_norm(module)
    return next(rule for rule in (CONV, CONV_TRANSPOSE, LINEAR) if isinstance(layer, rule.float_types))


def _static(module: nn.Module) -> StaticForm:
    static = _rule_of_layer(module).static
    assert static is not None
    return static


def _lower(module: nn.Module, qconfig: QConfig, path: str, output: QParams | None) -> nn.Module:
    layer = folded(module)
    mean = module._modules.get("input_mean")
    if mean is not None:
        layer.add_module("input_mean", mean)
    return _static(module).lower(layer, qconfig, path, output)


def _lower_dynamic(module: nn.Module, qconfig: QConfig, path: str) -> nn.Module:
    return _rule_of_layer(module).lower_dynamic(folded(module), qconfig, path)


def _refuse(module: nn.Module, qconfig: QConfig) -> str | None:
    rule, dtype = _rule_of_layer(module), qconfig.weight().dtype.name
    if dtype not in rule.weight_dtypes:
        return f"{rule.name} has no dynamic {dtype} form"
    return rule.refuse(without_norm(module), qconfig)


def _input_channels(module: nn.Module) -> tuple[int, int]:
    channels = _static(module).input_channels
    assert channels is not None
    return channels(without_norm(module))


def _example(make: Callable[[], nn.Module], norm: nn.Module, *shape: int) -> Callable[[], Example]:
    def example() -> tuple[nn.Module, tuple[Tensor]]:
        with torch.no_grad():
            for tensor in (norm.weight, norm.bias, norm.running_mean):
                tensor.normal_()  # type: ignore[operator]
        return NormedLayer(make(), norm).eval(), (torch.randn(*shape),)

    return example


_EXAMPLES = (
    _example(lambda: nn.Conv2d(5, 9, 3, padding=1, bias=False), nn.BatchNorm2d(9), 2, 5, 7, 6),
    _example(lambda: nn.ConvTranspose2d(4, 6, 2, 2, groups=2), nn.BatchNorm2d(6), 2, 4, 5, 6),
    _example(lambda: nn.Linear(17, 12), nn.BatchNorm1d(12), 6, 17),
)

NORMED = register_rule(
    OpRule(
        name="NormedLayer",
        float_types=(NormedLayer,),
        static=StaticForm(
            _lower,
            input_channels=_input_channels,
            refuse=lambda module, qconfig: _static(module).refuse(without_norm(module), qconfig),
            examples=_EXAMPLES,
        ),
        lower_dynamic=_lower_dynamic,
        weight_dtypes=CONV.weight_dtypes | LINEAR.weight_dtypes,
        refuse=_refuse,
        examples=_EXAMPLES,
    )
)
