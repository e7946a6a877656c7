"""The ops of quantized activations are seen by export and by fx: one node each, the same bits."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, nn

import intaglio
from intaglio.ops.elementwise import add, concatenate, lookup, mul, requantize
from intaglio.ops.layout import dequantize_image, quantize_image
from intaglio.ops.matmul_static import matmul
from intaglio.ops.normalize import choose_affine, group_norm, layer_norm, softmax
from intaglio.ops.pooling import adaptive_avg_pool, adaptive_max_pool, avg_pool, max_pool
from intaglio.ops.resize import resize
from tests.op_recorder import Recorder


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
        q = mul(q, adaptive_max_pool(q, (1, 1)), 0.02, 128, 0.02, 128, 0.02, 128)
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


@functools.cache
def calls_of_static_ops() -> list[tuple[Any, tuple[Any, ...], dict[str, Any]]]:
    """A call of each op of quantized activations, with its arguments."""
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(512, 4))
    model, x = intaglio.QuantWrapper(layers).eval(), torch.randn(2, 3, 8, 8)
    model.qconfig = intaglio.get_default_qconfig("x86")
    network = intaglio.quantize(model, lambda prepared: prepared(x))
    with torch.no_grad():
        programs = [torch.export.export(found, (x,)).module() for found in (Chain().eval(), network)]
    with Recorder() as recorder:
        for program in programs:
            program(x)
    return recorder.calls


def test_ops_obey_the_rules_of_torch_library() -> None:
    for op, args, kwargs in calls_of_static_ops():
        torch.library.opcheck(op, args, kwargs)
