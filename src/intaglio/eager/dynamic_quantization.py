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

from intaglio.eager.hooks import give_hooks, hooks_of
from intaglio.eager.planning import Plan, Replacement, plan_dynamic, read_spec, refuse_model, rules_with
from intaglio.eager.sharing import lower_once
from intaglio.errors import ConversionError
from intaglio.nn.copying import copy_model
from intaglio.nn.fast_path import leave_fast_paths
from intaglio.nn.quantized import QuantizedModule
from intaglio.nn.weight_hooks import check_weights, refresh_weights
from intaglio.qconfig import QConfig
from intaglio.qparams import QuantizedType
from intaglio.rules import all_rules

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
    refresh_weights(model)
    _check(plan)
    quantized = _replace_inplace(model, plan) if inplace else _replace_in_copy(model, plan)
    quantized.eval()
    leave_fast_paths(quantized)
    object.__setattr__(quantized, RECORD, dict(plan.kept))
    return quantized


def _check(plan: Plan) -> None:
    """Find weights that would stop a conversion half way."""
    for item in plan.replacements:
        check_weights(item.module, item.paths[0])


def _lower(item: Replacement, done: dict[object, nn.Module]) -> nn.Module:
    """The quantized form of one module, sharing weights with an earlier one where the floats did."""
    quantized = lower_once(item.module, item.rule, item.qconfig, item.paths[0], done)
    if not isinstance(quantized, nn.Module):
        raise ConversionError(
            f"'{item.paths[0]}': the mapping of {item.rule.name} gave {type(quantized).__name__}, "
            "not an nn.Module"
        )
    if isinstance(quantized, QuantizedModule):
        quantized.replaced = {name: tuple(p.shape) for name, p in item.module.named_parameters()}
    return quantized


def _rehearse(plan: Plan) -> None:
    """Find what a rule cannot do with a qconfig on the rule's own example, before anything moves."""
    tried: set[tuple[str, QConfig]] = set()
    for item in plan.replacements:
        if item.rule.examples and (item.rule.name, item.qconfig) not in tried:
            tried.add((item.rule.name, item.qconfig))
            with torch.no_grad(), torch.random.fork_rng(devices=[]):
                example, _ = item.rule.examples[0]()
                item.rule.lower_dynamic(example, item.qconfig, item.paths[0])


def _replace_in_copy(model: nn.Module, plan: Plan) -> nn.Module:
    """A copy of `model` into which the quantized modules go; their float weights are never copied."""
    done: dict[object, nn.Module] = {}
    memo: dict[int, Any] = {id(item.module): _lower(item, done) for item in plan.replacements}
    replaced = {item.module: memo[id(item.module)] for item in plan.replacements}
    copied = copy_model(model, memo)
    for source, target in replaced.items():
        # With the memo, so that a hook which is a method of the model becomes a method of the copy.
        give_hooks(target, copy.deepcopy(hooks_of(source), memo))
    return copied


def _replace_inplace(model: nn.Module, plan: Plan) -> nn.Module:
    """`model` with its modules replaced one by one, each float module let go before the next.

    What may fail comes first: the user's own replacements, and each rule with each qconfig.
    """
    _rehearse(plan)
    done: dict[object, nn.Module] = {}
    ours = all_rules()
    ready = {id(item): _lower(item, done) for item in plan.replacements if item.rule not in ours}
    while plan.replacements:
        item = plan.replacements.pop(0)
        quantized = ready[id(item)] if id(item) in ready else _lower(item, done)
        give_hooks(quantized, hooks_of(item.module))
        if item.paths[0] == "":
            return quantized
        for path in item.paths:
            model.set_submodule(path, quantized)
    return model
