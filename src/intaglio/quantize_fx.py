"""FX graph mode: a model and sample inputs in, and everything that eager mode wants by hand found by itself.

`prepare_fx` traces, turns functions into modules, fuses, places stubs, and then calls eager `prepare`;
`convert_fx` is eager `convert`. There is one lowering. May import graph_passes, qconfig_mapping, fx,
backend_config, eager and below.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from torch import fx, nn

from intaglio.backend_config.backend import BackendConfig, as_backend_config
from intaglio.eager.conversion import convert
from intaglio.eager.observing import is_prepared
from intaglio.eager.planning import refuse_model
from intaglio.eager.preparation import RECORD, prepare
from intaglio.eager.training import prepare_qat
from intaglio.errors import ConfigError, ConversionError, NothingQuantizedError
from intaglio.fx.custom_config import (
    ConvertCustomConfig,
    FuseCustomConfig,
    PrepareCustomConfig,
    as_convert_custom_config,
    as_fuse_custom_config,
    as_prepare_custom_config,
)
from intaglio.graph_passes.copying import calls_of, custom_classes, trace_copy, treat_plainly
from intaglio.graph_passes.fusing import fuse_graph
from intaglio.graph_passes.graphs import drop_dead_nodes
from intaglio.graph_passes.modularize import drop_what_does_nothing, modularize
from intaglio.graph_passes.preparing import Settings, normalize, prepare_alone, prepare_region, settings_of
from intaglio.graph_passes.record import GRAPH_RECORD, SCORES, GraphRecord, copy_wholly, graph_record
from intaglio.graph_passes.restoring import restore_functions
from intaglio.graph_passes.tracing import trace_model
from intaglio.graph_passes.training_mode import drop_training_steps
from intaglio.nn.copying import copy_model
from intaglio.nn.quantized import QuantizedModule
from intaglio.qconfig_mapping import QConfigMapping, as_qconfig_mapping

__all__ = [
    "SCORES",
    "GraphRecord",
    "attach_preserved_attrs_to_model",
    "check_float_model",
    "convert_fx",
    "convert_to_reference_fx",
    "fuse_fx",
    "graph_record",
    "prepare_fx",
    "prepare_qat_fx",
]


def prepare_fx(
    model: nn.Module,
    qconfig_mapping: QConfigMapping | Mapping[str, Any],
    example_inputs: Any = None,
    prepare_custom_config: PrepareCustomConfig | Mapping[str, Any] | None = None,
    _equalization_config: Any = None,
    backend_config: BackendConfig | Mapping[str, Any] | None = None,
    *,
    strict: bool = False,
    between_floats: Literal["static", "dynamic"] = "dynamic",
) -> nn.Module:
    """Give a model that observes its values: run representative data through it, then `convert_fx`.

    The model is traced on the example inputs. What cannot be traced is called as it is and what it calls is
    traced by itself, so that this never fails as a whole; `intaglio.summary` of the converted model names
    each such place.

    Parameters
    ----------
    model : nn.Module
        A float model in eval mode; it is left as it is.
    qconfig_mapping : QConfigMapping or dict
        Which qconfig holds where.
    example_inputs : tuple of arguments, dict of named arguments, or a tensor
        What the model takes, of any size that it takes: the result accepts other sizes where the model does.
    prepare_custom_config : PrepareCustomConfig or dict, optional
        What to leave alone, what is quantized already, and which attributes to keep.
    backend_config : BackendConfig or dict, optional
        What may be quantized, where it is less than everything.
    strict : bool
        Raise `ConversionError` for what cannot be traced instead of leaving it as it is.
    between_floats : {'static', 'dynamic'}
        How a Linear is quantized that stands between values which stay float, as in a transformer: with
        ranges that were observed, or row by row as values come, which is more accurate and mostly faster.

    Returns
    -------
    nn.Module
        A `torch.fx.GraphModule`, or a copy of `model` with graphs inside if its own forward cannot be traced.

    Raises
    ------
    ConfigError
        The example inputs are missing or wrong, or the mapping names what the model has not.
    ConversionError
        The model is in train mode, prepared or converted already.
    NothingQuantizedError
        No part of the model would be quantized.

    Examples
    --------
    >>> import torch, intaglio
    >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU()).eval()
    >>> images = torch.randn(4, 3, 16, 16)
    >>> prepared = prepare_fx(model, intaglio.get_default_qconfig_mapping(), (images,))
    >>> _ = prepared(images)
    >>> convert_fx(prepared)(images).shape
    torch.Size([4, 8, 14, 14])
    """
    check_float_model(model, "prepare_fx")
    settings = _settings(qconfig_mapping, prepare_custom_config, backend_config, between_floats, is_qat=False)
    return _prepare(model, settings, example_inputs, strict)


def prepare_qat_fx(
    model: nn.Module,
    qconfig_mapping: QConfigMapping | Mapping[str, Any],
    example_inputs: Any = None,
    prepare_custom_config: PrepareCustomConfig | Mapping[str, Any] | None = None,
    backend_config: BackendConfig | Mapping[str, Any] | None = None,
    *,
    strict: bool = False,
    between_floats: Literal["static", "dynamic"] = "dynamic",
) -> nn.Module:
    """Give a model that trains as it will compute when quantized: train it, `eval()`, then `convert_fx`.

    As `prepare_fx`, for quantization-aware training: layers keep their batch norms until they are converted,
    values are rounded where they will be integers, and gradients pass straight through. The graph holds in
    train mode and in eval mode: `F.dropout(x, p, self.training)` is a step of it, and code that branches on
    `self.training` stays Python. Its parameters are copies of the model's: make the optimizer afterwards.

    Parameters
    ----------
    model : nn.Module
        A float model, in train mode or in eval mode; it is left as it is, and the result is in its mode.
    qconfig_mapping : QConfigMapping or dict
        Which qconfig holds where: `get_default_qat_qconfig_mapping()`.
    example_inputs, prepare_custom_config, backend_config, strict, between_floats
        As in `prepare_fx`.

    Raises
    ------
    ConfigError, ConversionError, NothingQuantizedError
        As `prepare_fx`; and where a qconfig only observes, or nothing can be trained.

    Examples
    --------
    >>> import torch, intaglio
    >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU()).train()
    >>> images = torch.randn(4, 3, 16, 16)
    >>> prepared = prepare_qat_fx(model, intaglio.get_default_qat_qconfig_mapping(), (images,))
    >>> prepared(images).sum().backward()
    >>> convert_fx(prepared.eval())(images).shape
    torch.Size([4, 8, 14, 14])
    """
    check_float_model(model, "prepare_qat_fx", is_qat=True)
    settings = _settings(qconfig_mapping, prepare_custom_config, backend_config, between_floats, is_qat=True)
    modes = {path: part.training for path, part in model.named_modules(remove_duplicate=False)}
    prepared = _prepare(model, settings, example_inputs, strict)
    prepared.train(model.training)
    for path, part in prepared.named_modules():
        if modes.get(path, model.training) is not model.training:
            part.training = modes[path]
    return prepared


def _settings(mapping: Any, custom: Any, backend: Any, between_floats: Any, *, is_qat: bool) -> Settings:
    return Settings(
        as_qconfig_mapping(mapping),
        as_prepare_custom_config(custom),
        as_backend_config(backend),
        between_floats,
        is_qat,
    )


def _prepare(model: nn.Module, all_settings: Settings, example_inputs: Any, strict: bool) -> nn.Module:
    mapping, custom, is_qat = all_settings.mapping, all_settings.custom, all_settings.is_qat
    paths = {path for path, _ in model.named_modules(remove_duplicate=False)}
    mapping.check_names(paths)
    _check_paths(custom, paths)
    traced = trace_copy(model, example_inputs, custom, is_qat=is_qat)
    if strict and traced.left:
        raise ConversionError(
            "strict: not everything can be traced: "
            + "; ".join(f"{where or '(model)'}: {why}" for where, why in traced.left.items())
        )
    record = GraphRecord([region.path for region in traced.regions], traced.left)
    for region in traced.regions:
        settings = settings_of(model, region.path, all_settings)
        prepare_region(region.graph_module, region.path, settings, record)
    result = traced.model
    for path in traced.alone:
        prepare_alone(result.get_submodule(path), path, mapping, record, is_qat=is_qat)
    classes = custom_classes(custom.float_to_observed_mapping)
    try:
        prepared = (
            prepare_qat(result, classes, inplace=True)
            if is_qat
            else prepare(
                result,
                inplace=True,
                prepare_custom_config_dict={"float_to_observed_custom_module_class": classes},
            )
        )
    except NothingQuantizedError as error:
        raise NothingQuantizedError(_nothing(record, str(error))) from None
    record.preserved = {name: getattr(model, name) for name in custom.preserved_attributes}
    _finish(prepared, record)
    return prepared


def convert_fx(
    graph_module: nn.Module,
    convert_custom_config: ConvertCustomConfig | Mapping[str, Any] | None = None,
    _remove_qconfig: bool = True,
    qconfig_mapping: QConfigMapping | Mapping[str, Any] | None = None,
    backend_config: BackendConfig | Mapping[str, Any] | None = None,
    keep_original_weights: bool = False,
) -> nn.Module:
    """Give the quantized model of one that `prepare_fx` gave and that has seen data.

    Parameters
    ----------
    graph_module : nn.Module
        What `prepare_fx` gave; it is left as it is.
    convert_custom_config : ConvertCustomConfig or dict, optional
        What a user's own observed classes become, and which attributes to keep.
    qconfig_mapping
        Refused: what stays float is said to `prepare_fx`.
    backend_config, keep_original_weights
        Accepted for the legacy's sake and without effect: the rules are those of `prepare_fx`, and float
        weights are freed.

    Raises
    ------
    ConversionError
        The model is not prepared, was converted already, or an observer saw no data.
    """
    return _convert(graph_module, convert_custom_config, _remove_qconfig, qconfig_mapping, is_reference=False)


def convert_to_reference_fx(
    graph_module: nn.Module,
    convert_custom_config: ConvertCustomConfig | Mapping[str, Any] | None = None,
    _remove_qconfig: bool = True,
    qconfig_mapping: QConfigMapping | Mapping[str, Any] | None = None,
    backend_config: BackendConfig | Mapping[str, Any] | None = None,
) -> nn.Module:
    """As `convert_fx`, but give a float model that rounds weights and outputs as the quantized one does.

    It runs on any device that torch knows, computes nothing on integers, and shows what quantization does;
    its results differ from the quantized model's where a value lies on the edge between two integers.

    >>> import torch, intaglio
    >>> model, x = nn.Sequential(nn.Conv2d(3, 4, 1)).eval(), torch.randn(2, 3, 4, 4)
    >>> prepared = prepare_fx(model, intaglio.get_default_qconfig_mapping(), (x,))
    >>> _ = prepared(x)
    >>> (convert_to_reference_fx(prepared)(x) - convert_fx(prepared)(x)).abs().max() < 0.05
    tensor(True)
    """
    return _convert(graph_module, convert_custom_config, _remove_qconfig, qconfig_mapping, is_reference=True)


def _convert(
    graph_module: nn.Module, config: Any, remove_qconfig: bool, mapping: Any, *, is_reference: bool
) -> nn.Module:
    if mapping is not None:
        raise ConfigError("conversion takes no qconfig_mapping: say what stays float to prepare_fx")
    if not isinstance(graph_module, nn.Module):
        raise ConversionError(f"convert_fx takes an nn.Module, not {type(graph_module).__name__}")
    custom = as_convert_custom_config(config)
    record = graph_record(graph_module)
    if record is None and not any(isinstance(part, QuantizedModule) for part in graph_module.modules()):
        raise ConversionError(
            "the model is not prepared: call intaglio.prepare_fx on it and run data through it"
        )
    converted = convert(
        graph_module,
        remove_qconfig=remove_qconfig,
        is_reference=is_reference,
        convert_custom_config_dict={
            "observed_to_quantized_custom_module_class": custom_classes(custom.observed_to_quantized_mapping)
        },
    )
    assert record is not None
    preserved = {name: getattr(graph_module, name) for name in custom.preserved_attributes}
    kept = replace(record, preserved=record.preserved | preserved)
    _finish(converted, kept)
    for part in converted.modules():
        if isinstance(part, fx.GraphModule):
            if drop_training_steps(part):
                drop_what_does_nothing(part, keep_stubs=True)
                drop_dead_nodes(part)
            part.recompile()
    return converted


def fuse_fx(
    model: nn.Module,
    fuse_custom_config: FuseCustomConfig | Mapping[str, Any] | None = None,
    backend_config: BackendConfig | Mapping[str, Any] | None = None,
    *,
    example_inputs: Any = None,
) -> fx.GraphModule:
    """Give a graph of `model` in which what belongs together is one module.

    With `example_inputs` it is traced as `prepare_fx` does, functions included; without them by `torch.fx`
    alone. Raises `ConversionError` if the whole cannot be traced, and for a model in train mode.

    >>> fused = fuse_fx(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU()).eval())
    >>> type(fused.get_submodule("0")).__name__
    'FusedModule'
    """
    custom = as_fuse_custom_config(fuse_custom_config)
    backend = as_backend_config(backend_config)
    check_float_model(model, "fuse_fx")
    copied = copy_model(model, {})
    if example_inputs is None:
        try:
            graph_module = fx.symbolic_trace(copied)
        except Exception as error:  # anything that a user's forward may raise
            raise ConversionError(
                f"torch.fx cannot trace the model ({type(error).__name__}: {error}): pass example_inputs"
            ) from error
    else:
        traced = trace_model(copied, calls_of(copied, example_inputs), treat_plainly)
        if not isinstance(traced.model, fx.GraphModule):
            raise ConversionError(f"the model cannot be traced as a whole: {traced.left['']}")
        graph_module = traced.model
        normalize(graph_module)
        modularize(graph_module)
    fuse_graph(graph_module, backend.fuser_methods() if backend else None)
    if example_inputs is not None:
        restore_functions(graph_module, set())
    graph_module.recompile()
    attach_preserved_attrs_to_model(
        graph_module, {name: getattr(model, name) for name in custom.preserved_attributes}
    )
    return graph_module


def attach_preserved_attrs_to_model(model: nn.Module, preserved_attrs: Mapping[str, Any]) -> None:
    """Set each of `preserved_attrs` on `model`, and let copies of it have them too."""
    for name, value in preserved_attrs.items():
        setattr(model, name, value)
    if isinstance(model, fx.GraphModule):
        # Which GraphModule's own copying knows.
        model.meta.setdefault("_user_preserved_attributes", {}).update(preserved_attrs)


# ---- What may be given ---------------------------------------------------------------------------------


def check_float_model(model: Any, name: str, *, is_qat: bool = False) -> None:
    """Raise `ConversionError` unless `model` is a float model to prepare, in eval mode but to train."""
    if not isinstance(model, nn.Module):
        raise ConversionError(f"{name} takes an nn.Module, not {type(model).__name__}")
    refuse_model(model)
    if is_prepared(model):
        raise ConversionError("the model is prepared already: calibrate it and call convert_fx")
    if any(isinstance(part, QuantizedModule) for part in model.modules()):
        raise ConversionError("the model is converted already: prepare the float model")
    training = [path for path, part in model.named_modules() if part.training and _minds_training(part)]
    if training and not is_qat:
        raise ConversionError(f"the model is in train mode ('{training[0]}'): call model.eval() first")


def _minds_training(module: nn.Module) -> bool:
    return isinstance(module, (nn.modules.batchnorm._NormBase, nn.modules.dropout._DropoutNd, nn.RReLU))


def _check_paths(custom: PrepareCustomConfig, paths: set[str]) -> None:
    for name in (*custom.non_traceable_module_names, *custom.standalone_module_names):
        QConfigMapping().set_module_name(name, None).check_names(paths)


def _nothing(record: GraphRecord, otherwise: str) -> str:
    reasons = [f"'{path}': {why}" for path, why in list(record.floats.items())[:5]]
    reasons += [f"{path or '(model)'}: {why}" for path, why in list(record.left.items())[:3]]
    return "nothing would be quantized: " + ("; ".join(reasons) if reasons else otherwise)


def _finish(model: nn.Module, record: GraphRecord) -> None:
    kept: dict[str, str] = dict(getattr(model, RECORD, {}))
    kept.update({path: why for path, why in record.floats.items() if path in kept})
    object.__setattr__(model, RECORD, kept)
    attach_preserved_attrs_to_model(model, record.preserved)
    object.__setattr__(model, GRAPH_RECORD, record)
    for part in model.modules():
        if isinstance(part, fx.GraphModule):
            copy_wholly(part)
