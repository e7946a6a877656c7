"""`QConfig`: how a layer's activations and weights are to be quantized; and the named presets.

Legacy names and meaning, with the faults mended: every weight that is multiplied is per channel unless the
name says otherwise, and no preset gives up a bit (`reduce_range` is never needed). May import fake_quantize,
observer, qparams and errors.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn

from intaglio.errors import ConfigError
from intaglio.fake_quantize import (
    LearnedFakeQuantize,
    default_dynamic_fake_quant,
    default_embedding_fake_quant,
    default_embedding_fake_quant_4bit,
    default_fake_quant,
    default_fused_act_fake_quant,
    default_fused_per_channel_wt_fake_quant,
    default_fused_wt_fake_quant,
    default_per_channel_weight_fake_quant,
    default_weight_fake_quant,
)
from intaglio.observer import (
    HistogramObserver,
    MinMaxObserver,
    NoopObserver,
    PerChannelMSEObserver,
    PlaceholderObserver,
    default_debug_observer,
    default_float_qparams_observer,
    default_float_qparams_observer_4bit,
    default_observer,
    default_per_channel_weight_observer,
    default_reuse_input_observer,
    default_weight_observer,
)
from intaglio.qparams import FLOAT16, INT8, UINT4, UINT8, PerGroup, PerTensor, QuantizedType, parse_dtype

__all__ = [
    "QConfig",
    "QConfigAny",
    "default_activation_only_qconfig",
    "default_debug_qconfig",
    "default_dynamic_qat_qconfig",
    "default_dynamic_qconfig",
    "default_embedding_qat_qconfig",
    "default_embedding_qat_qconfig_4bit",
    "default_per_channel_qconfig",
    "default_per_channel_symmetric_qnnpack_qat_qconfig",
    "default_per_channel_symmetric_qnnpack_qconfig",
    "default_qat_qconfig",
    "default_qat_qconfig_v2",
    "default_qconfig",
    "default_quint8_weight_qconfig",
    "default_reuse_input_qconfig",
    "default_symmetric_qnnpack_qat_qconfig",
    "default_symmetric_qnnpack_qconfig",
    "default_weight_only_qconfig",
    "dynamic_qconfig_of",
    "float16_dynamic_qconfig",
    "float16_static_qconfig",
    "float_qparams_weight_only_qconfig",
    "float_qparams_weight_only_qconfig_4bit",
    "get_default_qat_qconfig",
    "get_default_qconfig",
    "learned_qat_qconfig",
    "per_channel_dynamic_qconfig",
    "per_group_dynamic_qconfig",
    "per_tensor_dynamic_qconfig",
    "qconfig_equals",
]


class _Recipes(NamedTuple):
    activation: Callable[..., Any]
    weight: Callable[..., Any]


class QConfig(_Recipes):
    """Two factories of observers, one for activations and one for weights.

    Raises `ConfigError` for an observer that is made already: each layer needs its own.

    >>> from intaglio.observer import PerChannelMinMaxObserver
    >>> QConfig(PlaceholderObserver.with_args(), PerChannelMinMaxObserver.with_args()).weight().dtype.name
    'int8'
    """

    __slots__ = ()

    def __new__(cls, activation: Callable[..., Any], weight: Callable[..., Any]) -> QConfig:
        """Check that both are factories."""
        for role, recipe in (("activation", activation), ("weight", weight)):
            if isinstance(recipe, nn.Module) or not callable(recipe):
                name = type(recipe).__name__
                raise ConfigError(
                    f"QConfig got {name} as its {role}: pass a class or {name}.with_args(...), from which "
                    "each layer gets an observer of its own"
                )
        return super().__new__(cls, activation, weight)


QConfigAny = QConfig | None
"""A qconfig, or None: not quantized."""


def qconfig_equals(q1: QConfigAny, q2: QConfigAny) -> bool:
    """Whether two qconfigs make the same observers with the same arguments; None equals only None.

    >>> qconfig_equals(get_default_qconfig("x86"), get_default_qconfig("fbgemm"))
    True
    """
    if q1 is None or q2 is None:
        return q1 is q2
    return tuple(q1) == tuple(q2)


default_qconfig = QConfig(default_observer, default_weight_observer)
"""uint8 activations from smallest to largest, int8 weights with one scale for all channels."""

default_debug_qconfig = QConfig(default_debug_observer, default_weight_observer)
"""Keeps every activation, for debugging."""

default_per_channel_qconfig = QConfig(default_observer, default_per_channel_weight_observer)
"""uint8 activations from smallest to largest, int8 weights per output channel."""

default_quint8_weight_qconfig = QConfig(
    HistogramObserver.with_args(dtype=UINT8), MinMaxObserver.with_args(dtype=UINT8)
)
"""For PReLU: its weight in uint8."""

default_reuse_input_qconfig = QConfig(default_reuse_input_observer, NoopObserver)
"""For ops that only move values."""

_least_squares_weight = PerChannelMSEObserver.with_args(dtype=INT8, qscheme=torch.per_channel_symmetric)
_least_squares = HistogramObserver.with_args(dtype=UINT8, qscheme=torch.per_tensor_affine)
_symmetric = HistogramObserver.with_args(dtype=UINT8, qscheme=torch.per_tensor_symmetric)

default_symmetric_qnnpack_qconfig = QConfig(_symmetric, default_weight_observer)
"""Activations of zero point 128 and limits 1..255, which is int8 as ARM wants it; weights per tensor."""

default_per_channel_symmetric_qnnpack_qconfig = QConfig(_symmetric, default_per_channel_weight_observer)
"""Activations of zero point 128 and limits 1..255, which is int8 as ARM wants it; weights per channel."""

_BACKENDS = {
    "x86": QConfig(_least_squares, _least_squares_weight),
    "fbgemm": QConfig(_least_squares, _least_squares_weight),
    "onednn": QConfig(_least_squares, _least_squares_weight),
    "qnnpack": QConfig(_symmetric, _least_squares_weight),
}


def get_default_qconfig(backend: str = "x86", version: int = 0) -> QConfig:
    """The preset for static quantization on a kind of CPU.

    Activations (`HistogramObserver`, all 256 integers) and int8 weights per output channel
    (`PerChannelMSEObserver`, -127..127), both by least squared error. `qnnpack` takes symmetric
    activations. Every preset runs on every CPU, with the same bits.
    Raises `ConfigError` for another backend or a version that is not 0.

    Parameters
    ----------
    backend : {'x86', 'fbgemm', 'qnnpack', 'onednn'}
    version : {0}

    Examples
    --------
    >>> get_default_qconfig("qnnpack").activation().symmetric
    True
    """
    if backend not in _BACKENDS:
        raise ConfigError(
            f"no default qconfig for the backend {backend!r}: use one of {', '.join(_BACKENDS)}"
        )
    if version != 0:
        raise ConfigError(f"get_default_qconfig has no version {version!r}: use 0")
    return _BACKENDS[backend]


# ---- Training ----------------------------------------------------------------------------------------------

_symmetric_fake_quant = default_fake_quant.with_args(qscheme=torch.per_tensor_symmetric)

default_qat_qconfig = QConfig(default_fake_quant, default_weight_fake_quant)
"""Training: uint8 activations by a moving average, int8 weights with one scale for all channels."""

default_qat_qconfig_v2 = QConfig(default_fused_act_fake_quant, default_fused_wt_fake_quant)
"""The same, by the legacy's later name."""

