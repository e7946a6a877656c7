"""What can be fused, by the types of its parts, and how: the legacy's patterns and every activation.

    layer + batch norm        the layer, with the batch norm folded in
    layer + activation        a FusedModule
    layer + batch norm + activation
    batch norm + activation   a FusedModule
    zero padding + any of those that begin with an ordinary convolution

A layer is a convolution, transposed or not, or a Linear. May import folding, nn and errors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn
from torch.nn.utils.parametrize import type_before_parametrizations

from intaglio.errors import ConfigError, ConversionError
from intaglio.fusion.folding import check_foldable, fold_batch_norm
from intaglio.nn.fused import (
    ACTIVATIONS,
    BATCH_NORMS,
    LAYERS,
    FusedModule,
    batch_norm_fits,
    kind_of,
    layer_kind,
)
from intaglio.nn.normed import NormedLayer
from intaglio.nn.padded_conv import PADDINGS, pad_conv
from intaglio.nn.weight_hooks import is_weight_hook

__all__ = [
    "FuserMethod",
    "check_group",
    "fuse_conv_bn",
    "fuse_conv_bn_relu",
    "fuse_convtranspose_bn",
    "fuse_known_modules",
    "fuse_linear_bn",
    "get_fuser_method",
]

FuserMethod = Callable[..., nn.Module]
Types = tuple[type[nn.Module], ...]


def fuse_conv_bn(is_qat: bool, conv: nn.Module, bn: nn.Module) -> nn.Module:
    """The convolution with the batch norm folded in, both in eval mode; for training a `NormedLayer`.

    Raises `ConversionError` where that cannot be.
    """
    if is_qat:
        check_foldable(conv, bn, is_qat=True)
        return NormedLayer(conv, bn)
    return fold_batch_norm(conv, bn)


def fuse_conv_bn_relu(is_qat: bool, conv: nn.Module, bn: nn.Module, relu: nn.Module) -> nn.Module:
    """A `FusedModule` of the convolution, with the batch norm folded in, and the activation."""
    return FusedModule(fuse_conv_bn(is_qat, conv, bn), relu)


def fuse_linear_bn(is_qat: bool, linear: nn.Module, bn: nn.Module) -> nn.Module:
    """The Linear with the batch norm folded in; both must be in eval mode."""
    return fuse_conv_bn(is_qat, linear, bn)


def fuse_convtranspose_bn(is_qat: bool, convt: nn.Module, bn: nn.Module) -> nn.Module:
    """The transposed convolution, of any groups, with the batch norm folded in; both in eval mode."""
    return fuse_conv_bn(is_qat, convt, bn)


def _fuse_pair(is_qat: bool, layer: nn.Module, activation: nn.Module) -> nn.Module:
    return FusedModule(layer, activation)


def _fuse_padding(is_qat: bool, padding: nn.Module, conv: nn.Module, *rest: nn.Module) -> nn.Module:
    padded = pad_conv(padding, conv)
    return get_fuser_method(_types_of((padded, *rest)))(is_qat, padded, *rest) if rest else padded


def get_fuser_method(
    op_list: Types, additional_fuser_method_mapping: Mapping[Types, FuserMethod] | None = None
) -> FuserMethod:
    """The function that fuses modules of these types: `method(is_qat, *modules)` gives the fused module.

    Those of `additional_fuser_method_mapping` come first. Raises `ConfigError` if there is none.

    >>> get_fuser_method((nn.Conv2d, nn.BatchNorm2d)).__name__
    'fuse_conv_bn'
    """
    types = tuple(op_list)
    if additional_fuser_method_mapping and types in additional_fuser_method_mapping:
        return additional_fuser_method_mapping[types]
    method = _default_method(types)
    if method is None:
        names = " + ".join(kind.__name__ for kind in types)
        raise ConfigError(
            f"{names} cannot be fused: what can is a convolution or Linear, then a batch norm of its "
            "dimension, then an activation, any one of the three left out, or a zero padding before a "
            "convolution; pass others in "
            "fuse_custom_config_dict={'additional_fuser_method_mapping': {types: function}}"
        )
    return method


def _default_method(types: Types) -> FuserMethod | None:
    first, rest = types[0] if types else nn.Module, types[1:]
    if first in PADDINGS:
        fits = bool(rest) and PADDINGS[first] is rest[0] and (len(rest) == 1 or _default_method(rest))
        return _fuse_padding if fits else None
    if first is NormedLayer:
        return _fuse_pair if len(rest) == 1 and _is_activation(rest[0]) else None
    layer = next((kind for kind in LAYERS if _is(first, kind)), None)
    if layer is None:
        pair = len(rest) == 1 and any(_is(first, kind) for kind in BATCH_NORMS) and _is_activation(rest[0])
        return _fuse_pair if pair else None
    if len(rest) == 1 and _is_activation(rest[0]):
        return _fuse_pair
    if not rest or not batch_norm_fits(first, rest[0]):
        return None
    if len(rest) == 1:
        if layer is nn.Linear:
            return fuse_linear_bn
        return fuse_convtranspose_bn if "Transpose" in layer.__name__ else fuse_conv_bn
    return fuse_conv_bn_relu if len(rest) == 2 and _is_activation(rest[1]) else None


def _is_activation(kind: type[nn.Module]) -> bool:
    return any(_is(kind, activation) for activation in ACTIVATIONS)


def _is(kind: type[nn.Module], base: type[nn.Module]) -> bool:
    return issubclass(kind, base) and kind.forward is base.forward


def check_group(
    modules: Sequence[nn.Module], mapping: Mapping[Types, FuserMethod] | None, is_qat: bool = False
) -> None:
    """Raise what `fuse_known_modules` would raise, and change nothing."""
    types = _types_of(modules)
    get_fuser_method(types, mapping)
    if mapping and types in mapping:
        return
    replaced = [type(module).__name__ for module in modules if "forward" in vars(module)]
    if replaced:
        raise ConversionError(
            f"the forward of this very {replaced[0]} is replaced: leave it out of the group"
        )
    if type(modules[0]) in PADDINGS:
        pad_conv(modules[0], modules[1])
        modules = modules[1:]
    if len(modules) > 1 and layer_kind(modules[0]) and kind_of(modules[1], BATCH_NORMS):
        check_foldable(modules[0], modules[1], is_qat=is_qat)


def fuse_known_modules(
    mod_list: Sequence[nn.Module],
    is_qat: bool = False,
    additional_fuser_method_mapping: Mapping[Types, FuserMethod] | None = None,
) -> list[nn.Module]:
    """The fused module, then an `nn.Identity` for each further one: what goes where the modules were.

    Forward pre-hooks of the first go to the fused module, and so do forward hooks of the last.
    """
    modules = list(mod_list)
    method = get_fuser_method(_types_of(modules), additional_fuser_method_mapping)
    fused = method(is_qat, *modules)
    _move_pre_hooks(modules[0], fused)
    _move_hooks(modules[-1], fused)
    if len(modules) > 2 and isinstance(fused, FusedModule):
        # The layer, a batch norm folded in or not, gives what the last but one gave.
        _move_hooks(modules[-2], fused[0])
    fused.training = modules[0].training
    return [fused, *(_identity(modules[0].training) for _ in modules[1:])]


def _types_of(modules: Sequence[nn.Module]) -> Types:
    return tuple(type_before_parametrizations(module) for module in modules)


def _identity(training: bool) -> nn.Identity:
    identity = nn.Identity()
    identity.training = training
    return identity


_PRE = ("_forward_pre_hooks", "_forward_pre_hooks_with_kwargs")
_POST = ("_forward_hooks", "_forward_hooks_with_kwargs", "_forward_hooks_always_called")


def _move_pre_hooks(source: nn.Module, target: nn.Module) -> None:
    weight_hooks = {key for key, hook in source._forward_pre_hooks.items() if is_weight_hook(hook)}
    if not weight_hooks:
        _move(_PRE, source, target)
        return
    for name in _PRE:  # what derives a weight stays with the weight
        held: dict[int, Any] = getattr(source, name)
        for key in [key for key in held if key not in weight_hooks]:
            getattr(target, name)[key] = held.pop(key)


def _move_hooks(source: nn.Module, target: nn.Module) -> None:
    _move(_POST, source, target)


def _move(names: Sequence[str], source: nn.Module, target: nn.Module) -> None:
    """Let `target` have what `source` held, in the very dicts to which the hooks' handles point."""
    for name in names:
        kept: dict[int, Any] = getattr(source, name)
        empty = type(kept)()
        kept.update({key: hook for key, hook in getattr(target, name).items() if key not in kept})
        setattr(target, name, kept)
        setattr(source, name, empty)
