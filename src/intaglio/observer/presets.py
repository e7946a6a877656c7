"""The named factories of observers, `default_*`: legacy names, without the faults.

None gives up a bit: where the legacy cut activations to 0..127, these use 0..255. May import the observers.
"""

from __future__ import annotations

import torch

from intaglio.observer.histogram import HistogramObserver
from intaglio.observer.min_max import MinMaxObserver, PerChannelMinMaxObserver
from intaglio.observer.passive import (
    FixedQParamsObserver,
    PlaceholderObserver,
    RecordingObserver,
    ReuseInputObserver,
)
from intaglio.observer.weight_ranges import PerChannelMSEObserver
from intaglio.qparams import INT8, UINT4, UINT8

__all__ = [
    "default_affine_fixed_qparams_observer",
    "default_debug_observer",
    "default_dynamic_quant_observer",
    "default_fixed_qparams_range_0to1_observer",
    "default_fixed_qparams_range_neg1to1_observer",
    "default_float_qparams_observer",
    "default_float_qparams_observer_4bit",
    "default_histogram_observer",
    "default_observer",
    "default_per_channel_weight_observer",
    "default_placeholder_observer",
    "default_reuse_input_observer",
    "default_symmetric_fixed_qparams_observer",
    "default_weight_observer",
    "per_channel_weight_observer_range_neg_127_to_127",
    "weight_observer_range_neg_127_to_127",
]

default_observer = MinMaxObserver.with_args(dtype=UINT8)
"""uint8 activations, from the smallest value seen to the largest."""

default_placeholder_observer = PlaceholderObserver
"""Says how values are stored, and observes nothing."""

default_debug_observer = RecordingObserver
"""Keeps every tensor."""

default_weight_observer = MinMaxObserver.with_args(dtype=INT8, qscheme=torch.per_tensor_symmetric)
"""int8 weights, -127..127, one scale for all channels."""

weight_observer_range_neg_127_to_127 = default_weight_observer
"""The same: symmetric int8 is -127..127 always."""

default_histogram_observer = HistogramObserver.with_args(dtype=UINT8)
"""uint8 activations, of least squared error."""

default_per_channel_weight_observer = PerChannelMinMaxObserver.with_args(
    dtype=INT8, qscheme=torch.per_channel_symmetric
)
"""int8 weights, -127..127, one scale for each output channel."""

per_channel_weight_observer_range_neg_127_to_127 = default_per_channel_weight_observer
"""The same: symmetric int8 is -127..127 always."""

default_dynamic_quant_observer = PlaceholderObserver.with_args(dtype=UINT8, is_dynamic=True)
"""uint8 activations, quantized as they come."""

default_float_qparams_observer = PerChannelMinMaxObserver.with_args(
    dtype=UINT8, qscheme=torch.per_channel_affine_float_qparams, ch_axis=0
)
"""Embedding tables of 8 bits."""

default_float_qparams_observer_4bit = PerChannelMSEObserver.with_args(
    dtype=UINT4, qscheme=torch.per_channel_affine_float_qparams, ch_axis=0
)
"""Embedding tables of 4 bits, of least squared error."""

default_fixed_qparams_range_neg1to1_observer = FixedQParamsObserver.with_args(
    scale=2.0 / 256.0, zero_point=128, dtype=UINT8
)
"""Values from -1 to 1, as those of tanh."""

default_fixed_qparams_range_0to1_observer = FixedQParamsObserver.with_args(
    scale=1.0 / 256.0, zero_point=0, dtype=UINT8
)
"""Values from 0 to 1, as those of sigmoid."""

default_symmetric_fixed_qparams_observer = default_fixed_qparams_range_neg1to1_observer
"""The older name of the same."""

default_affine_fixed_qparams_observer = default_fixed_qparams_range_0to1_observer
"""The older name of the same."""

default_reuse_input_observer = ReuseInputObserver
"""The parameters of the input, for ops that only move values."""
