"""Quantization-aware training: `prepare_qat` and `quantize_qat`.

A prepared model stays the user's module tree: `train()`, `eval()`, hooks, optimizers, checkpoints and copies
work as ever. May import preparation, static_planning, observing, nn and below.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn

from intaglio.eager.checking import watch_parameters
from intaglio.eager.conversion import convert
from intaglio.eager.observing import attach_observer, hang_observer
from intaglio.eager.planning import refuse_model
from intaglio.eager.preparation import RECORD
from intaglio.eager.ranks import watch_ranks
from intaglio.eager.rehearsal import rehearse_layers
from intaglio.eager.static_planning import Leaf, is_dynamic, plan_static
from intaglio.errors import ConfigError, ConversionError
from intaglio.fake_quantize import FakeQuantizeBase, FixedQParamsFakeQuantize
from intaglio.nn.copying import copy_model
from intaglio.nn.fast_path import leave_fast_paths
from intaglio.nn.fused import FusedModule
from intaglio.nn.normed import without_norm
from intaglio.nn.residual import ResidualLayer
from intaglio.nn.trained import check_rounder, form_of, train_layer
from intaglio.nn.weight_hooks import check_weights, refresh_weights
from intaglio.observer import FixedQParamsObserver, ObserverBase
from intaglio.qparams import QParams
from intaglio.rules import TrainedForm, all_rules

__all__ = ["prepare_qat", "quantize_qat"]


def prepare_qat(
    model: nn.Module,
    mapping: Mapping[type[nn.Module], Any] | None = None,
    inplace: bool = False,
) -> nn.Module:
    """Give a model that trains as it will compute when it is quantized.

    Weights are rounded where they are used and outputs where they are observed; gradients pass straight
    through. Train it as the float model was, with a smaller learning rate, then `eval()` and `convert`.
    Make the optimizer afterwards: with `inplace` the parameters stay the same objects, but learned scales are
    new ones.

    Parameters
    ----------
    model : nn.Module
        A float model with stubs, with its modules fused by `fuse_modules_qat` and qconfigs with fake
        quantizers: `model.qconfig = get_default_qat_qconfig("x86")`.
    mapping : dict from float types to classes, optional
        Further replacements: `mapping[type].from_float(module)` takes the module's place; the module has
        its `qconfig`.
    inplace : bool
        Prepare `model` itself.

    Returns
    -------
    nn.Module
        The prepared model, in the mode that `model` is in. Its state dict has the names of the float model's
        and those of the fake quantizers.

    Raises
    ------
    NothingQuantizedError
        No module has both a rule and a qconfig.
    ConfigError, ConversionError
        A qconfig only observes, nothing can be trained, or the model makes no sense; `model` is unchanged.

    Examples
    --------
    >>> import torch, intaglio
    >>> model = intaglio.QuantWrapper(nn.Sequential(nn.Linear(16, 8), nn.ReLU())).train()
    >>> model.qconfig = intaglio.get_default_qat_qconfig("x86")
    >>> prepared = prepare_qat(model)
    >>> prepared(torch.randn(32, 16)).sum().backward()
    >>> intaglio.convert(prepared.eval())(torch.randn(2, 16)).shape
    torch.Size([2, 8])
    """
    refuse_model(model)
    if not inplace:
        model = copy_model(model, {})
    plan = plan_static(model, all_rules(), observed_classes=_checked(mapping))
    _check(plan.leaves)
    refresh_weights(model)
    for leaf in plan.leaves:
        check_weights(leaf.module, leaf.paths[0])
    for leaf in plan.leaves:
        if leaf.observed_class is None:
            _prepare_leaf(leaf)
            continue
        vars(leaf.module)["qconfig"] = leaf.qconfig
        made = leaf.observed_class.from_float(leaf.module)
        vars(made).setdefault("qconfig", leaf.qconfig)
        attach_observer(made, leaf.qconfig, leaf.paths[0], observe=True)
        for path in leaf.paths:
            if path == "":
                model = made
            else:
                model.set_submodule(path, made)
    leave_fast_paths(model)
    rehearse_layers(model, plan.leaves)
    object.__setattr__(model, RECORD, dict(plan.kept))
    watch_ranks(model)
    watch_parameters(model)
    return model


def _checked(mapping: Mapping[type[nn.Module], Any] | None) -> dict[type[nn.Module], Any]:
    """A user's mapping, in the form in which custom classes are planned."""
    for kind, made in (mapping or {}).items():
        if not hasattr(made, "from_float"):
            raise ConfigError(
                f"mapping[{kind.__name__}] is {made!r}, which has no from_float(module) to make its form"
            )
    return dict(mapping or {})


