"""`QConfig`: how a layer's activations and weights are to be quantized; and the named presets.

Legacy names and meaning, with the faults mended: every weight is per channel and no preset gives up a
bit (`reduce_range` is never needed). May import observer, qparams and errors.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch

from intaglio.errors import ConfigError
from intaglio.observer import (
    ObserverBase,
    PerChannelMinMaxObserver,
    PerChannelMSEObserver,
    PlaceholderObserver,
)
from intaglio.qparams import FLOAT16, INT8, UINT4, UINT8, PerTensor, QuantizedType, parse_dtype

__all__ = [
    "QConfig",
    "default_dynamic_qconfig",
    "dynamic_qconfig_of",
    "float16_dynamic_qconfig",
    "float_qparams_weight_only_qconfig",
    "float_qparams_weight_only_qconfig_4bit",
    "per_channel_dynamic_qconfig",
    "per_tensor_dynamic_qconfig",
]


class QConfig(NamedTuple):
    """Two factories of observers, one for activations and one for weights.

    >>> QConfig(PlaceholderObserver.with_args(), PerChannelMinMaxObserver.with_args()).weight().dtype.name
    'int8'
    """

    activation: Callable[..., ObserverBase]
    weight: Callable[..., ObserverBase]


_per_channel = PerChannelMinMaxObserver.with_args(dtype=INT8, qscheme=torch.per_channel_symmetric)

default_dynamic_qconfig = QConfig(PlaceholderObserver.with_args(dtype=UINT8), _per_channel)
"""int8 weights per output channel, uint8 activations per row."""

per_channel_dynamic_qconfig = default_dynamic_qconfig
"""The same: weights are always per channel."""

per_tensor_dynamic_qconfig = QConfig(
    PlaceholderObserver.with_args(dtype=UINT8, granularity=PerTensor()), _per_channel
)
"""int8 weights per output channel, one range for all of a layer's activations (what the legacy did)."""

float16_dynamic_qconfig = QConfig(
    PlaceholderObserver.with_args(dtype=FLOAT16), PlaceholderObserver.with_args(dtype=FLOAT16)
)
"""float16 weights, computed in float32."""

float_qparams_weight_only_qconfig = QConfig(
    PlaceholderObserver.with_args(dtype=UINT8),
    PerChannelMinMaxObserver.with_args(dtype=UINT8, qscheme=torch.per_channel_affine_float_qparams),
)
"""Embeddings of 8 bit: scale and offset for each row."""

float_qparams_weight_only_qconfig_4bit = QConfig(
    PlaceholderObserver.with_args(dtype=UINT8),
    PerChannelMSEObserver.with_args(dtype=UINT4, qscheme=torch.per_channel_affine_float_qparams),
)
"""Embeddings of 4 bit: scale and offset for each row, of the range that has the least squared error."""

_DYNAMIC_QCONFIGS = {
    INT8: default_dynamic_qconfig,
    FLOAT16: float16_dynamic_qconfig,
    UINT8: float_qparams_weight_only_qconfig,
    UINT4: float_qparams_weight_only_qconfig_4bit,
}


def dynamic_qconfig_of(dtype: torch.dtype | str | QuantizedType) -> QConfig:
    """The preset that `quantize_dynamic(dtype=...)` stands for; `ConfigError` for an unknown dtype."""
    quantized_type = parse_dtype(dtype)
    if quantized_type not in _DYNAMIC_QCONFIGS:
        raise ConfigError(f"no dynamic quantization to {quantized_type}")
    return _DYNAMIC_QCONFIGS[quantized_type]
