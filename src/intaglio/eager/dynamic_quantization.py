"""`quantize_dynamic`: replaces float modules by dynamic quantized ones.

First a plan (planning.py), in which everything that can be wrong is found, then the replacement. The
user's model is untouched unless `inplace`, and then too if the plan fails. May import nn and below.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.utils.weight_norm import WeightNorm

from intaglio.eager.planning import Plan, Replacement, plan_dynamic, read_spec, refuse_model, rules_with
from intaglio.errors import ConversionError
from intaglio.nn.fast_path import leave_fast_paths
from intaglio.nn.quantized import QuantizedModule
from intaglio.qconfig import QConfig
from intaglio.qparams import QuantizedType

__all__ = ["quantize_dynamic"]

RECORD = "intaglio_kept_float"
"""Attribute of a converted model: why each module that stayed float did."""


def quantize_dynamic(
    model: nn.Module,
    qconfig_spec: Mapping[Any, QConfig | None] | Iterable[Any] | None = None,
    dtype: torch.dtype | str | QuantizedType = "int8",
    mapping: Mapping[type[nn.Module], Callable[..., nn.Module]] | None = None,
    inplace: bool = False,
) -> nn.Module:
    """Give a model whose weights are quantized now and whose activations are quantized as they come.

    Parameters
    ----------
    model : nn.Module
        A float model on the CPU.
    qconfig_spec : set of types or names, dict from types or names to QConfig or None, or None
        What to quantize. A name or a container's type covers all that is inside; a name wins over a type
        and the nearer over the farther; a qconfig of None keeps a part in float. By default every module
        that has a dynamic form for `dtype`.
    dtype : {'int8', 'float16', 'uint8', 'uint4'} or the torch dtype of that name, legacy ones included
        How weights are stored: int8 and float16 for layers that multiply, uint8 and uint4 for embeddings.
        Ignored for a dict of qconfigs.
    mapping : dict from float types to callables, optional
        Further or other replacements: `mapping[type](module)`, or its `from_float`, gives the new module.
    inplace : bool
        Replace inside `model` instead of in a copy. Each float layer is freed as soon as its quantized
        form stands, so that peak memory is the float model and one layer.

    Returns
    -------
    nn.Module
        The quantized model, in eval mode. `intaglio.summary` tells what was done to each layer.

    Raises
    ------
    NothingQuantizedError
        No module matched.
    ConfigError, ConversionError
        The specification or the model makes no sense; `model` is unchanged.

    Examples
    --------
    >>> model = nn.Sequential(nn.Linear(16, 8), nn.ReLU())
    >>> quantized = quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)
    >>> quantized(torch.randn(2, 16)).shape
    torch.Size([2, 8])
    """
    refuse_model(model)
    rules = rules_with(mapping)
    plan = plan_dynamic(model, read_spec(qconfig_spec, dtype, rules), rules)
    _check_weights(plan)
    quantized = _replace_inplace(model, plan) if inplace else _replace_in_copy(model, plan)
    quantized.eval()
    leave_fast_paths(quantized)
    object.__setattr__(quantized, RECORD, dict(plan.kept))
    return quantized


def _check_weights(plan: Plan) -> None:
    """Find what would stop a conversion half way before it begins."""
    for item in plan.replacements:
        for name, parameter in item.module.named_parameters():
            if parameter.is_meta:
                raise ConversionError(
                    f"'{item.paths[0]}.{name}' has no data (meta device): load the weights first"
                )
            if not bool(torch.isfinite(parameter).all()):
                raise ConversionError(
                    f"'{item.paths[0]}.{name}' holds NaN or infinity and cannot be quantized: "
                    "mend the weights, or keep the module in float with {'" + item.paths[0] + "': None}"
                )


def _lower(item: Replacement, done: dict[object, nn.Module]) -> nn.Module:
    """The quantized form of one module, sharing weights with an earlier one where the floats did."""
    parameters = tuple((name, id(p)) for name, p in item.module.named_parameters())
    key = (item.rule.name, item.qconfig, item.module.extra_repr(), parameters)
    earlier = done.get(key)
    if isinstance(earlier, QuantizedModule):
        quantized: nn.Module = earlier.twin(item.paths[0])
    else:
        with torch.no_grad():
            quantized = item.rule.lower_dynamic(item.module, item.qconfig, item.paths[0])
        done[key] = quantized
    _keep_hooks(item.module, quantized)
    return quantized


def _keep_hooks(source: nn.Module, target: nn.Module) -> None:
    for name in ("_forward_pre_hooks", "_forward_hooks"):
        kept = {k: hook for k, hook in getattr(source, name).items() if not isinstance(hook, WeightNorm)}
        getattr(target, name).update(kept)


def _replace_in_copy(model: nn.Module, plan: Plan) -> nn.Module:
    """A copy of `model` into which the quantized modules go; their float weights are never copied."""
    done: dict[object, nn.Module] = {}
    memo: dict[int, Any] = {}
    for item in plan.replacements:
        memo[id(item.module)] = _lower(item, done)
    return copy.deepcopy(model, memo)


def _replace_inplace(model: nn.Module, plan: Plan) -> nn.Module:
    """`model` with its modules replaced one by one, each float module let go before the next."""
    done: dict[object, nn.Module] = {}
    while plan.replacements:
        item = plan.replacements.pop(0)
        quantized = _lower(item, done)
        if item.paths[0] == "":
            return quantized
        for path in item.paths:
            model.set_submodule(path, quantized)
    return model
