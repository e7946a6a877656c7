"""int8 weights packed for this CPU's kernels: one uint8 tensor that holds weight, scales and bias.

The layout belongs to the instruction set in use (csrc/kernels/kernels.h, PackedLayout), so a packed
tensor never leaves the process: files and pickles hold the plain tensors. May import runtime, _core and
errors.
"""

from __future__ import annotations

import torch
from torch import Tensor

from intaglio import _core
from intaglio.errors import ConfigError
from intaglio.runtime.packing import MAX_K

__all__ = ["MAX_K", "for_active_isa", "pack_weight", "unpack_weight"]


def pack_weight(weight: Tensor, scale: Tensor, bias: Tensor | None, *, panel_vectors: int = 0) -> Tensor:
    """Pack an `(N, K)` int8 weight, its `(N,)` float32 scales and bias for the kernels in use.

    Returns a 1-d uint8 tensor. `panel_vectors` fixes the vectors in a panel of columns (0: best for N).
    Raises `ConfigError` for other shapes and dtypes, and where K exceeds `MAX_K`.
    """
    n, k = weight.shape
    if weight.dtype != torch.int8 or scale.dtype != torch.float32 or scale.shape != (n,):
        raise ConfigError(
            f"pack_weight takes an (N, K) int8 weight and (N,) float32 scales, not {tuple(weight.shape)} "
            f"{weight.dtype} and {tuple(scale.shape)} {scale.dtype}"
        )
    if bias is not None and (bias.shape != (n,) or bias.dtype != torch.float32):
        raise ConfigError(f"pack_weight takes an (N,) float32 bias, not {tuple(bias.shape)} {bias.dtype}")
    if k > MAX_K:
        raise ConfigError(f"K = {k} exceeds {MAX_K}, beyond which int32 sums could overflow")
    weight, scale = weight.contiguous(), scale.contiguous()
    bias = None if bias is None else bias.contiguous()
    packed = torch.empty(_core.packed_weight_bytes(n, k, panel_vectors), dtype=torch.uint8)
    bias_address = 0 if bias is None else bias.data_ptr()
    _core.pack_weight(
        weight.data_ptr(), scale.data_ptr(), bias_address, n, k, panel_vectors, packed.data_ptr()
    )
    return packed


def unpack_weight(packed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The `(N, K)` int8 weight, `(N,)` float32 scales and `(N,)` float32 bias in a packed tensor."""
    n, k, _ = _core.packed_shape(packed.data_ptr())
    weight, scale, bias = torch.empty(n, k, dtype=torch.int8), torch.empty(n), torch.empty(n)
    _core.unpack_weight(packed.data_ptr(), weight.data_ptr(), scale.data_ptr(), bias.data_ptr())
    return weight, scale, bias


def for_active_isa(packed: Tensor) -> Tensor:
    """The weight packed for the kernels in use: itself, or packed again.

    For the kernels of ops: an exported program that moved to another CPU packs again for each call, which is
    right, but slow.
    """
    if _core.packed_shape(packed.data_ptr())[2] == _core.active_isa():
        return packed
    return pack_weight(*unpack_weight(packed))
