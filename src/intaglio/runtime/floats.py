"""Plans of float operations between quantized ones: dynamic Linear, normalization, activations, attention.

Each is a call of `run_rows` or `run_attention` by itself; what can be done in one go is fused later
(rows.py). May import planner, packing, array and errors.
"""

from __future__ import annotations

import math
from math import prod
from typing import Any

import numpy as np

from intaglio.errors import InputError
from intaglio.runtime.array import Array
from intaglio.runtime.graph import Layer
from intaglio.runtime.packing import pack_linear
from intaglio.runtime.planner import NotLowered, Planner, lower_function, lower_layer

__all__ = ["FUNCTIONS", "NORMS", "add_rows", "as_rows", "attend", "check_float", "rows_of"]

FUNCTIONS = {
    "none": 0,
    "relu": 1,
    "clamp": 2,
    "gelu": 3,
    "gelu_tanh": 4,
    "quick_gelu": 5,
    "silu": 6,
    "sigmoid": 7,
    "tanh": 8,
    "hardswish": 9,
    "hardsigmoid": 10,
    "leaky_relu": 11,
}
"""Functions of `run_rows` by name (csrc/kernels/float_kernels.h, Function)."""

NORMS = {"none": 0, "layer": 1, "rms": 2}
"""Its normalizations (Norm)."""


def rows_of(x: Array) -> tuple[int, int, int] | None:
    """Rows, columns and the stride between rows, where `x` is rows of neighbouring values; else None."""
    if x.ndim == 0:
        return 1, 1, 1
    columns = x.shape[-1]
    if x.size == 0:
        return prod(x.shape[:-1]), columns, columns
    if columns > 1 and x.strides[-1] != 1:
        return None
    rows, stride = 1, columns
    for size, step in zip(reversed(x.shape[:-1]), reversed(x.strides[:-1]), strict=True):
        if size == 1:
            continue
        if rows == 1:
            stride = step
        elif step != stride * rows:
            return None
        rows *= size
    return rows, columns, stride


def as_rows(planner: Planner, x: Array) -> Array:
    """`x`, copied unless it is rows of neighbouring values."""
    return x if rows_of(x) is not None else planner.contiguous(x)


def check_float(x: Any) -> None:
    """Leave to others what is no float32 tensor."""
    if not isinstance(x, Array) or x.quant is not None or x.dtype != "float32":
        raise NotLowered("its input is not float32")


def run_rows(planner: Planner, x: Array, columns: int, **what: Any) -> Array:
    """Emit a call of `run_rows` on the rows of `x`, giving rows of `columns`."""
    x = as_rows(planner, x)
    y = planner.new((*x.shape[:-1], columns))
    planner.call("run_rows", "y", x=x, y=y, **what)
    return y


# ---- Products ------------------------------------------------------------------------------------------


@lower_layer("dynamic_linear")
def _dynamic_linear(planner: Planner, layer: Layer, x: Array) -> Array:
    check_float(x)
    k, n = layer.count("in_features"), layer.count("out_features")
    if x.ndim == 0 or x.shape[-1] != k:
        raise InputError(f"{layer.where()}: input has shape {x.shape}, but its last dimension must be {k}")

    def pack() -> np.ndarray[Any, Any]:
        bias = layer.array("bias", (n,)) if layer.has("bias") else None
        return pack_linear(layer.array("weight", (n, k), "int8"), layer.array("weight_scale", (n,)), bias)

    packed = planner.packed(layer.packed("packed", pack))
    per_row = bool(layer.config["per_row"])
    return run_rows(planner, x, n, work=prod(x.shape) * n, packed=packed, granularity=int(per_row))


# ---- Functions of one value ------------------------------------------------------------------------------


def _function(planner: Planner, x: Array, name: str, lower: float = 0.0, upper: float = 0.0) -> Array:
    check_float(x)
    flat = x.view([x.size, 1], [1, 1]) if x.ndim == 0 else x
    y = run_rows(planner, flat, flat.shape[-1], function=FUNCTIONS[name], lower=lower, upper=upper)
    return y.view(x.shape, ()) if x.ndim == 0 else y


