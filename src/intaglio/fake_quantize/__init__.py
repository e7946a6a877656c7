"""Fake quantization: integers' arithmetic in float, while a model trains.

    straight_through  rounding that lets gradients through: kernels, and plain torch
    switchable        `FakeQuantizeBase`: an observer that rounds
    rounding          `FakeQuantize`: rounding by what an observer found
    kinds             those of one kind of observer
    dynamic           rounding by the range of each row
    learned           `LearnedFakeQuantize`: scales that are trained
    switches          enable and disable, for a whole model
    presets           the named factories

May import observer, ops, qparams and errors.
"""

from intaglio.fake_quantize.dynamic import round_dynamically, round_samples
from intaglio.fake_quantize.kinds import FixedQParamsFakeQuantize, FusedMovingAvgObsFakeQuantize
from intaglio.fake_quantize.learned import LearnedFakeQuantize
from intaglio.fake_quantize.presets import (
    default_affine_fixed_qparams_fake_quant,
    default_dynamic_fake_quant,
    default_embedding_fake_quant,
    default_embedding_fake_quant_4bit,
    default_fake_quant,
    default_fixed_qparams_range_0to1_fake_quant,
    default_fixed_qparams_range_neg1to1_fake_quant,
    default_fused_act_fake_quant,
    default_fused_per_channel_wt_fake_quant,
    default_fused_wt_fake_quant,
    default_histogram_fake_quant,
    default_per_channel_weight_fake_quant,
    default_symmetric_fixed_qparams_fake_quant,
    default_weight_fake_quant,
    fused_per_channel_wt_fake_quant_range_neg_127_to_127,
    fused_wt_fake_quant_range_neg_127_to_127,
)
from intaglio.fake_quantize.rounding import FakeQuantize
from intaglio.fake_quantize.straight_through import keep_gradient
from intaglio.fake_quantize.switchable import ROUNDED_BY, FakeQuantizeBase
from intaglio.fake_quantize.switches import (
    disable_fake_quant,
    disable_observer,
    enable_fake_quant,
    enable_observer,
)

__all__ = [
    "ROUNDED_BY",
    "FakeQuantize",
    "FakeQuantizeBase",
    "FixedQParamsFakeQuantize",
    "FusedMovingAvgObsFakeQuantize",
    "LearnedFakeQuantize",
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
    "disable_fake_quant",
    "disable_observer",
    "enable_fake_quant",
    "enable_observer",
    "fused_per_channel_wt_fake_quant_range_neg_127_to_127",
    "fused_wt_fake_quant_range_neg_127_to_127",
    "keep_gradient",
    "round_dynamically",
    "round_samples",
]
