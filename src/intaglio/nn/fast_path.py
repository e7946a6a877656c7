"""Keeps torch's fused transformer fast path away from quantized layers.

`nn.TransformerEncoderLayer` hands its children's raw weights to one fused float kernel when it can;
a quantized child has none to hand over, and one that trains with rounded weights would be bypassed. May
import fake_quantize and quantized.
"""

from __future__ import annotations

from torch import nn

from intaglio.fake_quantize import FakeQuantizeBase
from intaglio.nn.quantized import QuantizedModule

__all__ = ["leave_fast_paths"]


def leave_fast_paths(model: nn.Module) -> None:
    """Make every transformer layer that holds a quantized or rounding module run its children one by one."""
    for module in model.modules():
        if isinstance(module, nn.TransformerEncoder) and _computes_otherwise(module):
            module.use_nested_tensor = False
        if isinstance(module, nn.TransformerEncoderLayer) and _computes_otherwise(module):
            module.activation_relu_or_gelu = 0  # what torch sets for an activation it cannot fuse


def _computes_otherwise(module: nn.Module) -> bool:
    return any(isinstance(child, QuantizedModule | FakeQuantizeBase) for child in module.modules())
