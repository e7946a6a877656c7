"""Linear with float16 weights and float32 arithmetic: packing, a direct call and a `torch.library` op.

Weights are stored as IEEE halves in panels that belong to the instruction set in use
(csrc/kernels/gemm_half-inl.h). Recurrent layers use the same call with an `addend`.
May import rows, library, _core and errors.
"""

from __future__ import annotations

import torch
from torch import Tensor

from intaglio import _core
from intaglio.errors import ConfigError
from intaglio.ops.library import define_op
from intaglio.ops.rows import allocate_rows

__all__ = ["linear_half", "pack_half_weight", "run_linear_half", "unpack_half_weight"]

_threads = torch.get_num_threads


def pack_half_weight(weight: Tensor, bias: Tensor | None) -> Tensor:
    """Pack an `(N, K)` float16 weight and its `(N,)` float32 bias for the kernels in use.

    Returns a 1-d uint8 tensor. Raises `ConfigError` for other shapes and dtypes.
    """
    if weight.dtype != torch.float16 or weight.dim() != 2:
        raise ConfigError(
            f"pack_half_weight takes an (N, K) float16 weight, not {tuple(weight.shape)} {weight.dtype}"
        )
    n, k = weight.shape
    if bias is not None and (bias.shape != (n,) or bias.dtype != torch.float32):
        raise ConfigError(
            f"pack_half_weight takes an (N,) float32 bias, not {tuple(bias.shape)} {bias.dtype}"
        )
    weight, bias = weight.contiguous(), None if bias is None else bias.contiguous()
    packed = torch.empty(_core.packed_half_bytes(n, k), dtype=torch.uint8)
    bias_address = 0 if bias is None else bias.data_ptr()
    _core.pack_half_weight(weight.data_ptr(), bias_address, n, k, packed.data_ptr())
    return packed


def unpack_half_weight(packed: Tensor) -> tuple[Tensor, Tensor]:
    """The `(N, K)` float16 weight and `(N,)` float32 bias in a packed tensor."""
    n, k, _ = _core.packed_shape(packed.data_ptr())
    weight, bias = torch.empty(n, k, dtype=torch.float16), torch.empty(n)
    _core.unpack_half_weight(packed.data_ptr(), weight.data_ptr(), bias.data_ptr())
    return weight, bias


def run_linear_half(x: Tensor, packed: Tensor, out_features: int, addend: Tensor | None = None) -> Tensor:
    """Multiply float32 `(..., K)` on the CPU by a packed `(N, K)` weight; `(..., N)` float32.

    `addend`, contiguous float32 of the result's shape, takes the bias's place. The caller has checked
    dtype and device. `ValueError` if K is not that of the weight.
    """
    if not x.is_contiguous():
        x = x.contiguous()
    y, rows, k = allocate_rows(x, out_features)
    base = 0 if addend is None else addend.data_ptr()
    _core.linear_half(x.data_ptr(), rows, k, packed.data_ptr(), base, y.data_ptr(), _threads())
    return y


def linear_half(x: Tensor, packed: Tensor, out_features: int) -> Tensor:
    """CPU kernel of `intaglio::linear_half`: as `run_linear_half`, for any float dtype.

    A weight packed for another instruction set (an exported program that moved) is packed again for
    each call: right, but slow.
    """
    if _core.packed_shape(packed.data_ptr())[2] != _core.active_isa():
        packed = pack_half_weight(*unpack_half_weight(packed))
    return run_linear_half(x.to(torch.float32), packed, out_features).to(x.dtype)


def _fake_linear_half(x: Tensor, packed: Tensor, out_features: int) -> Tensor:
    return x.new_empty([*x.shape[:-1], out_features])


define_op(
    "linear_half(Tensor x, Tensor packed, SymInt out_features) -> Tensor", linear_half, _fake_linear_half
)