def quantize_qat(
    model: nn.Module, run_fn: Callable[..., Any], run_args: Sequence[Any] = (), inplace: bool = False
) -> nn.Module:
    """Prepare `model` for training, call `run_fn(prepared, *run_args)` to train it, and convert it."""
    prepared = prepare_qat(model.train(), inplace=inplace)
    run_fn(prepared, *run_args)
    return convert(prepared.eval(), inplace=True)


def _check(leaves: Sequence[Leaf]) -> None:
    """Raise what `_prepare_leaf` would raise, before anything is changed."""
    trainable = False
    for leaf in leaves:
        activation, weight = leaf.qconfig.activation(), leaf.qconfig.weight()
        rounds = isinstance(activation, FakeQuantizeBase) or not isinstance(activation, ObserverBase)
        if not rounds and not isinstance(weight, FakeQuantizeBase):
            raise ConfigError(
                f"'{leaf.paths[0]}': its qconfig observes ({type(activation).__name__}, "
                f"{type(weight).__name__}) and rounds nothing: training needs fake quantizers, as "
                "intaglio.get_default_qat_qconfig('x86') has"
            )
        _, form, path = _layer_of(leaf.module, leaf.paths[0])
        if form is not None and leaf.observed_class is None and not isinstance(weight, nn.Identity):
            check_rounder(form.rounder(leaf.qconfig)(), path)
        trainable |= any(parameter.requires_grad for parameter in leaf.module.parameters())
    if leaves and not trainable:
        raise ConversionError(
            "no parameter of what would be quantized can be trained (requires_grad is False for all): use "
            "prepare and calibrate, or let parameters require gradients"
        )


def _prepare_leaf(leaf: Leaf) -> None:
    module, qconfig, path = leaf.module, leaf.qconfig, leaf.paths[0]
    dynamic = is_dynamic(qconfig)
    layer, form, layer_path = _layer_of(module, path)
    if form is not None and not isinstance(qconfig.weight(), nn.Identity):
        vars(layer)["qconfig"] = qconfig
        train_layer(layer, form, qconfig, layer_path, dynamic=dynamic)
    static = leaf.rule.static if leaf.rule is not None else None
    output = None if static is None else static.output
    attach_observer(module, qconfig, path, observe=not dynamic and output == "observed")
    if isinstance(output, QParams) and not dynamic and isinstance(qconfig.activation(), FakeQuantizeBase):
        hang_observer(module, _fixed(output), path)


def _layer_of(module: nn.Module, path: str) -> tuple[nn.Module, TrainedForm | None, str]:
    """The layer with weights in a fused one, how such layers train, and where it stands."""
    names = [path] if path else []
    while isinstance(module, (FusedModule, ResidualLayer)):
        names.append("0" if isinstance(module, FusedModule) else "layer")
        module = module.layer
    if without_norm(module) is not module:
        names.append("0")
    layer = without_norm(module)
    return layer, form_of(type(layer)), ".".join(names)


def _fixed(output: QParams) -> FakeQuantizeBase:
    scale, zero_point = output.scalars
    return FixedQParamsFakeQuantize(
        FixedQParamsObserver.with_args(scale=scale, zero_point=zero_point, dtype=output.dtype)
    )
