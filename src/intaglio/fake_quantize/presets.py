"""The named factories of fake quantizers, `default_*`: legacy names, without the faults.

None gives up a bit, and a weight's range is that of the weight as it is, not an average of what it was. May
import rounding, observer and qparams.
"""

from __future__ import annotations

import torch

from intaglio.fake_quantize.kinds import FixedQParamsFakeQuantize, FusedMovingAvgObsFakeQuantize
from intaglio.fake_quantize.rounding import FakeQuantize
from intaglio.observer import (
    HistogramObserver,
    MovingAverageMinMaxObserver,
    MovingAveragePerChannelMinMaxObserver,
    default_fixed_qparams_range_0to1_observer,
    default_fixed_qparams_range_neg1to1_observer,
)
from intaglio.qparams import INT8, UINT4, UINT8

__all__ = [
    "default_affine_fixed_qparams_fake_quant",
    "default_dynamic_fake_quant",
    "default_embedding_fake_quant",
    "default_embedding_fake_quant_4bit",
    "default_fake_quant",
    "default_fixed_qparams_range_0to1_fake_quant",
    "default_fixed_qparams_range_neg1to1_fake_quant",
    "default_fused_act_fake_quant",
    "default_fused_per_channel_wt_fake_quant",
    "default_fused_wt_fake_quant",
    "default_histogram_fake_quant",
    "default_per_channel_weight_fake_quant",
    "default_symmetric_fixed_qparams_fake_quant",
    "default_weight_fake_quant",
    "fused_per_channel_wt_fake_quant_range_neg_127_to_127",
    "fused_wt_fake_quant_range_neg_127_to_127",
]

default_fake_quant = FakeQuantize.with_args(
    observer=MovingAverageMinMaxObserver, dtype=UINT8, qscheme=torch.per_tensor_affine
)
"""uint8 activations, by the moving average of their extremes."""

default_weight_fake_quant = FakeQuantize.with_args(
    observer=MovingAverageMinMaxObserver,
    dtype=INT8,
    qscheme=torch.per_tensor_symmetric,
    averaging_constant=1.0,
)
"""int8 weights, -127..127, one scale for all channels."""

default_per_channel_weight_fake_quant = FakeQuantize.with_args(
    observer=MovingAveragePerChannelMinMaxObserver,
    dtype=INT8,
    qscheme=torch.per_channel_symmetric,
    ch_axis=0,
    averaging_constant=1.0,
)
"""int8 weights, -127..127, per output channel."""

default_dynamic_fake_quant = FakeQuantize.with_args(
    observer=MovingAverageMinMaxObserver, is_dynamic=True, dtype=UINT8, averaging_constant=1.0
)
"""uint8 activations, each row by its own range."""

default_fixed_qparams_range_neg1to1_fake_quant = FixedQParamsFakeQuantize.with_args(
    observer=default_fixed_qparams_range_neg1to1_observer
)
"""What lies in -1..1, as the output of tanh does."""

default_fixed_qparams_range_0to1_fake_quant = FixedQParamsFakeQuantize.with_args(
    observer=default_fixed_qparams_range_0to1_observer
)
"""What lies in 0..1, as the output of sigmoid does."""

default_symmetric_fixed_qparams_fake_quant = default_fixed_qparams_range_neg1to1_fake_quant
default_affine_fixed_qparams_fake_quant = default_fixed_qparams_range_0to1_fake_quant

default_embedding_fake_quant = FakeQuantize.with_args(
    observer=MovingAveragePerChannelMinMaxObserver,
    dtype=UINT8,
    qscheme=torch.per_channel_affine_float_qparams,
    ch_axis=0,
    averaging_constant=1.0,
)
"""Embeddings of 8 bit: scale and offset for each row."""

default_embedding_fake_quant_4bit = FakeQuantize.with_args(
    observer=MovingAveragePerChannelMinMaxObserver,
    dtype=UINT4,
    qscheme=torch.per_channel_affine_float_qparams,
    ch_axis=0,
    averaging_constant=1.0,
)
"""Embeddings of 4 bit: scale and offset for each row."""

default_histogram_fake_quant = FakeQuantize.with_args(
    observer=HistogramObserver, dtype=UINT8, qscheme=torch.per_tensor_affine
)
"""uint8 activations of least squared error over all data; slow, as the histogram of every tensor is kept."""

default_fused_act_fake_quant = FusedMovingAvgObsFakeQuantize.with_args(
    observer=MovingAverageMinMaxObserver, dtype=UINT8
)
"""As `default_fake_quant`."""

default_fused_wt_fake_quant = FusedMovingAvgObsFakeQuantize.with_args(
    observer=MovingAverageMinMaxObserver,
    quant_min=-128,
    quant_max=127,
    dtype=INT8,
    qscheme=torch.per_tensor_symmetric,
    averaging_constant=1.0,
)
"""As `default_weight_fake_quant`."""

default_fused_per_channel_wt_fake_quant = FusedMovingAvgObsFakeQuantize.with_args(
    observer=MovingAveragePerChannelMinMaxObserver,
    quant_min=-128,
    quant_max=127,
    dtype=INT8,
    qscheme=torch.per_channel_symmetric,
    averaging_constant=1.0,
)
"""As `default_per_channel_weight_fake_quant`."""

fused_wt_fake_quant_range_neg_127_to_127 = default_fused_wt_fake_quant
fused_per_channel_wt_fake_quant_range_neg_127_to_127 = default_fused_per_channel_wt_fake_quant
