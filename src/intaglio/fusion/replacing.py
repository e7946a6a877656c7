"""`fuse_modules`: groups of modules become one each, in a copy of the model or in place.

Every group is checked before anything is replaced. May import methods, grouping, nn and errors.
"""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from torch import nn

from intaglio.errors import ConfigError, ConversionError, IntaglioError
from intaglio.fusion.grouping import FusionWarning, find_fusable_groups
from intaglio.fusion.methods import check_group, fuse_known_modules
from intaglio.nn.copying import copy_model
from intaglio.nn.fused import BATCH_NORMS, kind_of, layer_kind
from intaglio.nn.padded_conv import PADDINGS

__all__ = ["fuse_modules", "fuse_modules_qat", "fused_groups"]

Fuser = Callable[..., Sequence[nn.Module]]

FUSED_FROM = "fused_from"
"""Attribute of a fused module, or of a layer with a batch norm in it: the paths of its parts."""


def fuse_modules(
    model: nn.Module,
    modules_to_fuse: Sequence[str] | Sequence[Sequence[str]] | None = None,
    inplace: bool = False,
    fuser_func: Fuser = fuse_known_modules,
    fuse_custom_config_dict: Mapping[str, Any] | None = None,
    *,
    example_inputs: Any = None,
) -> nn.Module:
    """Fuse groups of modules, each into its first; the others become `nn.Identity`.

    Batch norms are folded into the layers before them, in float64; an activation and its layer become a
    `FusedModule`. Quantization then takes each for one op. Forward pre-hooks of a group's first module and
    forward hooks of its last go to the fused one.

    Parameters
    ----------
    model : nn.Module
        A float model, in eval mode wherever a batch norm is folded.
    modules_to_fuse : list of paths, list of lists of paths, or None
        What to fuse; None stands for everything that `find_fusable_groups` finds.
    inplace : bool
        Replace inside `model` instead of in a copy.
    fuser_func : callable
        `fuser_func(modules, is_qat, additional_fuser_method_mapping)` gives as many modules as it takes.
    fuse_custom_config_dict : dict, optional
        `{'additional_fuser_method_mapping': {types: method}}` with `method(is_qat, *modules)`.
    example_inputs : a tensor or a tuple of arguments, optional
        What to run the model on to find the groups, where it cannot be traced.

    Returns
    -------
    nn.Module
        The fused model, which computes what `model` did; `fused_groups` says what was fused.

    Raises
    ------
    ConfigError, ConversionError
        A path is wrong, or a group cannot be fused: which, why, and what to do. `model` is unchanged.

    Examples
    --------
    >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU()).eval()
    >>> fused = fuse_modules(model, [["0", "1", "2"]])
    >>> fused_groups(fused)
    [['0', '1', '2']]
    """
    return _fuse_modules(
        model, modules_to_fuse, inplace, fuser_func, fuse_custom_config_dict, example_inputs, is_qat=False
    )


def fuse_modules_qat(
    model: nn.Module,
    modules_to_fuse: Sequence[str] | Sequence[Sequence[str]] | None = None,
    inplace: bool = False,
    fuser_func: Fuser = fuse_known_modules,
    fuse_custom_config_dict: Mapping[str, Any] | None = None,
    *,
    example_inputs: Any = None,
) -> nn.Module:
    """As `fuse_modules`, for quantization-aware training: batch norms stay, beside their layers.

    A layer and its batch norm become a `NormedLayer`, with an activation a `FusedModule` of that; `convert`
    folds the norm after training. The model may be in train mode or in eval mode. With `inplace` the
    parameters stay the same objects, so that an optimizer made before has them still.

    Examples
    --------
    >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU()).train()
    >>> type(fuse_modules_qat(model)[0].layer).__name__
    'NormedLayer'
    """
    return _fuse_modules(
        model, modules_to_fuse, inplace, fuser_func, fuse_custom_config_dict, example_inputs, is_qat=True
    )


