"""Plans of what stands between quantized images: stubs, convolutions, Linear, pools.

The calls are those that the quantized modules make, operand by operand, so that the results are equal bit for
bit. May import planner, geometry, quantities, packing, array and errors.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from math import prod
from typing import Any

from intaglio.errors import FileFormatError, InputError
from intaglio.runtime.array import Array, Quant
from intaglio.runtime.geometry import (
    adaptive_axes,
    conv_integers,
    conv_size,
    per_axis,
    pool_axes,
    pooled_size,
    transposed_size,
)
from intaglio.runtime.graph import Layer
from intaglio.runtime.packing import MAX_K, pack_linear_static, pack_static_conv
from intaglio.runtime.planner import NotLowered, Planner, lower_function, lower_layer
from intaglio.runtime.quantities import requantization

__all__ = ["output_of", "quantized"]

_IMAGE_DIMS = (4, 5)


def output_of(layer: Layer) -> Quant:
    """The parameters of what a static layer gives."""

    def make() -> Quant:
        scale, zero_point = float(layer.array("scale", ())), int(layer.array("zero_point", (), "int32"))
        lower, upper = layer.config["limits"]
        if not 0 <= lower <= upper <= 255 or not 0 <= zero_point <= 255 or not 0.0 < scale < math.inf:
            raise FileFormatError(
                f"{layer.where()}: no output has scale {scale}, zero point {zero_point}, limits "
                f"{lower}, {upper}"
            )
        return Quant(scale, zero_point, lower, upper)

    found: Quant = layer.made("output", make)
    return found


def quantized(planner: Planner, x: Any, what: str = "input") -> Quant:
    """The parameters of an operand; `InputError` unless it is quantized."""
    if not isinstance(x, Array) or x.quant is None or x.dtype != "uint8":
        found = f"a {x.dtype} tensor of shape {x.shape}" if isinstance(x, Array) else type(x).__name__
        raise InputError(f"'{planner.label}' takes a quantized value, but its {what} is {found}")
    return x.quant


def _sizes(x: Array) -> dict[str, int]:
    """Samples, channels and pixels of a sample."""
    if x.ndim < 2:
        return {"batch": 1, "channels": 1, "pixels": x.size}
    return {"batch": x.shape[0], "channels": x.shape[1], "pixels": prod(x.shape[2:])}


# ---- Stubs ---------------------------------------------------------------------------------------------


@lower_layer("quantize")
def _quantize(planner: Planner, layer: Layer, x: Array) -> Array:
    if x.quant is not None or x.dtype != "float32":
        raise InputError(f"{layer.where()} takes a float32 tensor, not {x.dtype} of shape {x.shape}")
    output = output_of(layer)
    if x.ndim in _IMAGE_DIMS:
        q = planner.new_image(x.shape, output)
        planes = not x.is_image
        x = planner.contiguous(x) if planes else x
    else:
        x, planes = planner.dense(x), False
        q = planner.new(x.shape, "uint8", output, x.strides)
    planner.call(
        "quantize_image",
        "q",
        x=x,
        q=q,
        **_sizes(x),
        planes=planes,
        scale=output.scale,
        zero_point=output.zero_point,
        lower=output.lower,
        upper=output.upper,
    )
    return q


@lower_layer("dequantize")
def _dequantize_layer(planner: Planner, layer: Layer, x: Any) -> Any:
    if isinstance(x, (tuple, list)):
        return type(x)(_dequantize_layer(planner, layer, part) for part in x)
    return dequantize(planner, x)


@lower_function("Tensor.dequantize")
def dequantize(planner: Planner, x: Array) -> Array:
    """A quantized value as float32, contiguous; others pass."""
    quant = x.quant
    if quant is None:
        return x
    y = planner.new(x.shape)
    planes = not x.is_contiguous and x.ndim > 2
    x = planner.image(x) if not x.is_contiguous else x
    planner.call(
        "dequantize_image",
        "x",
        q=x,
        x=y,
        **_sizes(x),
        planes=planes,
        scale=quant.scale,
        zero_point=quant.zero_point,
    )
    return y


# ---- Products ------------------------------------------------------------------------------------------


def _requantize_arguments(
    planner: Planner, layer: Layer, outputs: int, x: Quant, residual: Array | None
) -> dict[str, Any]:
    output, clamp = output_of(layer), layer.config["clamp"]
    if not 0 <= clamp[0] <= clamp[1] <= 255:
        raise FileFormatError(f"{layer.where()}: no output is clamped to {clamp}")

    def make() -> tuple[Array, ...]:
        bias = layer.array("bias", (outputs,)) if layer.has("bias") else None
        found = requantization(x.scale, layer.array("weight_scale", (outputs,)), bias, output.scale)
        return tuple(planner.constant(v) for v in found)

    multiplier, offset = layer.made(f"requantization {x.scale}", make)
    added = None if residual is None else quantized(planner, residual, "residual")
    return {
        "multiplier": multiplier,
        "offset": offset,
        "zero_point": output.zero_point,
        "lower": clamp[0],
        "upper": clamp[1],
        "residual": residual,
        "residual_zero_point": 0 if added is None else added.zero_point,
        "residual_multiplier": 0.0 if added is None else added.scale / output.scale,
    }


def _check_residual(planner: Planner, residual: Array | None, shape: Sequence[int]) -> None:
    if residual is not None and residual.shape != tuple(shape):
        raise InputError(
            f"'{planner.label}': the residual has shape {residual.shape}, but it is added to an output of "
            f"shape {tuple(shape)}"
        )


@lower_layer("conv", "batch_norm")
def _conv(planner: Planner, layer: Layer, x: Array, residual: Array | None = None) -> Array:
    config = layer.config
    kernel, padding = config["kernel_size"], config["padding"]
    quantized(planner, x)
    if layer.kind == "batch_norm" and x.ndim == 2 and len(kernel) == 1:
        return _conv(planner, layer, x.unsqueeze(2)).squeeze([2])
    if x.ndim == len(kernel) + 1:
        added = None if residual is None else residual.unsqueeze(0)
        return _conv(planner, layer, x.unsqueeze(0), added).squeeze([0])
    _check_image(layer, x, len(kernel))
    mode = config["padding_mode"]
    spare = {"reflect": 1, "circular": 0}.get(mode)
    size = conv_size(x.shape[2:], kernel, config["stride"], config["dilation"], padding)
    if size is None or (
        spare is not None and any(max(pair) > n - spare for pair, n in zip(padding, x.shape[2:], strict=True))
    ):
        raise InputError(
            f"{layer.where()}: an input of size {x.shape[2:]} is too small for a kernel of "
            f"{tuple(kernel)} and "
            f"{mode} padding by {padding}"
        )
    spec = conv_integers(
        (config["out_channels"], config["in_channels"], config["groups"]),
        *(kernel, config["stride"], config["dilation"], [before for before, _ in padding]),
        padding_mode=mode,
    )
    return _convolve(planner, layer, x, size, spec, residual)


@lower_layer("conv_transpose")
def _conv_transpose(planner: Planner, layer: Layer, x: Array, output_size: Any = None) -> Array:
    config = layer.config
    kernel, stride = config["kernel_size"], config["stride"]
    quantized(planner, x)
    if x.ndim == len(kernel) + 1:
        return _conv_transpose(planner, layer, x.unsqueeze(0), output_size).squeeze([0])
    _check_image(layer, x, len(kernel))
    geometry = (kernel, stride, config["dilation"], config["padding"])
    smallest = transposed_size(x.shape[2:], *geometry)
    if output_size is None:
        size = [a + b for a, b in zip(smallest, config["output_padding"], strict=True)]
    else:
        size = list(output_size)[-len(kernel) :]
    if any(not max(low, 1) <= n < low + s for low, n, s in zip(smallest, size, stride, strict=True)):
        raise InputError(
            f"{layer.where()}: an input of size {x.shape[2:]} cannot give an output of size {tuple(size)}"
        )
    channels = (config["out_channels"], config["in_channels"], config["groups"])
    return _convolve(planner, layer, x, size, conv_integers(channels, *geometry, transposed=True), None)


def _check_image(layer: Layer, x: Array, axes: int) -> None:
    channels = layer.config["in_channels"]
    if x.ndim != axes + 2 or x.shape[1] != channels or min(x.shape[2:]) < 1:
        raise InputError(
            f"{layer.where()}: input has shape {x.shape}, but (batch, {channels}, *size) or "
            f"({channels}, *size) with {axes} sizes is needed"
        )


def _convolve(
    planner: Planner, layer: Layer, x: Array, size: Sequence[int], spec: list[int], residual: Array | None
) -> Array:
    outputs, inputs, groups = spec[:3]
    y = planner.new_image((x.shape[0], outputs, *size), output_of(layer))
    _check_residual(planner, residual, y.shape)
    quant = quantized(planner, x)
    packed = layer.packed("packed", lambda: pack_static_conv(spec, _weight(layer, spec)))
    lead = (1,) * (5 - x.ndim)
    depth, height, width = (*lead, *x.shape[2:])
    out_depth, out_height, out_width = (*lead, *size)
    pixels = prod(x.shape[2:]) if spec[-2] else prod(size)
    planner.call(
        "conv_static",
        "y",
        work=x.shape[0] * pixels * outputs * (inputs // groups) * prod(spec[3:6]),
        x=planner.image(x),
        batch=x.shape[0],
        channels=x.shape[1],
        depth=depth,
        height=height,
        width=width,
        input_zero_point=quant.zero_point,
        packed=planner.packed(packed),
        out_depth=out_depth,
        out_height=out_height,
        out_width=out_width,
        outputs=outputs,
        **_requantize_arguments(
            planner, layer, outputs, quant, None if residual is None else planner.image(residual)
        ),
        y=y,
    )
    return y


def _weight(layer: Layer, spec: list[int]) -> Any:
    """The plain weight of a convolution whose integers make one."""
    outputs, inputs, groups = spec[:3]
    kernel = tuple(layer.config["kernel_size"])
    sizes_at_least_one = [outputs, inputs, groups, *spec[3:12]]
    if (
        min(sizes_at_least_one) < 1
        or min(spec[12:15]) < 0
        or max(spec) >= 2**31
        or inputs % groups
        or outputs % groups
        or not 1 <= len(kernel) <= 3
        or inputs // groups * prod(kernel) > MAX_K
    ):
        raise FileFormatError(f"{layer.where()}: these are no hyperparameters of a convolution: {spec}")
    return layer.array("weight", (outputs, inputs // groups, *kernel), "int8")


@lower_layer("linear")
def _linear(planner: Planner, layer: Layer, x: Array, residual: Array | None = None) -> Array:
    quant, k, n = quantized(planner, x), layer.count("in_features"), layer.count("out_features")
    if x.ndim == 0 or x.shape[-1] != k:
        raise InputError(f"{layer.where()}: input has shape {x.shape}, but its last dimension must be {k}")
    y = planner.new((*x.shape[:-1], n), "uint8", output_of(layer))
    _check_residual(planner, residual, y.shape)
    packed = layer.packed("packed", lambda: pack_linear_static(layer.array("weight", (n, k), "int8")))
    rows = prod(x.shape[:-1])
    planner.call(
        "linear_static",
        "y",
        work=rows * k * n,
        x=planner.contiguous(x),
        rows=rows,
        k=k,
        input_zero_point=quant.zero_point,
        packed=planner.packed(packed),
        outputs=n,
        **_requantize_arguments(
            planner, layer, n, quant, None if residual is None else planner.contiguous(residual)
        ),
        y=y,
    )
    return y


# ---- Pools ---------------------------------------------------------------------------------------------


def _pool(
    planner: Planner, x: Array, out: Sequence[int], axes: list[int], average: tuple[bool, int] | None
) -> Array:
    """Pool `(N, C, *size)`; `average` has count_include_pad and the divisor's override."""
    quant = quantized(planner, x)
    y = planner.new_image((*x.shape[:2], *out), quant)
    count_padding, divisor = average or (False, 0)
    planner.call(
        "pool",
        "y",
        x=planner.image(x),
        batch=x.shape[0],
        channels=x.shape[1],
        axes=axes,
        average=average is not None,
        count_padding=count_padding,
        divisor_override=divisor,
        zero_point=quant.zero_point if average else 0,
        lower=quant.lower if average else 0,
        upper=quant.upper if average else 255,
        y=y,
    )
    return y