def _gelu_name(approximate: Any) -> str:
    return "gelu_tanh" if approximate == "tanh" else "gelu"


@lower_layer("torch.nn.GELU")
def _gelu_layer(planner: Planner, layer: Layer, x: Array) -> Array:
    return _function(planner, x, _gelu_name(layer.config.get("approximate")))


@lower_function("torch.nn.functional.gelu")
def _gelu(planner: Planner, input: Array, approximate: str = "none") -> Array:
    return _function(planner, input, _gelu_name(approximate))


def _plain(name: str, layer_name: str, *functions: str) -> None:
    @lower_layer(f"torch.nn.{layer_name}")
    def lower_as_layer(planner: Planner, layer: Layer, x: Array) -> Array:
        return _function(planner, x, name)

    @lower_function(*functions)
    def lower(planner: Planner, input: Array, inplace: bool = False) -> Array:
        return _function(planner, input, name)


_plain("relu", "ReLU", "torch.nn.functional.relu", "torch.relu", "Tensor.relu")
_plain("silu", "SiLU", "torch.nn.functional.silu")
_plain("sigmoid", "Sigmoid", "torch.nn.functional.sigmoid", "torch.sigmoid", "Tensor.sigmoid")
_plain("tanh", "Tanh", "torch.nn.functional.tanh", "torch.tanh", "Tensor.tanh")
_plain("hardswish", "Hardswish", "torch.nn.functional.hardswish")
_plain("hardsigmoid", "Hardsigmoid", "torch.nn.functional.hardsigmoid")


@lower_layer("torch.nn.ReLU6")
def _relu6_layer(planner: Planner, layer: Layer, x: Array) -> Array:
    return _function(planner, x, "clamp", 0.0, 6.0)


@lower_function("torch.nn.functional.relu6")
def _relu6(planner: Planner, input: Array, inplace: bool = False) -> Array:
    return _function(planner, input, "clamp", 0.0, 6.0)


@lower_layer("torch.nn.LeakyReLU")
def _leaky_relu_layer(planner: Planner, layer: Layer, x: Array) -> Array:
    return _function(planner, x, "leaky_relu", layer.config.get("negative_slope", 0.01))


# ---- Normalization ---------------------------------------------------------------------------------------


def _norm(planner: Planner, x: Array, kind: str, shape: Any, weight: Any, bias: Any, epsilon: float) -> Array:
    check_float(x)
    normalized = (shape,) if isinstance(shape, int) else tuple(shape)
    if x.shape[x.ndim - len(normalized) :] != normalized:
        raise InputError(f"'{planner.label}': input has shape {x.shape}, but it must end in {normalized}")
    for part in (weight, bias):
        if part is not None and not (
            isinstance(part, Array) and part.dtype == "float32" and part.is_contiguous
        ):
            raise NotLowered("its weight is not float32")
    columns = prod(normalized)
    if columns < 1 or any(part is not None and part.size != columns for part in (weight, bias)):
        raise InputError(f"'{planner.label}': weight and bias must have {columns} values")
    flat = planner.reshape(x, (*x.shape[: x.ndim - len(normalized)], columns))
    y = run_rows(planner, flat, columns, norm=NORMS[kind], weight=weight, bias=bias, epsilon=epsilon)
    return planner.reshape(y, x.shape)


def _parameter(planner: Planner, layer: Layer, name: str) -> Array | None:
    return planner.tensor_of(layer, name) if layer.has(name) else None


@lower_layer("torch.nn.LayerNorm")
def _layer_norm_layer(planner: Planner, layer: Layer, x: Array) -> Array:
    weight, bias = _parameter(planner, layer, "weight"), _parameter(planner, layer, "bias")
    epsilon = layer.config.get("eps", 1e-5)
    return _norm(planner, x, "layer", layer.config["normalized_shape"], weight, bias, epsilon)


@lower_function("torch.nn.functional.layer_norm", "torch.layer_norm")
def _layer_norm(
    planner: Planner,
    input: Array,
    normalized_shape: Any,
    weight: Any = None,
    bias: Any = None,
    eps: float = 1e-5,
) -> Array:
    return _norm(planner, input, "layer", normalized_shape, weight, bias, eps)


