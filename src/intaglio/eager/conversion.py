"""`convert`: replaces prepared modules by quantized ones between `QTensor`s; `quantize` does all three steps.

Every replacement is made before the first is put in its place, so that a conversion that fails leaves the
model as it was. May import observing, planning, nn and below.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import nn

from intaglio.eager.hooks import give_hooks, hooks_of
from intaglio.eager.observing import (
    INPUT_MEAN,
    OBSERVER,
    calls_its_rounder,
    is_observing_hook,
    observer_of,
)
from intaglio.eager.planning import paths_of
from intaglio.eager.preparation import RECORD, prepare
from intaglio.eager.sharing import lower_once
from intaglio.eager.static_planning import is_dynamic
from intaglio.errors import ConfigError, ConversionError
from intaglio.fake_quantize import FakeQuantizeBase
from intaglio.nn.copying import copy_model
from intaglio.nn.fast_path import leave_fast_paths
from intaglio.nn.fused import FusedModule
from intaglio.nn.normed import NormedLayer
from intaglio.nn.quantized import QuantizedModule
from intaglio.nn.reference import reference_of
from intaglio.nn.residual import ResidualLayer
from intaglio.nn.settling import is_trained, settle
from intaglio.nn.trained import TrainedLayer
from intaglio.nn.twins import WeightPool
from intaglio.nn.weight_hooks import check_weights
from intaglio.observer import ObserverBase
from intaglio.qconfig import QConfig
from intaglio.qparams import QParams, as_uint8
from intaglio.rules import OpRule, all_rules, rule_of

__all__ = ["convert", "default_eval_fn", "get_default_custom_config_dict", "quantize", "swap_module"]

_MOST_NAMED = 8
_Choose = Callable[[ObserverBase], QParams]


@dataclass(frozen=True)
class _Item:
    """A prepared module, what makes its quantized form, and every path at which it stands.

    `plain` is the float module that is lowered: of one that was trained, what `settle` made.
    """

    module: nn.Module
    plain: nn.Module
    paths: tuple[str, ...]
    make: Callable[[], nn.Module]


def convert(
    module: nn.Module,
    mapping: Mapping[type[nn.Module], Any] | None = None,
    inplace: bool = False,
    remove_qconfig: bool = True,
    is_reference: bool = False,
    convert_custom_config_dict: Mapping[str, Any] | None = None,
    use_precomputed_fake_quant: bool = False,
) -> nn.Module:
    """Give the quantized model of a prepared one that has seen data.

    Parameters
    ----------
    module : nn.Module
        What `prepare` gave, after representative data ran through it.
    mapping : dict from float types to classes, optional
        Further or other replacements: `mapping[type].from_float(module)` gives the quantized module; the
        float module has `qconfig` and `activation_post_process`.
    inplace : bool
        Replace inside `module` instead of in a copy.
    remove_qconfig : bool
        Take the attribute `qconfig` off every module of the result.
    is_reference : bool
        Give a float model that rounds weights and outputs as the quantized one does, for any device: it
        shows what quantization does and computes nothing on integers.
    convert_custom_config_dict : dict, optional
        `{"observed_to_quantized_custom_module_class": {Observed: Quantized}}`, of which
        `Quantized.from_observed(module)` gives the quantized module.
    use_precomputed_fake_quant : bool
        Accepted and without effect: parameters are always those that were observed.

    Returns
    -------
    nn.Module
        The quantized model, in eval mode.

    Raises
    ------
    ConversionError
        Nothing is prepared, the model is converted already, or an observer saw no data; `module` is
        unchanged.
    """
    custom = (convert_custom_config_dict or {}).get("observed_to_quantized_custom_module_class", {})
    items = _plan(module, mapping or {}, custom)
    with torch.no_grad():
        pool = WeightPool()
        done = [(item, _make(item, pool)) for item in items]
        if is_reference:
            done = [(item, reference_of(item.plain, quantized)) for item, quantized in done]
    kept = getattr(module, RECORD, {})
    quantized = _put_inplace(module, done) if inplace else _put_in_copy(module, done)
    quantized.eval()
    leave_fast_paths(quantized)
    for part in quantized.modules():
        if remove_qconfig and "qconfig" in vars(part):
            del part.qconfig
        if observer_of(part) is not None:  # one that only looked
            part._modules.pop(OBSERVER)
            part._modules.pop(INPUT_MEAN, None)
        hooks = (*part._forward_hooks.values(), *part._forward_pre_hooks.values())
        if any(is_observing_hook(hook) for hook in hooks):
            give_hooks(part, hooks_of(part))
    object.__setattr__(quantized, RECORD, kept)
    return quantized


def quantize(
    model: nn.Module,
    run_fn: Callable[..., Any],
    run_args: Sequence[Any] = (),
    mapping: Mapping[type[nn.Module], Any] | None = None,
    inplace: bool = False,
) -> nn.Module:
    """Prepare `model`, call `run_fn(prepared, *run_args)` to calibrate it, and convert it."""
    prepared = prepare(model, inplace=inplace)
    run_fn(prepared, *run_args)
    return convert(prepared, mapping, inplace=True)


def quantized_form(module: nn.Module) -> nn.Module | None:
    """What `convert` makes of one prepared module as it is now; None if it makes nothing."""
    plain = _settled(module, "")
    maker = _maker_of(plain, "", {}, {}, _chosen_by, {})
    return None if maker is None else maker()


def swap_module(
    mod: nn.Module,
    mapping: Mapping[type[nn.Module], Any],
    custom_module_class_mapping: Mapping[type[nn.Module], Any] | None = None,
    use_precomputed_fake_quant: bool = False,
) -> nn.Module:
    """The quantized form of one prepared module, or `mod` itself if it is none."""
    maker = _maker_of(mod, "", mapping, custom_module_class_mapping or {}, _chosen_by, {})
    if maker is None:
        return mod
    with torch.no_grad():
        quantized = maker()
    give_hooks(quantized, hooks_of(mod))
    return quantized


def default_eval_fn(model: nn.Module, calib_data: Iterable[tuple[Any, Any]]) -> None:
    """Run `model` on the inputs of pairs of input and target: a `run_fn` for `quantize`."""
    for data, _ in calib_data:
        model(data)


def get_default_custom_config_dict() -> dict[str, dict[Any, Any]]:
    """Both dicts of custom classes, empty: LSTM and MultiheadAttention have rules here and need none."""
    return {
        "float_to_observed_custom_module_class": {},
        "observed_to_quantized_custom_module_class": {},
    }


# ---- What becomes what -----------------------------------------------------------------------------------


def _plan(model: nn.Module, mapping: Mapping[Any, Any], custom: Mapping[Any, Any]) -> list[_Item]:
    if not isinstance(model, nn.Module):
        raise ConversionError(f"convert takes an nn.Module, not {type(model).__name__}")
    training = [path for path, part in model.named_modules() if part.training and is_trained(part)]
    if training:
        raise ConversionError(
            f"the model is in train mode ('{training[0]}'): call model.eval() before convert, so that batch "
            "norms and dropout are as they will be"
        )
    paths = paths_of(model)
    choose = cache(_chosen_by)  # a search, made once for each observer
    items, inside, lowered = list[_Item](), list[str](), dict[object, nn.Module]()
    for path, module in model.named_modules():
        if any(path.startswith(prefix) for prefix in inside):
            continue
        _check_hook(module, path)
        plain = _settled(module, path)
        maker = _maker_of(plain, path, mapping, custom, choose, lowered)
        if maker is not None:
            inside.append(path + "." if path else "")
            items.append(_Item(module, plain, tuple(paths[id(module)]), maker))
        elif isinstance(module, TrainedLayer):
            raise ConversionError(
                f"'{path}' trained with rounded weights, but nothing rounds what it gives, so that it has no "
                "integer form: give it a qconfig whose activation is a fake quantizer and prepare again"
            )
    if not items:
        if any(isinstance(part, QuantizedModule) for part in model.modules()):
            raise ConversionError("the model is converted already")
        raise ConversionError(
            "the model is not prepared: call intaglio.prepare on it and run data through it"
        )
    _check_seen(items, choose)
    return items


def _check_hook(module: nn.Module, path: str) -> None:
    """Raise `ConversionError` for a module whose fake quantizer nothing calls any more."""
    if vars(module).get("qconfig") is None or calls_its_rounder(module):
        return
    if not isinstance(observer_of(module), FakeQuantizeBase):
        return
    if not any(is_observing_hook(hook) for hook in module._forward_hooks.values()):
        raise ConversionError(
            f"'{path}' ({type(module).__name__}) has a fake quantizer, but not the hook that calls it, so it "
            "trained unrounded: something made the module anew after it was prepared, as "
            "nn.SyncBatchNorm.convert_sync_batchnorm does; call that before you prepare the model"
        )


def _settled(module: nn.Module, path: str) -> nn.Module:
    """What `module` is lowered as; a layer that trained is settled as a whole with what belongs to it."""
    qconfig = vars(module).get("qconfig")
    whole = isinstance(module, (TrainedLayer, NormedLayer)) or (
        isinstance(module, (FusedModule, ResidualLayer)) and observer_of(module) is not None
    )
    if qconfig is None or not whole or not is_trained(module):
        return module
    try:
        plain, settled = settle(module, qconfig)
    except ConversionError as error:
        raise ConversionError(f"'{path}': {error}") from error
    vars(plain)["qconfig"] = settled
    return plain


def _maker_of(
    module: nn.Module,
    path: str,
    mapping: Mapping[Any, Any],
    custom: Mapping[Any, Any],
    choose: _Choose,
    lowered: dict[object, nn.Module],
) -> Callable[[], nn.Module] | None:
    """What makes the quantized form of `module`, or None if it is not prepared."""
    qconfig = vars(module).get("qconfig")
    if type(module) in custom and qconfig is not None:
        return lambda: custom[type(module)].from_observed(module)
    if type(module) in mapping and qconfig is not None:
        return lambda: mapping[type(module)].from_float(module)
    rule = rule_of(module, all_rules())
    if rule is None or qconfig is None:
        return None
    if is_dynamic(qconfig):
        return (lambda: lower_once(module, rule, qconfig, path, lowered)) if rule.weight_dtypes else None
    if rule.static is None or (rule.static.output == "observed" and observer_of(module) is None):
        return None
    return lambda: _lower_static(module, rule, qconfig, path, choose)


def _lower_static(module: nn.Module, rule: OpRule, qconfig: QConfig, path: str, choose: _Choose) -> nn.Module:
    static = rule.static
    assert static is not None
    output = None
    if isinstance(static.output, QParams):
        output = static.output
    elif static.output == "observed":
        observer = observer_of(module)
        assert observer is not None
        try:
            chosen = choose(observer)
        except ConfigError:  # it may be unseen: _check_seen has been here
            return static.lower(module, qconfig, path, None)
        output = as_uint8(chosen)
    return static.lower(module, qconfig, path, output)


def _chosen_by(observer: ObserverBase) -> QParams:
    return observer.choose()


def _check_seen(items: Sequence[_Item], choose: _Choose) -> None:
    """Raise `ConversionError` with the names of observers that cannot tell a range."""
    wrong = []
    for item in items:
        rule, observer = rule_of(item.plain, all_rules()), observer_of(item.plain)
        if observer is None or (rule and rule.static and rule.static.may_be_unseen):
            continue
        try:
            choose(observer)
        except ConfigError as error:
            wrong.append(f"'{item.paths[0]}' ({type(item.plain).__name__}): {error}")
    if wrong:
        more = f"; and {len(wrong) - _MOST_NAMED} more" if len(wrong) > _MOST_NAMED else ""
        raise ConversionError(
            f"{len(wrong)} observers cannot tell a range: " + "; ".join(wrong[:_MOST_NAMED]) + more + ". Run "
            "representative data through the prepared model before convert, or set the qconfig of what is "
            "never run to None"
        )


def _make(item: _Item, pool: WeightPool) -> nn.Module:
    check_weights(item.plain, item.paths[0])
    quantized = item.make()
    if not isinstance(quantized, nn.Module):
        raise ConversionError(
            f"'{item.paths[0]}': its conversion gave a {type(quantized).__name__}, not an nn.Module"
        )
    if isinstance(quantized, QuantizedModule):
        pool.share(quantized)
        quantized.replaced = {name: tuple(p.shape) for name, p in item.module.named_parameters()}
    return quantized


# ---- Putting in place --------------------------------------------------------------------------------------


def _put_in_copy(model: nn.Module, done: Sequence[tuple[_Item, nn.Module]]) -> nn.Module:
    memo: dict[int, Any] = {id(item.module): quantized for item, quantized in done}
    copied = copy_model(model, memo)
    for item, quantized in done:
        give_hooks(quantized, copy.deepcopy(hooks_of(item.module), memo))
    return copied


def _put_inplace(model: nn.Module, done: Sequence[tuple[_Item, nn.Module]]) -> nn.Module:
    for item, quantized in done:
        give_hooks(quantized, hooks_of(item.module))
        if item.paths[0] == "":
            return quantized
        for path in item.paths:
            model.set_submodule(path, quantized)
    return model