def _windows(axes: int, average: bool) -> Any:
    def lower(
        planner: Planner,
        input: Array,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        *more: Any,
        **named: Any,
    ) -> Array:
        quantized_or_left(input)
        names = ("ceil_mode", "count_include_pad", "divisor_override")
        names = names if average else ("dilation", "ceil_mode", "return_indices")
        given = dict(zip(names, more, strict=False)) | named
        if given.get("return_indices"):
            raise NotLowered("it gives indices")
        if input.ndim == axes + 1:
            whole = lower(planner, input.unsqueeze(0), kernel_size, stride, padding, **given)
            return whole.squeeze([0])
        kernel = per_axis(kernel_size, axes)
        step = kernel if stride is None or stride == [] else per_axis(stride, axes)
        windows = (kernel, step, per_axis(padding, axes), per_axis(given.get("dilation", 1), axes))
        size = input.shape[2:]
        out = pooled_size(size, *windows, given.get("ceil_mode", False))
        averaged = (given.get("count_include_pad", True), given.get("divisor_override") or 0)
        return _pool(planner, input, out, pool_axes(size, out, windows), averaged if average else None)

    return lower


def _adaptive(axes: int, average: bool) -> Any:
    def lower(planner: Planner, input: Array, output_size: Any, return_indices: bool = False) -> Array:
        quantized_or_left(input)
        if return_indices:
            raise NotLowered("it gives indices")
        if input.ndim == axes + 1:
            return lower(planner, input.unsqueeze(0), output_size).squeeze([0])
        out, windows = adaptive_axes(input.shape[2:], per_axis(output_size, axes))
        return _pool(planner, input, out, windows, (False, 0) if average else None)

    return lower


