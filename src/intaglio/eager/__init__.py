"""Eager mode: modules are replaced one by one in the user's own module tree. May import nn and below."""

from intaglio.eager.checking import TrainingWarning, check_training
from intaglio.eager.conversion import (
    convert,
    default_eval_fn,
    get_default_custom_config_dict,
    quantize,
    swap_module,
)
from intaglio.eager.dynamic_quantization import quantize_dynamic
from intaglio.eager.preparation import add_quant_dequant, prepare, propagate_qconfig_
from intaglio.eager.ranks import synchronize_observers
from intaglio.eager.schedule import (
    FreezeSchedule,
    freeze_bn_stats,
    reestimate_batch_norm,
    update_bn_stats,
)
from intaglio.eager.training import prepare_qat, quantize_qat

__all__ = [
    "FreezeSchedule",
    "TrainingWarning",
    "add_quant_dequant",
    "check_training",
    "convert",
    "default_eval_fn",
    "freeze_bn_stats",
    "get_default_custom_config_dict",
    "prepare",
    "prepare_qat",
    "propagate_qconfig_",
    "quantize",
    "quantize_dynamic",
    "quantize_qat",
    "reestimate_batch_norm",
    "swap_module",
    "synchronize_observers",
    "update_bn_stats",
]
