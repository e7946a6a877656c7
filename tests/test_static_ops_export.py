"""The ops of quantized activations are seen by export and by fx: one node each, the same bits."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from intaglio.ops.elementwise import add, concatenate, lookup, mul, requantize
from intaglio.ops.layout import dequantize_image, quantize_image
from intaglio.ops.matmul_static import matmul
from intaglio.ops.normalize import choose_affine, group_norm, layer_norm, softmax
from intaglio.ops.pooling import adaptive_avg_pool, avg_pool, max_pool
from intaglio.ops.resize import resize


class Chain(nn.Module):
    """Every op once."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("table", torch.randperm(256).to(torch.uint8))
        for name, count in (("channels", 6), ("columns", 8)):
            multiplier, offset = choose_affine(None, None, count, 0.02)
            self.register_buffer(f"{name}_multiplier", multiplier)
            self.register_buffer(f"{name}_offset", offset)

    def forward(self, x: Tensor) -> Tensor:
        q = quantize_image(x, 0.02, 128)
        q = lookup(q, self.table)
        q = add(q, requantize(q, 0.02, 128, 0.03, 7), 0.02, 128, 0.03, 7, 0.05, 120)
        q = mul(q, adaptive_avg_pool(q, (1, 1), zero_point=120), 0.05, 120, 0.05, 120, 0.1, 9)
        q = concatenate([q, q], [0.1, 0.1], [9, 9], 1, 0.1, 9)
        q = max_pool(q, (2, 2), (2, 2), (0, 0), (1, 1))
        q = avg_pool(q, (3, 3), (1, 1), (1, 1), zero_point=9)
        q = group_norm(q, 3, self.channels_multiplier, self.channels_offset, 0.1, 128)
        q = resize(q, (8, 8), mode="linear")
        q = layer_norm(q, 1, self.columns_multiplier, self.columns_offset, 0.1, 128)
        q = matmul(softmax(q, 0.1), q, 1 / 256, 0, 0.02, 128, 0.02, 128)
        return dequantize_image(q, 0.02, 128)


def test_export_sees_ops_and_gives_the_same_bits() -> None:
    model, x = Chain().eval(), torch.randn(2, 3, 8, 8)
    expected = model(x)
    program = torch.export.export(model, (x,))
    ops = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert sum(op.startswith("intaglio.") for op in ops) >= 13
    assert torch.equal(program.module()(x), expected)


def test_fx_traces_through() -> None:
    model, x = Chain().eval(), torch.randn(2, 3, 8, 8)
    traced = torch.fx.symbolic_trace(model)
    assert torch.equal(traced(x), model(x))