def quantized_or_left(x: Any) -> None:
    """Leave to the host what is done to float values."""
    if not isinstance(x, Array) or x.quant is None:
        raise NotLowered("its input is not quantized")


for _axes in (1, 2, 3):
    lower_function(f"torch.nn.functional.max_pool{_axes}d", f"torch.max_pool{_axes}d")(_windows(_axes, False))
    lower_function(f"torch.nn.functional.avg_pool{_axes}d", f"torch.avg_pool{_axes}d")(_windows(_axes, True))
    lower_function(f"torch.nn.functional.adaptive_avg_pool{_axes}d", f"torch.adaptive_avg_pool{_axes}d")(
        _adaptive(_axes, True)
    )
    lower_function(f"torch.nn.functional.adaptive_max_pool{_axes}d")(_adaptive(_axes, False))


def _pool_layer(axes: int, average: bool) -> Any:
    windows = _windows(axes, average)

    def lower(planner: Planner, layer: Layer, x: Array) -> Array:
        result: Array = windows(planner, x, **layer.config)
        return result

    return lower


def _adaptive_layer(axes: int, average: bool) -> Any:
    adaptive = _adaptive(axes, average)

    def lower(planner: Planner, layer: Layer, x: Array) -> Array:
        result: Array = adaptive(planner, x, **layer.config)
        return result

    return lower