default_symmetric_qnnpack_qat_qconfig = QConfig(_symmetric_fake_quant, default_weight_fake_quant)
"""Training: activations of zero point 128 and limits 1..255, weights per tensor."""

default_per_channel_symmetric_qnnpack_qat_qconfig = QConfig(
    _symmetric_fake_quant, default_per_channel_weight_fake_quant
)
"""Training: activations of zero point 128 and limits 1..255, weights per channel."""

default_dynamic_qat_qconfig = QConfig(default_dynamic_fake_quant, default_per_channel_weight_fake_quant)
"""Training of what will be dynamic: uint8 activations per row, int8 weights per channel."""

default_weight_only_qconfig = QConfig(nn.Identity, default_weight_fake_quant)
"""Training with rounded weights and float activations: to look at; it has no integer form."""

default_activation_only_qconfig = QConfig(default_fake_quant, nn.Identity)
"""Training with rounded activations and float weights: to look at; it has no integer form."""

default_embedding_qat_qconfig = QConfig(NoopObserver.with_args(dtype="float32"), default_embedding_fake_quant)
"""Training of embeddings of 8 bit."""

default_embedding_qat_qconfig_4bit = QConfig(
    NoopObserver.with_args(dtype="float32"), default_embedding_fake_quant_4bit
)
"""Training of embeddings of 4 bit."""

