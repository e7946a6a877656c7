"""Plans of arithmetic between quantized values: sums, products, tables, clamps, joins, normalization.

The calls are those that the quantized modules make, so that the results are equal bit for bit. May import
planner, images, quantities and errors.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

from intaglio import _core
from intaglio.errors import FileFormatError, InputError
from intaglio.runtime.array import Array, Quant, broadcast_shapes, contiguous_strides, image_strides
from intaglio.runtime.graph import Layer
from intaglio.runtime.images import output_of, quantized, quantized_or_left
from intaglio.runtime.planner import NotLowered, Planner, lower_function, lower_layer
from intaglio.runtime.quantities import clamp_integer, requantization_table

__all__: list[str] = []

_ADD, _MUL = 0, 1
_NEITHER, _A, _B = 0, 1, 2
_MOST_STEPS = 2**40

_ZERO_TO_ONE = Quant(float(np.float32(1 / 256)), 0)
_MINUS_ONE_TO_ONE = Quant(1 / 128, 128)


# ---- Tables --------------------------------------------------------------------------------------------


def look_up(planner: Planner, x: Array, table: Array, quant: Quant) -> Array:
    """`table[x]` with these parameters, in the layout of `x`."""
    x = planner.dense(x)
    y = planner.new(x.shape, "uint8", quant, x.strides)
    planner.call(
        "look_up_bytes",
        "y",
        x=x,
        count=x.size,
        table=table,
        y=y,
        permutes_bytes=_core.cpu_permutes_bytes(),
    )
    return y


def _function(planner: Planner, name: str, arguments: dict[str, Any], x: Array, output: Quant) -> Array:
    """A function of one variable, by the table that the host makes of it."""
    quant = quantized(planner, x)
    return look_up(planner, x, planner.constant(planner.host.table(name, arguments, quant, output)), output)


@lower_layer("activation")
def _activation(planner: Planner, layer: Layer, x: Array) -> Array:
    name, arguments = layer.config["name"], layer.config["arguments"]
    return _function(planner, name, dict(arguments), x, output_of(layer))


def _fixed_range(name: str, quant: Quant, *functions: str) -> None:
    @lower_function(*functions)
    def lower(planner: Planner, input: Array, **named: Any) -> Array:
        quantized_or_left(input)
        return _function(planner, name, {}, input, quant)


_fixed_range("Sigmoid", _ZERO_TO_ONE, "torch.nn.functional.sigmoid", "torch.sigmoid", "Tensor.sigmoid")
_fixed_range("Hardsigmoid", _ZERO_TO_ONE, "torch.nn.functional.hardsigmoid")
_fixed_range("Tanh", _MINUS_ONE_TO_ONE, "torch.nn.functional.tanh", "torch.tanh", "Tensor.tanh")


def clamp(planner: Planner, x: Array, low: float | None, high: float | None) -> Array:
    """A quantized value between two numbers: its integers between theirs."""
    quant = x.quant
    if quant is None or not all(end is None or isinstance(end, (int, float)) for end in (low, high)):
        raise NotLowered("its input is not quantized")
    lower = 0 if low is None else clamp_integer(low, quant)
    upper = 255 if high is None else clamp_integer(high, quant)
    if (lower, upper) == (0, 255) and low is None and high is None:
        return x
    table = np.minimum(np.maximum(np.arange(256), lower), upper).astype(np.uint8)
    return look_up(planner, x, planner.constant(table), quant)


@lower_function("torch.nn.functional.relu", "torch.relu", "Tensor.relu")
def _relu(planner: Planner, input: Array, inplace: bool = False) -> Array:
    return clamp(planner, input, 0.0, None)


@lower_function("torch.nn.functional.relu6")
def _relu6(planner: Planner, input: Array, inplace: bool = False) -> Array:
    return clamp(planner, input, 0.0, 6.0)


@lower_function("torch.nn.functional.hardtanh")
def _hardtanh(
    planner: Planner, input: Array, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False
) -> Array:
    return clamp(planner, input, min_val, max_val)


@lower_function("torch.clamp", "torch.clip", "Tensor.clamp", "Tensor.clip")
def _clamp(planner: Planner, input: Array, min: Any = None, max: Any = None) -> Array:
    return clamp(planner, input, min, max)


@lower_function("torch.clamp_min", "Tensor.clamp_min")
def _clamp_min(planner: Planner, input: Array, min: float) -> Array:
    return clamp(planner, input, min, None)


@lower_function("torch.clamp_max", "Tensor.clamp_max")
def _clamp_max(planner: Planner, input: Array, max: float) -> Array:
    return clamp(planner, input, None, max)


@lower_layer("torch.nn.ReLU")
def _relu_layer(planner: Planner, layer: Layer, x: Array) -> Array:
    return clamp(planner, x, 0.0, None)


@lower_layer("torch.nn.ReLU6")
def _relu6_layer(planner: Planner, layer: Layer, x: Array) -> Array:
    return clamp(planner, x, 0.0, 6.0)


@lower_layer("torch.nn.Hardtanh")
def _hardtanh_layer(planner: Planner, layer: Layer, x: Array) -> Array:
    return clamp(planner, x, layer.config.get("min_val", -1.0), layer.config.get("max_val", 1.0))


# ---- FloatFunctional -----------------------------------------------------------------------------------


@lower_layer("functional")
def _functional(planner: Planner, layer: Layer, operation: str, x: Any, y: Any = None, dim: Any = 0) -> Array:
    if operation in ("add", "mul"):
        return _combine(planner, _ADD if operation == "add" else _MUL, x, y, output_of(layer))
    if operation == "add_relu":
        output = output_of(layer)
        return _combine(planner, _ADD, x, y, output, max(output.lower, output.zero_point))
    if operation == "cat":
        return _concatenate(planner, x, dim if y is None else y, output_of(layer))
    if operation == "matmul":
        return _matmul(planner, x, y, output_of(layer))
    if operation == "add_scalar":
        return _add_scalar(planner, x, y)
    if operation == "mul_scalar":
        return _mul_scalar(planner, x, y)
    raise InputError(f"{layer.where()} has no operation {operation!r}")


def _combine(planner: Planner, op: int, a: Array, b: Array, output: Quant, lower: int | None = None) -> Array:
    """The sum or the product, broadcast."""
    x, y = quantized(planner, a, "operand 1"), quantized(planner, b, "operand 2")
    shape = broadcast_shapes(a.shape, b.shape)
    groups, rows, cols, single, shared = 1, 1, 1, _NEITHER, False
    if a.shape == b.shape:
        a = planner.image(a) if not a.lies(b.strides) and b.is_image and a.ndim > 2 else planner.dense(a)
        b = b if b.lies(a.strides) else planner.copy(b, a.strides)
        rows, like = a.size, a
    else:
        if a.shape != shape and b.shape != shape:
            a = planner.copy(
                a.expand(shape), image_strides(shape) if a.is_image else contiguous_strides(shape)
            )
        whole, part = (a, b) if a.shape == shape else (b, a)
        innermost = whole.ndim > 2 and whole.is_image and not whole.is_contiguous
        whole = planner.image(whole) if innermost else planner.contiguous(whole)
        part = part.view(
            [*[1] * (len(shape) - part.ndim), *part.shape], [*[0] * (len(shape) - part.ndim), *part.strides]
        )
        groups, rows, cols, shared = _repeats(shape, part.shape, innermost)
        single = _B if a.shape == shape else _A
        if cols:
            part = planner.contiguous(part)
        else:
            part = planner.copy(part.expand(shape), whole.strides)
            groups, rows, cols, single = 1, whole.size, 1, _NEITHER
        a, b = (whole, part) if a.shape == shape else (part, whole)
        like = whole
    result = planner.new(shape, "uint8", output, like.strides)
    planner.call(
        "combine_pairs",
        "y",
        op=op,
        a=a,
        b=b,
        groups=groups,
        rows=rows,
        cols=cols,
        single=single,
        shared=shared,
        scale_a=x.scale,
        zero_point_a=x.zero_point,
        scale_b=y.scale,
        zero_point_b=y.zero_point,
        scale=output.scale,
        zero_point=output.zero_point,
        lower=output.lower if lower is None else lower,
        upper=output.upper,
        y=result,
    )
    return result


def _repeats(shape: Sequence[int], part: Sequence[int], innermost: bool) -> tuple[int, int, int, bool]:
    """Groups, rows and columns where `part` is one row of each group, and whether all groups share it.

    Columns are 0 where it is not.
    """
    if innermost:
        if part[1] != shape[1] or any(n != 1 for n in part[2:]) or part[0] not in (1, shape[0]):
            return 0, 0, 0, False
        return shape[0], prod(shape[2:]), shape[1], part[0] == 1
    lead = next((i for i, n in enumerate(part) if n != 1), len(part))
    if list(part[lead:]) != list(shape[lead:]):
        return 0, 0, 0, False
    return 1, prod(shape[:lead]), prod(shape[lead:]), True


def _add_scalar(planner: Planner, x: Array, value: float) -> Array:
    """By other parameters: the integers stay, unless the zero point would leave their limits."""
    q = quantized(planner, x)
    if not abs(value) < q.scale * _MOST_STEPS:
        raise InputError(f"'{planner.label}': add_scalar cannot add {value} to a value of scale {q.scale}")
    moved = q.zero_point - round(float(value) / q.scale)
    if q.lower <= moved <= q.upper:
        return x.as_quant(Quant(q.scale, moved, q.lower, q.upper))
    reach = q.upper - moved if moved < q.lower else moved - q.lower
    wide = float(np.float32(reach / (q.upper - q.lower) * q.scale))
    output = Quant(wide, q.lower if moved < q.lower else q.upper, q.lower, q.upper)
    table = requantization_table(Quant(q.scale, moved, q.lower, q.upper), output)
    return look_up(planner, x, planner.constant(table), output)


def _mul_scalar(planner: Planner, x: Array, value: float) -> Array:
    """By other parameters: the scale is multiplied; a negative number mirrors the integers, zero clears."""
    q = quantized(planner, x)
    product = float(np.float32(q.scale * abs(float(value))))
    if value > 0 and product > 0.0:
        return x.as_quant(Quant(product, q.zero_point, q.lower, q.upper))
    every = np.clip(np.arange(256), q.lower, q.upper)
    if not product > 0.0:
        table, output = np.full(256, q.lower), Quant(1.0, q.lower, q.lower, q.upper)
    else:
        table = q.lower + q.upper - every
        output = Quant(product, q.lower + q.upper - q.zero_point, q.lower, q.upper)
    return look_up(planner, x, planner.constant(table.astype(np.uint8)), output)


# ---- Joins ---------------------------------------------------------------------------------------------


def _concatenate(planner: Planner, parts: Sequence[Array], dim: int, output: Quant) -> Array:
    """The parts along an axis, each requantized from its own parameters."""
    quants = [quantized(planner, part, f"part {i}") for i, part in enumerate(parts)]
    first = parts[0]
    axis = first.axis(dim)
    shape = list(first.shape)
    shape[axis] = sum(part.shape[axis] if part.ndim == first.ndim else 0 for part in parts)
    for part in parts:
        if [*part.shape[:axis], *part.shape[axis + 1 :]] != [*shape[:axis], *shape[axis + 1 :]]:
            shapes = ", ".join(str(p.shape) for p in parts)
            raise InputError(f"'{planner.label}': shapes {shapes} cannot be joined along axis {dim}")
    innermost = first.ndim == 4 and all(part.is_image for part in parts)
    innermost = innermost or (first.ndim > 2 and not all(part.is_contiguous for part in parts))
    parts = [planner.image(part) if innermost else planner.contiguous(part) for part in parts]
    y = planner.new_image(shape, output) if innermost else planner.new(shape, "uint8", output)
    order = [0, *range(2, len(shape)), 1] if innermost else list(range(len(shape)))
    at = order.index(axis)
    inner = prod(shape[a] for a in order[at + 1 :])
    tables = [
        None
        if (q.scale, q.zero_point, output.lower, output.upper) == (output.scale, output.zero_point, 0, 255)
        else planner.constant(requantization_table(q, output))
        for q in quants
    ]
    planner.call(
        "concatenate_rows",
        "y",
        parts=parts,
        tables=tables,
        cols=[part.shape[axis] * inner for part in parts],
        rows=prod(shape[a] for a in order[:at]),
        y=y,
    )
    return y


@lower_function("torch.cat", "torch.concat", "torch.concatenate")
def _cat(planner: Planner, tensors: Sequence[Array], dim: int = 0, *, axis: int | None = None) -> Array:
    for x in tensors:
        quantized_or_left(x)
    quants = {x.quant for x in tensors}
    if len(quants) != 1:
        raise InputError(
            f"'{planner.label}': cat needs equal scales and zero points: use FloatFunctional.cat"
        )
    (quant,) = quants
    assert quant is not None
    whole = _concatenate(
        planner, tensors, dim if axis is None else axis, Quant(quant.scale, quant.zero_point)
    )
    return whole.as_quant(quant)


# ---- Matrices, normalization, softmax ------------------------------------------------------------------


def _matmul(planner: Planner, a: Array, b: Array, output: Quant) -> Array:
    x, y = quantized(planner, a, "operand 1"), quantized(planner, b, "operand 2")
    if a.ndim < 2 or b.ndim < 2 or a.shape[-1] != b.shape[-2]:
        raise NotLowered(f"it multiplies {a.shape} by {b.shape}")
    batch = broadcast_shapes(a.shape[:-2], b.shape[:-2])
    a = a if a.strides[-1] == 1 else planner.contiguous(a)
    b = b if 1 in b.strides[-2:] else planner.contiguous(b)
    (m, k), n = a.shape[-2:], b.shape[-1]
    result = planner.new((*batch, m, n), "uint8", output)
    k_stride, n_stride = b.strides[-2:]
    planner.call(
        "matmul_static",
        "c",
        work=prod(batch) * m * n * k,
        a=a,
        b=b,
        batch=list(batch),
        a_batch_strides=list(a.expand((*batch, m, k)).strides[:-2]),
        b_batch_strides=list(b.expand((*batch, k, n)).strides[:-2]),
        m=m,
        k=k,
        n=n,
        a_stride=a.strides[-2],
        k_stride=k_stride,
        n_stride=n_stride,
        scale_a=x.scale,
        zero_point_a=x.zero_point,
        scale_b=y.scale,
        zero_point_b=y.zero_point,
        scale=output.scale,
        zero_point=output.zero_point,
        lower=output.lower,
        upper=output.upper,
        c=result,
    )
    return result


def _flat(layer: Layer, name: str, count: int) -> Any:
    """A tensor of `count` float32 values in a row."""
    found = layer.array(name)
    if found.size != count or found.dtype != np.float32:
        raise FileFormatError(f"{layer.where()}: {name} must be {count} float32 values, not {found.shape}")
    return found.reshape(-1)


def _affine(planner: Planner, layer: Layer, count: int, output: Quant) -> dict[str, Any]:
    """Multiplier and offset of a normalization, a value for each of `count`."""

    def make() -> tuple[Array, Array]:
        weight = _flat(layer, "weight", count) if layer.has("weight") else np.ones(count, np.float32)
        bias = _flat(layer, "bias", count) if layer.has("bias") else np.zeros(count, np.float32)
        largest = np.finfo(np.float32).max
        parts = (np.clip(v.astype(np.float64) / output.scale, -largest, largest) for v in (weight, bias))
        multiplier, offset = (planner.constant(v.astype(np.float32)) for v in parts)
        return multiplier, offset

    multiplier, offset = layer.made("affine", make)
    return {
        "multiplier": multiplier,
        "offset": offset,
        "zero_point": output.zero_point,
        "lower": output.lower,
        "upper": output.upper,
    }


@lower_layer("layer_norm")
def _layer_norm(planner: Planner, layer: Layer, x: Array) -> Array:
    quant, normalized = quantized(planner, x), tuple(layer.config["normalized_shape"])
    cols, output = prod(normalized), output_of(layer)
    if not normalized or not all(type(n) is int and n > 0 for n in normalized):
        raise FileFormatError(f"{layer.where()}: no shape is {normalized}")
    if x.shape[x.ndim - len(normalized) :] != normalized:
        raise InputError(f"{layer.where()}: input has shape {x.shape}, but it must end in {normalized}")
    y = planner.new(x.shape, "uint8", output)
    planner.call(
        "normalize_rows",
        "y",
        x=planner.contiguous(x),
        rows=x.size // cols,
        cols=cols,
        epsilon=layer.config["epsilon"] / quant.scale**2,
        **_affine(planner, layer, cols, output),
        y=y,
    )
    return y


@lower_layer("group_norm")
def _group_norm(planner: Planner, layer: Layer, x: Array) -> Array:
    quant, output = quantized(planner, x), output_of(layer)
    channels, groups = layer.count("channels"), layer.count("groups")
    if channels % groups:
        raise FileFormatError(f"{layer.where()}: {channels} channels are no {groups} groups")
    dims = layer.config.get("dims")
    if dims is not None and x.ndim == dims + 1:
        return _group_norm(planner, layer, x.unsqueeze(0)).squeeze([0])
    if x.ndim < 2 or x.shape[1] != channels:
        raise InputError(
            f"{layer.where()}: input has shape {x.shape}, but (batch, {channels}, ...) is needed"
        )
    y = planner.new_image(x.shape, output)
    planner.call(
        "normalize_groups",
        "y",
        x=planner.image(x),
        batch=x.shape[0],
        pixels=prod(x.shape[2:]),
        channels=channels,
        groups=groups,
        epsilon=layer.config["epsilon"] / quant.scale**2,
        **_affine(planner, layer, channels, output),
        y=y,
    )
    return y