for _axes in (1, 2, 3):
    lower_layer(f"torch.nn.MaxPool{_axes}d")(_pool_layer(_axes, False))
    lower_layer(f"torch.nn.AvgPool{_axes}d")(_pool_layer(_axes, True))
    lower_layer(f"torch.nn.AdaptiveAvgPool{_axes}d")(_adaptive_layer(_axes, True))
    lower_layer(f"torch.nn.AdaptiveMaxPool{_axes}d")(_adaptive_layer(_axes, False))


@lower_function("torch.mean", "Tensor.mean")
def _mean(
    planner: Planner, input: Array, dim: Any = None, keepdim: bool = False, *, dtype: Any = None
) -> Array:
    """The mean over some axes: what is kept as samples and channels, what goes as the pixels."""
    quantized_or_left(input)
    dims = [dim] if isinstance(dim, int) else dim or range(input.ndim)
    reduced = sorted({input.axis(d) for d in dims})
    kept = [a for a in range(input.ndim) if a not in reduced]
    sizes = [input.shape[a] for a in kept]
    count = prod(input.shape[a] for a in reduced)
    rows = sizes[0] if sizes else 1
    channels = input.size // (rows * count) if input.size else 0
    moved = planner.reshape(input.permute([*kept, *reduced]), (rows, channels, count))
    out, windows = adaptive_axes(moved.shape[2:], (1,))
    shape = [1 if a in reduced else n for a, n in enumerate(input.shape)] if keepdim else sizes
    return planner.reshape(_pool(planner, moved, out, windows, (False, 0)), shape)