learned_qat_qconfig = QConfig(default_fake_quant, LearnedFakeQuantize.with_args(dtype=INT8, ch_axis=0))
"""Training with learned step sizes for weights (LSQ), int8 per channel; see `LearnedFakeQuantize`."""

_QAT_BACKENDS = {
    "x86": QConfig(default_fused_act_fake_quant, default_fused_per_channel_wt_fake_quant),
    "fbgemm": QConfig(default_fused_act_fake_quant, default_fused_per_channel_wt_fake_quant),
    "onednn": QConfig(default_fused_act_fake_quant, default_fused_per_channel_wt_fake_quant),
    "qnnpack": QConfig(
        default_fused_act_fake_quant.with_args(qscheme=torch.per_tensor_symmetric),
        default_fused_per_channel_wt_fake_quant,
    ),
}


def get_default_qat_qconfig(backend: str = "x86", version: int = 1) -> QConfig:
    """The preset for quantization-aware training on a kind of CPU.

    uint8 activations by the moving average of their extremes, int8 weights by the extremes of each output
    channel as they are. `qnnpack` takes symmetric activations. Both versions are the same.
    Raises `ConfigError` for another backend or version.

    Parameters
    ----------
    backend : {'x86', 'fbgemm', 'qnnpack', 'onednn'}
    version : {0, 1}

    Examples
    --------
    >>> type(get_default_qat_qconfig("x86").weight()).__name__
    'FusedMovingAvgObsFakeQuantize'
    """
    if backend not in _QAT_BACKENDS:
        raise ConfigError(
            f"no default QAT qconfig for the backend {backend!r}: use one of {', '.join(_QAT_BACKENDS)}"
        )
    if version not in (0, 1):
        raise ConfigError(f"get_default_qat_qconfig has no version {version!r}: use 1")
    return _QAT_BACKENDS[backend]


# ---- Dynamic -----------------------------------------------------------------------------------------------

default_dynamic_qconfig = QConfig(
    PlaceholderObserver.with_args(dtype=UINT8), default_per_channel_weight_observer
)
"""int8 weights per output channel, uint8 activations per row."""

per_channel_dynamic_qconfig = default_dynamic_qconfig
"""The same: weights are always per channel."""

per_tensor_dynamic_qconfig = QConfig(
    PlaceholderObserver.with_args(dtype=UINT8, granularity=PerTensor()), default_per_channel_weight_observer
)
"""int8 weights per output channel, one range for all of a layer's activations (what the legacy did)."""

per_group_dynamic_qconfig = QConfig(
    PlaceholderObserver.with_args(dtype=UINT8, granularity=PerGroup(128)), default_per_channel_weight_observer
)
"""int8 weights per output channel, uint8 activations per row and run of 128 features: for language models."""

float16_dynamic_qconfig = QConfig(
    PlaceholderObserver.with_args(dtype=FLOAT16), PlaceholderObserver.with_args(dtype=FLOAT16)
)
"""float16 weights, computed in float32."""

float16_static_qconfig = QConfig(
    PlaceholderObserver.with_args(dtype=FLOAT16, is_dynamic=False),
    PlaceholderObserver.with_args(dtype=FLOAT16, is_dynamic=False),
)
"""float16 weights, computed in float32; activations are not quantized."""

float_qparams_weight_only_qconfig = QConfig(
    PlaceholderObserver.with_args(dtype=UINT8), default_float_qparams_observer
)
"""Embeddings of 8 bit: scale and offset for each row."""

float_qparams_weight_only_qconfig_4bit = QConfig(
    PlaceholderObserver.with_args(dtype=UINT8), default_float_qparams_observer_4bit
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
