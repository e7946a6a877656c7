"""intaglio: PyTorch models in int8 on ordinary CPUs, small and fast, without losing their accuracy.

The public names; they are those of `torch.ao.quantization`, so that moving over is one changed import.
"""

import torch  # noqa: F401  # before the core: torch's wheel carries the OpenMP library that both use

from intaglio import _core
from intaglio.eager import (
    add_quant_dequant,
    convert,
    get_default_custom_config_dict,
    prepare,
    propagate_qconfig_,
    quantize,
    quantize_dynamic,
    swap_module,
)
from intaglio.errors import (
    ConfigError,
    ConversionError,
    FileFormatError,
    InputError,
    IntaglioError,
    NothingQuantizedError,
)
from intaglio.nn import DeQuantStub, FloatFunctional, QuantStub, QuantWrapper
from intaglio.observer import (
    MinMaxObserver,
    PerChannelMinMaxObserver,
    PerChannelMSEObserver,
    PlaceholderObserver,
)
from intaglio.qconfig import (
    QConfig,
    default_dynamic_qconfig,
    float16_dynamic_qconfig,
    float_qparams_weight_only_qconfig,
    float_qparams_weight_only_qconfig_4bit,
    per_channel_dynamic_qconfig,
    per_tensor_dynamic_qconfig,
)
from intaglio.qparams import PerAxis, PerGroup, PerRow, PerTensor, QParams
from intaglio.qtensor import QTensor
from intaglio.report import Summary, summary
from intaglio.serialization import FileDescription, load, read_recipe, save

__version__ = "0.1.0"

_core.active_isa()  # an INTAGLIO_ISA that this CPU cannot run is an error here, not at the first layer

__all__ = [
    "ConfigError",
    "ConversionError",
    "DeQuantStub",
    "FileDescription",
    "FileFormatError",
    "FloatFunctional",
    "InputError",
    "IntaglioError",
    "MinMaxObserver",
    "NothingQuantizedError",
    "PerAxis",
    "PerChannelMSEObserver",
    "PerChannelMinMaxObserver",
    "PerGroup",
    "PerRow",
    "PerTensor",
    "PlaceholderObserver",
    "QConfig",
    "QParams",
    "QTensor",
    "QuantStub",
    "QuantWrapper",
    "Summary",
    "add_quant_dequant",
    "convert",
    "default_dynamic_qconfig",
    "float16_dynamic_qconfig",
    "float_qparams_weight_only_qconfig",
    "float_qparams_weight_only_qconfig_4bit",
    "get_default_custom_config_dict",
    "load",
    "per_channel_dynamic_qconfig",
    "per_tensor_dynamic_qconfig",
    "prepare",
    "propagate_qconfig_",
    "quantize",
    "quantize_dynamic",
    "read_recipe",
    "save",
    "summary",
    "swap_module",
]
