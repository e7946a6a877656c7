"""Plans of what only moves values: views, which cost nothing, and what needs a copy. May import planner."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

from intaglio.errors import InputError
from intaglio.runtime.array import Array, contiguous_strides, image_strides
from intaglio.runtime.calls import arrays_in
from intaglio.runtime.graph import Layer, Named
from intaglio.runtime.planner import NotLowered, Planner, lower_function, lower_layer
from intaglio.runtime.quantities import clamp_integer

__all__: list[str] = []


def _sizes(sizes: tuple[Any, ...]) -> list[int]:
    """Sizes given one by one or as a list; the int of a numpy scalar counts as one."""
    listed = sizes[0] if len(sizes) == 1 and isinstance(sizes[0], (list, tuple)) else sizes
    if not all(isinstance(size, int) for size in listed):
        raise NotLowered("its sizes are no integers")
    return list(listed)


def _on_functions(names: str, lowering: Callable[..., Any]) -> None:
    """Register a lowering for the functions of torch and methods of tensors of these names."""
    for name in names.split():
        lower_function(f"torch.{name}", f"Tensor.{name}")(lowering)


@lower_function("attribute.shape")
def _shape(planner: Planner, x: Array) -> tuple[int, ...]:
    return x.shape


@lower_function("attribute.ndim", "Tensor.dim", "Tensor.ndimension")
def _ndim(planner: Planner, x: Array) -> int:
    return x.ndim


@lower_function("attribute.dtype")
def _dtype(planner: Planner, x: Array) -> Named:
    return Named("dtype", "float32" if x.quant is not None else x.dtype)


@lower_function("attribute.device")
def _device(planner: Planner, x: Array) -> Named:
    return Named("device", "cpu")


@lower_function("Tensor.size")
def _size(planner: Planner, x: Array, dim: int | None = None) -> Any:
    return x.shape if dim is None else x.shape[x.axis(dim)]


@lower_function("Tensor.numel", "torch.numel")
def _numel(planner: Planner, x: Array) -> int:
    return x.size


@lower_function("builtins.len")
def _len(planner: Planner, x: Any) -> int:
    return x.shape[0] if isinstance(x, Array) else len(x)


@lower_function("Tensor.view", "Tensor.reshape", "torch.reshape")
def _reshape(planner: Planner, x: Array, *shape: Any, **named: Any) -> Array:
    sizes = _sizes((named["shape"],) if "shape" in named else shape)
    return planner.reshape(x, x.whole_shape(sizes))


@lower_function("Tensor.view_as", "Tensor.reshape_as")
def _reshape_as(planner: Planner, x: Array, other: Array) -> Array:
    return planner.reshape(x, other.shape)


@lower_function("torch.flatten", "Tensor.flatten")
def _flatten(planner: Planner, x: Array, start_dim: int = 0, end_dim: int = -1) -> Array:
    if x.ndim == 0:
        return x.unsqueeze(0)
    first, last = x.axis(start_dim), x.axis(end_dim)
    if first > last:
        raise InputError(f"'{planner.label}': flatten from axis {start_dim} to axis {end_dim}")
    size = 1
    for n in x.shape[first : last + 1]:
        size *= n
    return planner.reshape(x, [*x.shape[:first], size, *x.shape[last + 1 :]])


@lower_layer("torch.nn.Flatten")
def _flatten_layer(planner: Planner, layer: Layer, x: Array) -> Array:
    return _flatten(planner, x, **({"start_dim": 1} | dict(layer.config)))


@lower_function("torch.unflatten", "Tensor.unflatten")
def _unflatten(planner: Planner, x: Array, dim: int, sizes: Sequence[int]) -> Array:
    axis = x.axis(dim)
    inner = list(sizes)
    if -1 in inner:
        known = 1
        for n in inner:
            known *= n if n != -1 else 1
        inner[inner.index(-1)] = x.shape[axis] // max(known, 1)
    return planner.reshape(x, [*x.shape[:axis], *inner, *x.shape[axis + 1 :]])


def _permute(planner: Planner, x: Array, *dims: Any, **named: Any) -> Array:
    return x.permute(_sizes((named["dims"],) if "dims" in named else dims))


def _transpose(planner: Planner, x: Array, dim0: int, dim1: int) -> Array:
    return x.swap(dim0, dim1)


def _movedim(planner: Planner, x: Array, source: Any, destination: Any) -> Array:
    sources = [x.axis(a) for a in ([source] if isinstance(source, int) else source)]
    targets = [x.axis(a) for a in ([destination] if isinstance(destination, int) else destination)]
    rest = iter([a for a in range(x.ndim) if a not in sources])
    placed = dict(zip(targets, sources, strict=True))
    return x.permute([placed[a] if a in placed else next(rest) for a in range(x.ndim)])


def _unsqueeze(planner: Planner, x: Array, dim: int) -> Array:
    return x.unsqueeze(dim)


def _squeeze(planner: Planner, x: Array, dim: Any = None) -> Array:
    return x.squeeze([dim] if isinstance(dim, int) else dim)


def _select(planner: Planner, x: Array, dim: int, index: int) -> Array:
    return x.select(dim, index)


def _narrow(planner: Planner, x: Array, dim: int, start: int, length: int) -> Array:
    size = x.shape[x.axis(dim)]
    first = start + size if start < 0 else start
    if first < 0 or length < 0 or first + length > size:
        raise InputError(f"there is no range of {length} from {start} along axis {dim} of shape {x.shape}")
    return x.slice(dim, slice(first, first + length))


def _unbind(planner: Planner, x: Array, dim: int = 0) -> tuple[Array, ...]:
    return tuple(x.select(dim, i) for i in range(x.shape[x.axis(dim)]))


def _split(planner: Planner, x: Array, split_size: Any, dim: int = 0) -> tuple[Array, ...]:
    length = x.shape[x.axis(dim)]
    if isinstance(split_size, int):
        split_size = [min(split_size, length - i) for i in range(0, max(length, 1), split_size)]
    if sum(split_size) != length:
        raise InputError(f"axis {dim} of shape {x.shape} cannot be split into {list(split_size)}")
    starts = [sum(split_size[:i]) for i in range(len(split_size))]
    return tuple(_narrow(planner, x, dim, at, n) for at, n in zip(starts, split_size, strict=True))


def _chunk(planner: Planner, x: Array, chunks: int, dim: int = 0) -> tuple[Array, ...]:
    return _split(planner, x, max(1, -(-x.shape[x.axis(dim)] // chunks)), dim)


_on_functions("permute", _permute)
_on_functions("transpose swapaxes swapdims", _transpose)
_on_functions("movedim moveaxis", _movedim)
_on_functions("unsqueeze", _unsqueeze)
_on_functions("squeeze", _squeeze)
_on_functions("select", _select)
_on_functions("narrow", _narrow)
_on_functions("unbind", _unbind)
_on_functions("split", _split)
_on_functions("chunk", _chunk)


@lower_function("attribute.T", "Tensor.t", "torch.t")
def _transposed(planner: Planner, x: Array) -> Array:
    return x.permute(range(x.ndim - 1, -1, -1))


@lower_function("attribute.mT")
def _matrix_transposed(planner: Planner, x: Array) -> Array:
    return x.swap(-1, -2)


@lower_function("Tensor.expand")
def _expand(planner: Planner, x: Array, *sizes: Any) -> Array:
    return x.expand(_sizes(sizes))


@lower_function("Tensor.expand_as")
def _expand_as(planner: Planner, x: Array, other: Array) -> Array:
    return x.expand(other.shape)


@lower_function("Tensor.contiguous")
def _contiguous(planner: Planner, x: Array, **named: Any) -> Array:
    if named and named.get("memory_format") != Named("memory_format", "contiguous_format"):
        raise NotLowered("it asks for a memory format")
    # Integers are compared by value alone: kernels lay them out as they need them.
    return x if x.quant is not None else planner.contiguous(x)


@lower_function("Tensor.clone", "torch.clone")
def _clone(planner: Planner, input: Array, **named: Any) -> Array:
    # Of floats a copy, for what follows may be written over it.
    return input if input.quant is not None else planner.copy(input, input.dense_strides())


@lower_function("Tensor.detach", "torch.detach", "Tensor.cpu")
def _same(planner: Planner, x: Array, **named: Any) -> Array:
    return x


@lower_layer(
    *("torch.nn.Identity", "torch.nn.Dropout", "torch.nn.Dropout1d", "torch.nn.Dropout2d"),
    *("torch.nn.Dropout3d", "torch.nn.AlphaDropout", "torch.nn.FeatureAlphaDropout"),
)
def _identity(planner: Planner, layer: Layer, x: Any, *rest: Any, **named: Any) -> Any:
    return x


def _dropout(
    planner: Planner, x: Array, p: float = 0.5, training: bool = True, inplace: bool = False
) -> Array:
    if training:
        raise NotLowered("it drops values")
    return x


for _name in ("dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout"):
    lower_function(f"torch.nn.functional.{_name}", f"torch.{_name}")(_dropout)


@lower_function("intaglio.check_equal")
def _check_equal(planner: Planner, value: Any, traced: Any, what: str) -> None:
    """A decision that tracing took: it must be the same for this call."""
    if isinstance(value, Array) or value != traced:
        found = f"a tensor of shape {value.shape}" if isinstance(value, Array) else repr(value)
        raise InputError(
            f"{what} is {found} in this call, but it was {traced!r} in the example that the model was traced "
            "with, and the graph holds for that alone"
        )


@lower_function("intaglio.check_given")
def _check_given(planner: Planner, value: Any, what: str) -> None:
    if value is None:
        raise InputError(
            f"{what} is None in this call, but it was given in the example that the model was traced with"
        )


@lower_function("intaglio.check_keys")
def _check_keys(planner: Planner, value: Any, traced: tuple[Any, ...], what: str) -> None:
    keys = tuple(value) if isinstance(value, dict) else len(value)
    _check_equal(
        planner, keys, traced if isinstance(value, dict) else traced[0], f"{what}: its keys or length"
    )


@lower_layer("torch.nn.Sequential", "intaglio.nn.FusedModule")
def _sequential(planner: Planner, layer: Layer, x: Any) -> Any:
    for child in planner.children(layer.path):
        x = planner.run_layer(child, (x,), {})
    return x


def _pad(
    planner: Planner, input: Array, pad: Sequence[int], mode: str = "constant", value: float | None = None
) -> Array:
    """Padded with one value: memory filled with it, and the input copied into its middle."""
    quant = input.quant
    if mode != "constant" or len(pad) % 2 or (quant is None and (value or 0.0) != 0.0):
        raise NotLowered(f"its mode is {mode!r}, or it pads floats by another value than 0")
    shape, inside = list(input.shape), input
    for place in range(len(pad) // 2):
        axis = input.ndim - 1 - place
        before, after = pad[2 * place : 2 * place + 2]
        if before < 0 or after < 0:
            inside = inside.slice(axis, slice(max(-before, 0), shape[axis] - max(-after, 0)))
        shape[axis] += before + after
        if shape[axis] < 0:
            raise InputError(
                f"'{planner.label}': padding by {tuple(pad)} leaves nothing of shape {input.shape}"
            )
    like = image_strides if input.is_image and input.ndim > 2 else contiguous_strides
    y = planner.new(shape, input.dtype, quant, like(shape))
    filling = 0 if quant is None else clamp_integer(float(value or 0.0), quant)
    planner.call("fill_bytes", "y", y=y, bytes=y.bytes, value=filling)
    middle = y
    for place in range(len(pad) // 2):
        axis = input.ndim - 1 - place
        start = max(pad[2 * place], 0)
        middle = middle.slice(axis, slice(start, start + inside.shape[axis]))
    planner.copy_into(inside, middle)
    return y


lower_function("torch.nn.functional.pad")(_pad)


@lower_layer("torch.nn.ConstantPad1d", "torch.nn.ConstantPad2d", "torch.nn.ConstantPad3d")
def _constant_pad(planner: Planner, layer: Layer, x: Array) -> Array:
    return _pad(planner, x, layer.config["padding"], "constant", layer.config["value"])


@lower_layer("torch.nn.ZeroPad1d", "torch.nn.ZeroPad2d", "torch.nn.ZeroPad3d")
def _zero_pad(planner: Planner, layer: Layer, x: Array) -> Array:
    return _pad(planner, x, layer.config["padding"])


@lower_function("operator.getitem")
def _getitem(planner: Planner, x: Any, index: Any) -> Any:
    if not isinstance(x, Array):
        return operator.getitem(x, index)
    if arrays_in([index]):
        raise NotLowered("it is indexed by a tensor")
    parts = list(index) if isinstance(index, tuple) else [index]
    known = (int, slice, type(None), type(...))
    if not all(isinstance(part, known) and not isinstance(part, bool) for part in parts):
        raise NotLowered("its index is no number and no slice")
    if ... in parts:
        at = parts.index(...)
        missing = x.ndim - sum(part is not None and part is not ... for part in parts)
        parts[at : at + 1] = [slice(None)] * missing
    axis = 0
    for part in parts:
        if part is None:
            x = x.unsqueeze(axis)
        elif isinstance(part, int):
            x = x.select(axis, part)
            continue
        elif part != slice(None):
            if part.step is not None and part.step < 1:
                raise NotLowered("a slice of it has no positive step")
            x = x.slice(axis, part)
        axis += 1
    return x