def _fuse_modules(
    model: nn.Module,
    modules_to_fuse: Any,
    inplace: bool,
    fuser_func: Fuser,
    config: Mapping[str, Any] | None,
    example_inputs: Any,
    *,
    is_qat: bool,
) -> nn.Module:
    if not isinstance(model, nn.Module):
        raise ConversionError(f"fuse_modules takes an nn.Module, not {type(model).__name__}")
    mapping = (config or {}).get("additional_fuser_method_mapping", {})
    if modules_to_fuse is None:
        groups = find_fusable_groups(model, example_inputs, is_qat=is_qat)
        if not groups:
            raise ConversionError(
                "nothing to fuse was found: no convolution, Linear or batch norm is followed by what can be "
                "fused with it alone (batch norms fold in eval mode only); name groups, or do without fusion"
            )
    else:
        groups = _groups_from(modules_to_fuse)
    for group in groups:
        _check(model, group, mapping if fuser_func is fuse_known_modules else None, fuser_func, is_qat)
    fused = model if inplace else copy_model(model, {})
    for group in groups:
        _fuse(fused, group, fuser_func, mapping, is_qat)
    return fused


def fused_groups(model: nn.Module) -> list[list[str]]:
    """What was fused in `model`: the paths of each group's parts, as they were before.

    >>> fused_groups(fuse_modules(nn.Sequential(nn.Linear(4, 4), nn.GELU())))
    [['0', '1']]
    """
    return [list(vars(part)[FUSED_FROM]) for part in model.modules() if FUSED_FROM in vars(part)]


def _groups_from(modules_to_fuse: Any) -> list[list[str]]:
    if isinstance(modules_to_fuse, str) or not isinstance(modules_to_fuse, Iterable):
        raise ConfigError(
            f"modules_to_fuse must be a list of paths, or a list of such lists, not {modules_to_fuse!r}"
        )
    items = list(modules_to_fuse)
    groups = [items] if items and all(isinstance(item, str) for item in items) else items
    seen: set[str] = set()
    for group in groups:
        if isinstance(group, str) or not all(isinstance(path, str) for path in group) or len(group) < 2:
            raise ConfigError(f"{group!r} is no group: give the paths of two modules or more, first to last")
        for path in group:
            if path in seen:
                raise ConfigError(f"'{path}' is named twice in modules_to_fuse: a module can be fused once")
            seen.add(path)
    return [list(group) for group in groups]


def _check(model: nn.Module, group: list[str], mapping: Any, fuser_func: Fuser, is_qat: bool) -> None:
    modules = [_module_at(model, path) for path in group]
    if fuser_func is not fuse_known_modules:
        return
    try:
        check_group(modules, mapping, is_qat)
    except IntaglioError as error:
        raise type(error)(_at(group, error)) from error


def _at(group: list[str], error: Exception) -> str:
    return f"cannot fuse {_quoted(group, ' + ')}: {error}"


def _quoted(paths: Iterable[str], between: str) -> str:
    return between.join(f"'{path}'" for path in paths)


def _module_at(model: nn.Module, path: str) -> nn.Module:
    try:
        module = model.get_submodule(path) if path else None
    except AttributeError:
        module = None
    if module is None:
        names = [name for name, _ in model.named_modules(remove_duplicate=False) if name]
        near = difflib.get_close_matches(path, names, n=3)
        hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
        raise ConfigError(f"modules_to_fuse names '{path}', but the model has no such module{hint}")
    return module


def _fuse(
    model: nn.Module, group: list[str], fuser_func: Fuser, mapping: Mapping[Any, Any], is_qat: bool
) -> None:
    modules = [_module_at(model, path) for path in group]
    if fuser_func is fuse_known_modules and not is_qat:
        _warn_of_lost_hooks(group, modules)
    try:
        made = list(fuser_func(modules, is_qat, mapping))
    except IntaglioError as error:
        raise type(error)(_at(group, error)) from error
    if len(made) != len(group) or not all(isinstance(module, nn.Module) for module in made):
        raise ConversionError(_at(group, ValueError(f"fuser_func must give {len(group)} modules")))
    object.__setattr__(made[0], FUSED_FROM, tuple(group))
    for path, module in zip(group, made, strict=True):
        model.set_submodule(path, module)


def _warn_of_lost_hooks(group: list[str], modules: list[nn.Module]) -> None:
    if type(modules[0]) in PADDINGS:
        group, modules = group[1:], modules[1:]
    if len(modules) < 2 or not (layer_kind(modules[0]) and kind_of(modules[1], BATCH_NORMS)):
        return
    between = {group[0]: modules[0]._forward_hooks, group[1]: modules[1]._forward_pre_hooks}
    lost = [path for path, hooks in between.items() if hooks]
    if lost:
        warnings.warn(
            f"'{group[1]}' is folded into '{group[0]}', so that the value between them is no more: the hooks "
            f"of {_quoted(lost, ' and ')} that saw it are dropped",
            FusionWarning,
            stacklevel=3,
        )
