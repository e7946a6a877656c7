"""The groups of a model that can be fused, found by its dataflow. May import dataflow, nn and errors."""

from __future__ import annotations

import warnings
from collections import Counter
from typing import Any

from torch import Tensor, nn

from intaglio.errors import ConversionError
from intaglio.fusion.dataflow import Dataflow, trace_dataflow, watch_dataflow
from intaglio.fusion.folding import check_foldable
from intaglio.nn.copying import copy_model
from intaglio.nn.fused import BATCH_NORMS, activation_kind, kind_of, layer_kind
from intaglio.nn.padded_conv import why_not_padded

__all__ = ["FusionWarning", "find_fusable_groups"]


class FusionWarning(UserWarning):
    """Part of a model could not be fused, or lost a hook by it; the message names the part."""


def find_fusable_groups(
    model: nn.Module, example_inputs: Any = None, *, is_qat: bool = False
) -> list[list[str]]:
    """The groups of `model` that `fuse_modules` can fuse, as paths, in the order of the model's modules.

    A group is a convolution or Linear, the batch norm and the activation that follow it, any one of the three
    left out, and the zero padding before a convolution. Each takes all that the one before gives, in every
    call, and nothing else takes it; so a module that is used in several places, or whose output is, is never
    in a group.

    Parameters
    ----------
    model : nn.Module
        In eval mode, if it has batch norms; for training (`is_qat`) in either.
    example_inputs : a tensor or a tuple of arguments, optional
        The model is run on them and watched. Without them it is traced by `torch.fx`; parts that cannot be
        traced are left out, with a warning that names them.

    Raises
    ------
    ConversionError
        `model` is no module, or nothing of it could be traced.

    Examples
    --------
    >>> find_fusable_groups(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.SiLU()).eval())
    [['0', '1', '2']]
    """
    if not isinstance(model, nn.Module):
        raise ConversionError(f"find_fusable_groups takes an nn.Module, not {type(model).__name__}")
    if example_inputs is None:
        flow = trace_dataflow(model)
    else:
        if is_qat:
            model = copy_model(model, {}).eval()  # a run in train mode would move statistics
        lone = isinstance(example_inputs, Tensor) or not isinstance(example_inputs, (tuple, list))
        flow = watch_dataflow(model, (example_inputs,) if lone else tuple(example_inputs))
    groups = _groups_of(model, flow, is_qat)
    if flow.untraced:
        parts = ", ".join(f"'{path}' ({reason})" for path, reason in flow.untraced.items())
        message = f"could not trace {parts}: pass example_inputs, or name the groups"
        if not groups:
            raise ConversionError(f"nothing to fuse was found, for torch.fx {message}")
        warnings.warn(f"torch.fx {message}", FusionWarning, stacklevel=2)
    return groups


def _groups_of(model: nn.Module, flow: Dataflow, is_qat: bool) -> list[list[str]]:
    names = Counter(id(module) for _, module in model.named_modules(remove_duplicate=False))
    modules = {path: module for path, module in model.named_modules() if names[id(module)] == 1}
    links = {a: b for a, b in flow.links().items() if a in modules and b in modules and a not in flow.read}
    leaders = {b: a for a, b in links.items()}
    groups: list[list[str]] = []
    taken: set[str] = set()
    for wanted in (layer_kind, lambda module: kind_of(module, BATCH_NORMS)):
        for path, module in modules.items():
            if wanted(module) and path not in taken:
                group = _group_from(path, modules, links, is_qat)
                leader = leaders.get(path)
                if leader is not None and why_not_padded(modules[leader], modules[path]) is None:
                    group.insert(0, leader)
                if len(group) > 1:
                    groups.append(group)
                    taken.update(group)
    order = {path: index for index, path in enumerate(modules)}
    return sorted(groups, key=lambda group: order[group[0]])


def _group_from(path: str, modules: dict[str, nn.Module], links: dict[str, str], is_qat: bool) -> list[str]:
    """The longest group that begins with the module at `path`."""
    group, following = [path], links.get(path)
    module = modules[path]
    if following is not None and layer_kind(module) and _folds(module, modules[following], is_qat):
        group.append(following)
        following = links.get(following)
    if following is not None and activation_kind(modules[following]):
        group.append(following)
    return group


def _folds(layer: nn.Module, batch_norm: nn.Module, is_qat: bool) -> bool:
    """Whether `batch_norm` can be folded without the loss of a hook between the two."""
    if not kind_of(batch_norm, BATCH_NORMS) or layer._forward_hooks or batch_norm._forward_pre_hooks:
        return False
    try:
        check_foldable(layer, batch_norm, is_qat=is_qat)
    except ConversionError:
        return False
    return True
