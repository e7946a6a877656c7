"""What intaglio can quantize, as a `BackendConfig`: read from the rules, so that it cannot differ from them.

One config under the legacy's names, since every kernel runs on every CPU. May import backend, admission,
nn (which registers the rules), rules and qparams.
"""

from __future__ import annotations

from torch import nn

from intaglio.backend_config.admission import has_quantized_weight, rule_of_class
from intaglio.backend_config.backend import BackendConfig
from intaglio.backend_config.dtype_config import DTypeConfig, DTypeWithConstraints
from intaglio.backend_config.pattern_config import BackendPatternConfig, ObservationType
from intaglio.nn import FusedModule
from intaglio.nn.fused import ACTIVATIONS, BATCH_NORMS, LAYERS
from intaglio.qparams import FLOAT16, FLOAT32, INT8, UINT8, QParams
from intaglio.rules import OpRule, all_rules

__all__ = [
    "get_fbgemm_backend_config",
    "get_native_backend_config",
    "get_onednn_backend_config",
    "get_qnnpack_backend_config",
    "get_x86_backend_config",
]


def get_native_backend_config() -> BackendConfig:
    """Every op that has a rule, and every layer with an activation after it, with all types they can have.

    Ops that only move or clamp values (max pooling, ReLU, flatten) are not in it: they work on what comes,
    and need no rule. A rule that is registered later is in the configs that are made later.

    >>> config = get_native_backend_config()
    >>> config.why_refused(nn.Linear(2, 3), intaglio.float16_dynamic_qconfig) is None
    True
    """
    return _read_rules("native")


def get_fbgemm_backend_config() -> BackendConfig:
    """The native config under this name."""
    return _read_rules("fbgemm")


def get_x86_backend_config() -> BackendConfig:
    """The native config under this name."""
    return _read_rules("x86")


def get_qnnpack_backend_config() -> BackendConfig:
    """The native config under this name."""
    return _read_rules("qnnpack")


def get_onednn_backend_config() -> BackendConfig:
    """The native config under this name."""
    return _read_rules("onednn")


def _read_rules(name: str) -> BackendConfig:
    config = BackendConfig(name)
    for rule in reversed(all_rules()):  # the latest comes last, and wins
        for kind in rule.all_float_types():
            config.set_backend_pattern_config(_op_config(rule, kind))
    for layer in (*LAYERS, *BATCH_NORMS):
        known = rule_of_class(layer)
        if known is not None:
            for activation in ACTIVATIONS:
                config.set_backend_pattern_config(_pair_config(known, layer, activation))
    return config


def _op_config(rule: OpRule, kind: type[nn.Module]) -> BackendPatternConfig:
    config = BackendPatternConfig(kind).set_dtype_configs(_types_of(rule, _fixed_output(rule)))
    if rule.static is not None and rule.static.output == "float":
        config.set_observation_type(ObservationType.INPUT_OUTPUT_NOT_OBSERVED)
    return config.set_root_module(kind if has_quantized_weight(rule) and kind is not FusedModule else None)


def _pair_config(rule: OpRule, layer: type[nn.Module], activation: type[nn.Module]) -> BackendPatternConfig:
    """Of a layer and its activation, which are quantized as one, or one after the other."""
    config = BackendPatternConfig((layer, activation)).set_fused_module(FusedModule)
    config.set_dtype_configs(_types_of(rule, _fixed_output(rule_of_class(activation))))
    return config.set_root_module(layer if has_quantized_weight(rule) else None)


def _fixed_output(rule: OpRule | None) -> QParams | None:
    static = None if rule is None else rule.static
    return None if static is None or isinstance(static.output, str) else static.output


def _types_of(rule: OpRule, fixed: QParams | None) -> list[DTypeConfig]:
    """The types that a rule can make, where the output has the parameters `fixed`, if any."""
    if rule.static is not None and rule.static.output == "float" and rule.weight_dtypes:
        # A table that is looked up: nothing that comes in is quantized, and nothing that goes out.
        return [DTypeConfig(weight_dtype=dtype) for dtype in sorted(rule.weight_dtypes)]
    types = []
    for dtype in () if rule.static is None else (UINT8, INT8):  # the values of int8 in uint8, in the end
        output = DTypeWithConstraints(dtype)
        if fixed is not None:
            output.scale_exact_match, output.zero_point_exact_match = fixed.scalars
        types.append(DTypeConfig(dtype, output, INT8 if has_quantized_weight(rule) else None, FLOAT32))
    if "int8" in rule.weight_dtypes:
        types.append(DTypeConfig(UINT8, FLOAT32, INT8, FLOAT32, is_dynamic=True))
    if "float16" in rule.weight_dtypes:
        types.append(DTypeConfig(FLOAT16, FLOAT32, FLOAT16, FLOAT32, is_dynamic=True))
        types.append(DTypeConfig(FLOAT16, FLOAT16, FLOAT16, FLOAT16))
    return types
