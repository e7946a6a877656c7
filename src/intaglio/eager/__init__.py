"""Eager mode: modules are replaced one by one in the user's own module tree. May import nn and below."""

from intaglio.eager.conversion import (
    convert,
    default_eval_fn,
    get_default_custom_config_dict,
    quantize,
    swap_module,
)
from intaglio.eager.dynamic_quantization import quantize_dynamic
from intaglio.eager.preparation import add_quant_dequant, prepare, propagate_qconfig_
from intaglio.eager.training import prepare_qat, quantize_qat

__all__ = [
    "add_quant_dequant",
    "convert",
    "default_eval_fn",
    "get_default_custom_config_dict",
    "prepare",
    "prepare_qat",
    "propagate_qconfig_",
    "quantize",
    "quantize_dynamic",
    "quantize_qat",
    "swap_module",
]