_EPSILON = float(np.finfo(np.float32).eps)


@lower_layer("torch.nn.RMSNorm")
def _rms_norm_layer(planner: Planner, layer: Layer, x: Array) -> Array:
    epsilon = layer.config.get("eps")
    weight = _parameter(planner, layer, "weight")
    epsilon = _EPSILON if epsilon is None else epsilon
    return _norm(planner, x, "rms", layer.config["normalized_shape"], weight, None, epsilon)


# ---- Sums ------------------------------------------------------------------------------------------------


def add_rows(planner: Planner, a: Array, b: Array) -> Array:
    """The sum of two tensors of one shape, which may be joined to the product before it."""
    return run_rows(planner, a, a.shape[-1], residual=as_rows(planner, b))


# ---- Attention -------------------------------------------------------------------------------------------


@lower_function("torch.nn.functional.scaled_dot_product_attention")
def _scaled_dot_product_attention(
    planner: Planner,
    query: Array,
    key: Array,
    value: Array,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Array:
    for x in (query, key, value):
        check_float(x)
    if dropout_p or (query.ndim == 4 and query.shape[1] != key.shape[1] and not enable_gqa):
        raise NotLowered("it drops weights")
    if query.ndim == 3:
        q, k, v = (x.unsqueeze(1) for x in (query, key, value))
        mask = attn_mask.unsqueeze(1) if isinstance(attn_mask, Array) and attn_mask.ndim == 3 else attn_mask
        return attend(planner, q, k, v, mask, is_causal, scale).squeeze([1])
    return attend(planner, query, key, value, attn_mask, is_causal, scale)


def attend(
    planner: Planner,
    query: Array,
    key: Array,
    value: Array,
    attn_mask: Any,
    is_causal: bool,
    scale: float | None = None,
) -> Array:
    """`(batch, heads, T, D)` each, read where they lie; the result lies as `(batch, T, heads, D)`."""
    if query.ndim != 4 or key.ndim != 4 or value.ndim != 4:
        raise NotLowered(f"it takes queries of shape {query.shape}")
    batch, heads, queries, depth = query.shape
    kv_heads, keys, width = key.shape[1], key.shape[2], value.shape[3]
    if (
        key.shape != (batch, kv_heads, keys, depth)
        or value.shape != (batch, kv_heads, keys, width)
        or 0 in (batch, heads, queries, depth, kv_heads, keys, width)
        or heads % kv_heads
    ):
        raise NotLowered(f"it takes {query.shape}, {key.shape} and {value.shape}")
    q, k, v = (x if x.strides[3] == 1 else planner.contiguous(x) for x in (query, key, value))
    scores = (batch, heads, queries, keys)
    added, allowed = _masks(planner, attn_mask, scores)
    step = heads * width
    y = planner.new((batch, heads, queries, width), strides=(queries * step, width, step, 1))
    planner.call(
        "run_attention",
        "y",
        batch=batch,
        heads=heads,
        kv_heads=kv_heads,
        queries=queries,
        keys=keys,
        depth=depth,
        width=width,
        q=_strided(q),
        k=_strided(k),
        v=_strided(v),
        y=_strided(y),
        scale=1 / math.sqrt(depth) if scale is None else scale,
        mask=_strided(added),
        allowed=_strided(allowed),
        is_causal=is_causal,
    )
    return y


def _masks(planner: Planner, mask: Any, shape: tuple[int, ...]) -> tuple[Array | None, Array | None]:
    """What is added to the scores, and what says which keys may be seen; at most one of them."""
    if mask is None:
        return None, None
    if not isinstance(mask, Array) or mask.dtype not in ("float32", "bool") or mask.quant is not None:
        raise NotLowered("its mask is neither float32 nor bool")
    whole = mask.expand(shape)
    if whole.strides[3] != 1 and shape[3] > 1:
        whole = planner.contiguous(whole)
    return (None, whole) if mask.dtype == "bool" else (whole, None)


def _strided(x: Array | None) -> Any:
    """An array with its strides along batch, heads and rows, as `run_attention` takes it."""
    return (None, 0, 0, 0) if x is None else (x, *x.strides[:3])
