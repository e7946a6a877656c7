"""`prepare`: attaches observers, so that data which runs through the model tells its ranges.

May import static_planning, observing, nn and below.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from intaglio.eager.observing import attach_observer
from intaglio.eager.planning import refuse_model
from intaglio.eager.static_planning import Leaf, is_dynamic, plan_static
from intaglio.errors import ConfigError
from intaglio.nn.copying import copy_model
from intaglio.nn.stubs import QuantWrapper
from intaglio.nn.weight_hooks import check_weights, refresh_weights
from intaglio.qconfig import QConfig
from intaglio.rules import all_rules, rule_of

__all__ = ["add_quant_dequant", "prepare", "propagate_qconfig_"]

RECORD = "intaglio_kept_float"


def prepare(
    model: nn.Module,
    inplace: bool = False,
    allow_list: set[type[nn.Module]] | None = None,
    observer_non_leaf_module_list: list[type[nn.Module]] | None = None,
    prepare_custom_config_dict: Mapping[str, Any] | None = None,
) -> nn.Module:
    """Give a float model whose quantizable modules observe what they give.

    Run it on representative data, then `convert` it. A module is observed if it has a rule and a qconfig: its
    own attribute `qconfig` or that of the nearest module around it; None keeps a part in float.

    Parameters
    ----------
    model : nn.Module
        A float model with stubs (`QuantStub`, `DeQuantStub`) and, best, with its modules fused.
    inplace : bool
        Attach the observers to `model` itself.
    allow_list : set of types, optional
        The only module types that may be observed.
    observer_non_leaf_module_list : list of types, optional
        Further types whose output is observed although they stay what they are: for looking at ranges.
    prepare_custom_config_dict : dict, optional
        `{"float_to_observed_custom_module_class": {Float: Observed}}`: `Observed.from_float(module)` takes
        the module's place; `convert` needs the way on.

    Returns
    -------
    nn.Module
        The prepared model.

    Raises
    ------
    NothingQuantizedError
        No module has both a rule and a qconfig.
    ConfigError, ConversionError
        The model or a qconfig makes no sense; `model` is unchanged.

    Examples
    --------
    >>> import torch, intaglio
    >>> model = intaglio.QuantWrapper(nn.Sequential(nn.Linear(16, 8), nn.ReLU())).eval()
    >>> model.qconfig = intaglio.get_default_qconfig("x86")
    >>> prepared = prepare(model)
    >>> _ = prepared(torch.randn(32, 16))
    >>> intaglio.convert(prepared)(torch.randn(2, 16)).shape
    torch.Size([2, 8])
    """
    refuse_model(model)
    custom = (prepare_custom_config_dict or {}).get("float_to_observed_custom_module_class", {})
    if not inplace:
        model = copy_model(model, {})
    plan = plan_static(model, all_rules(), observed_classes=custom, allowed=allow_list)
    refresh_weights(model)
    for leaf in plan.leaves:
        check_weights(leaf.module, leaf.paths[0])
    observed = {id(leaf): _observed_form(leaf) for leaf in plan.leaves if leaf.observed_class is not None}
    for leaf in plan.leaves:
        module = observed.get(id(leaf), leaf.module)
        static = leaf.rule.static if leaf.rule is not None else None
        observe = not is_dynamic(leaf.qconfig) and (static is None or static.output == "observed")
        channels = static.input_channels(module) if static and static.input_channels else None
        attach_observer(module, leaf.qconfig, leaf.paths[0], observe=observe, input_channels=channels)
        if id(leaf) in observed:
            for path in leaf.paths:
                model = module if path == "" else _put(model, path, module)
    for path, module in model.named_modules():
        if type(module) in (observer_non_leaf_module_list or []) and "qconfig" in vars(module):
            attach_observer(module, module.qconfig, path, observe=True)
    object.__setattr__(model, RECORD, dict(plan.kept))
    return model


def _put(model: nn.Module, path: str, module: nn.Module) -> nn.Module:
    model.set_submodule(path, module)
    return model


def _observed_form(leaf: Leaf) -> nn.Module:
    """What a user's own class makes of a module; the float module has its qconfig, as the legacy gave it."""
    had = vars(leaf.module).get("qconfig")
    vars(leaf.module)["qconfig"] = leaf.qconfig
    observed = leaf.observed_class.from_float(leaf.module)
    if had is None:
        del leaf.module.qconfig
    if not isinstance(observed, nn.Module):
        raise ConfigError(
            f"'{leaf.paths[0]}': {leaf.observed_class.__name__}.from_float gave a {type(observed).__name__}, "
            "not an nn.Module"
        )
    return observed


def propagate_qconfig_(
    module: nn.Module,
    qconfig_dict: Mapping[Any, QConfig | None] | None = None,
    prepare_custom_config_dict: Mapping[str, Any] | None = None,
) -> None:
    """Write on each module in `module` the qconfig that holds there, as attribute `qconfig`.

    `qconfig_dict` maps names, types or `""` (the whole) to qconfigs; a name wins over a type, and both over
    what is inherited. `prepare` does not need this: it finds each module's qconfig by itself.
    """
    spec = dict(qconfig_dict or {})
    names = {name for name, _ in module.named_modules()}
    for key in spec:
        if isinstance(key, str) and key not in names:
            raise ConfigError(f"qconfig_dict: no module is named '{key}'")
    _propagate(module, "", spec, spec.get("", getattr(module, "qconfig", None)))


def _propagate(module: nn.Module, path: str, spec: Mapping[Any, QConfig | None], inherited: Any) -> None:
    own = vars(module).get("qconfig", inherited)
    qconfig = spec.get(path, spec.get(type(module), own))
    vars(module)["qconfig"] = qconfig
    for name, child in module.named_children():
        _propagate(child, f"{path}.{name}" if path else name, spec, qconfig)


def add_quant_dequant(module: nn.Module) -> nn.Module:
    """Wrap each quantizable module that has a qconfig of its own in a `QuantWrapper`; gives the model back.

    For models whose forward cannot be edited: each wrapped module is quantized alone. `module` is changed.
    """
    if _is_wrappable(module):
        return QuantWrapper(module)
    for name, child in module.named_children():
        module._modules[name] = add_quant_dequant(child)
    return module


def _is_wrappable(module: nn.Module) -> bool:
    rule = rule_of(module, all_rules())
    return rule is not None and rule.static is not None and vars(module).get("qconfig") is not None
