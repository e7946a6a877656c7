"""`Array`: what a plan knows of a tensor before there is one: shape, strides, type, and where it will lie.

Views share their buffer, as torch's do, and cost nothing. Sizes and strides count items. May import errors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any, Literal

from intaglio.errors import InputError

__all__ = [
    "ITEM_BYTES",
    "Array",
    "Buffer",
    "Quant",
    "broadcast_shapes",
    "contiguous_strides",
    "image_strides",
]

ITEM_BYTES = {
    "float32": 4,
    "float64": 8,
    "float16": 2,
    "bfloat16": 2,
    "uint8": 1,
    "int8": 1,
    "int16": 2,
    "int32": 4,
    "int64": 8,
    "bool": 1,
}

Home = Literal["arena", "input", "output", "constant", "host"]


@dataclass(eq=False)
class Buffer:
    """Memory that arrays lie in.

    home: whose it is: the arena's, the caller's (an input or an output), a constant's, or that of a call that
        the plan does not make itself.
    bytes: its size.
    number: of an input, output or host value; of a constant, its address.
    keep: what owns a constant.
    """

    home: Home
    bytes: int
    number: int = 0
    keep: Any = None


@dataclass(frozen=True)
class Quant:
    """The parameters of uint8 values: what a `QTensor` has beside its integers."""

    scale: float
    zero_point: int
    lower: int = 0
    upper: int = 255


def contiguous_strides(shape: Sequence[int]) -> tuple[int, ...]:
    """Strides of dense memory whose last axis is innermost."""
    strides, step = [], 1
    for size in reversed(shape):
        strides.append(step)
        step *= max(size, 1)
    return tuple(reversed(strides))


def image_strides(shape: Sequence[int]) -> tuple[int, ...]:
    """Strides of dense memory whose axis 1, the channels, is innermost; up to two axes, contiguous ones."""
    if len(shape) < 3:
        return contiguous_strides(shape)
    moved = contiguous_strides([shape[0], *shape[2:], shape[1]])
    return (moved[0], moved[-1], *moved[1:-1])


@dataclass(frozen=True, eq=False)
class Array:
    """A tensor to be; `data` are its values where it is a constant, a numpy array of its shape."""

    buffer: Buffer
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: str = "float32"
    quant: Quant | None = None
    offset: int = 0
    data: Any = field(default=None, repr=False)

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of values."""
        return prod(self.shape)

    @property
    def item_bytes(self) -> int:
        """Bytes of a value; `InputError` for types that plans cannot copy."""
        if self.dtype not in ITEM_BYTES:
            raise InputError(f"a program gives no {self.dtype} tensors: convert it to float32 before")
        return ITEM_BYTES[self.dtype]

    @property
    def bytes(self) -> int:
        """Bytes of all values."""
        return self.size * self.item_bytes

    @property
    def is_constant(self) -> bool:
        """Whether its values are known."""
        return self.buffer.home == "constant"

    def lies(self, strides: Sequence[int]) -> bool:
        """Whether it has these strides, where they matter: along axes of more than one value."""
        return self.size == 0 or all(
            size == 1 or own == wanted
            for size, own, wanted in zip(self.shape, self.strides, strides, strict=True)
        )

    @property
    def is_contiguous(self) -> bool:
        """Whether it is dense, its last axis innermost."""
        return self.lies(contiguous_strides(self.shape))

    @property
    def is_image(self) -> bool:
        """Whether it is dense, its axis 1 innermost."""
        return self.lies(image_strides(self.shape))

    @property
    def is_dense(self) -> bool:
        """Whether it fills a piece of memory, in whatever order."""
        step = 1
        for stride, size in sorted((s, n) for s, n in zip(self.strides, self.shape, strict=True) if n != 1):
            if stride != step:
                return False
            step *= size
        return True

    def dense_strides(self) -> tuple[int, ...]:
        """Strides of a dense array whose axes lie in the order in which this one's do."""
        if self.is_dense:
            return self.strides
        order = sorted(range(self.ndim), key=lambda a: (-self.strides[a], a))
        dense = contiguous_strides([self.shape[a] for a in order])
        return tuple(dense[order.index(a)] for a in range(self.ndim))

    def as_quant(self, quant: Quant | None) -> Array:
        """The same integers with other parameters."""
        return replace(self, quant=quant)

    # ---- Views -------------------------------------------------------------------------------------------

    def view(self, shape: Sequence[int], strides: Sequence[int], offset: int = 0) -> Array:
        """Other axes over the same memory; `offset` is from the first value."""
        data = self.data
        if data is not None:
            from numpy.lib.stride_tricks import as_strided

            flat = self.buffer.keep.reshape(-1)[self.offset + offset :]  # the whole constant, contiguous
            data = as_strided(flat, shape, [s * data.itemsize for s in strides])
        return replace(
            self, shape=tuple(shape), strides=tuple(strides), offset=self.offset + offset, data=data
        )

    def axis(self, axis: int, extra: int = 0) -> int:
        """`axis` counted from the front; `InputError` if there is none such."""
        dims = self.ndim + extra
        if not -dims <= axis < max(dims, 1):
            raise InputError(f"there is no axis {axis} in a tensor of shape {self.shape}")
        return axis % dims if dims else 0

    def permute(self, order: Sequence[int]) -> Array:
        """Its axes in another order."""
        axes = [self.axis(a) for a in order]
        if sorted(axes) != list(range(self.ndim)):
            raise InputError(f"permute: {tuple(order)} is no order of the axes of shape {self.shape}")
        return self.view([self.shape[a] for a in axes], [self.strides[a] for a in axes])

    def swap(self, first: int, second: int) -> Array:
        """Two axes exchanged."""
        order = list(range(self.ndim))
        a, b = self.axis(first), self.axis(second)
        order[a], order[b] = order[b], order[a]
        return self.permute(order)

    def expand(self, shape: Sequence[int]) -> Array:
        """Broadcast to `shape`; -1 keeps a size."""
        lead = len(shape) - self.ndim
        if lead < 0:
            raise InputError(f"a tensor of shape {self.shape} cannot be expanded to {tuple(shape)}")
        sizes, strides = [], []
        for a, wanted in enumerate(shape):
            own = self.shape[a - lead] if a >= lead else 1
            wanted = own if wanted == -1 and a >= lead else wanted
            if wanted < 0 or own not in (1, wanted):
                raise InputError(f"a tensor of shape {self.shape} cannot be expanded to {tuple(shape)}")
            sizes.append(wanted)
            strides.append(self.strides[a - lead] if a >= lead and own == wanted else 0)
        return self.view(sizes, strides)

    def select(self, axis: int, index: int) -> Array:
        """One index along an axis, which goes."""
        a = self.axis(axis)
        if not -self.shape[a] <= index < self.shape[a]:
            raise InputError(f"index {index} is out of range for axis {a} of a tensor of shape {self.shape}")
        shape, strides = list(self.shape), list(self.strides)
        step = strides.pop(a)
        size = shape.pop(a)
        return self.view(shape, strides, index % size * step)

    def slice(self, axis: int, part: slice) -> Array:
        """A range along an axis, of positive step."""
        a = self.axis(axis)
        start, stop, step = part.indices(self.shape[a])
        if step < 1:
            raise InputError(f"a slice of a tensor cannot have step {part.step}")
        shape, strides = list(self.shape), list(self.strides)
        shape[a] = max(0, -(-(stop - start) // step))
        strides[a] *= step if shape[a] > 1 else 1  # a huge step would overflow where nothing follows
        return self.view(shape, strides, start * self.strides[a] if shape[a] else 0)

    def unsqueeze(self, axis: int) -> Array:
        """One more axis, of size 1."""
        a = self.axis(axis, 1)
        step = self.shape[a] * self.strides[a] if a < self.ndim else 1
        return self.view(
            [*self.shape[:a], 1, *self.shape[a:]], [*self.strides[:a], max(step, 1), *self.strides[a:]]
        )

    def squeeze(self, axes: Sequence[int] | None = None) -> Array:
        """Without axes of size 1: all of them, or those of `axes`."""
        gone = {self.axis(a) for a in (range(self.ndim) if axes is None else axes)}
        kept = [a for a in range(self.ndim) if a not in gone or self.shape[a] != 1]
        return self.view([self.shape[a] for a in kept], [self.strides[a] for a in kept])

    def whole_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """`shape` with its -1 filled in; `InputError` where it has another number of values."""
        known = prod(size for size in shape if size != -1)
        if list(shape).count(-1) == 1 and known and self.size % known == 0:
            shape = [self.size // known if size == -1 else size for size in shape]
        if min(shape, default=0) < 0 or prod(shape) != self.size:
            raise InputError(f"a tensor of shape {self.shape} cannot have the shape {tuple(shape)}")
        return tuple(shape)

    def reshaped(self, shape: Sequence[int]) -> Array | None:
        """The values in their order under another shape, or None where no view can be that."""
        wanted = self.whole_shape(shape)
        if self.size == 0:
            return self.view(wanted, contiguous_strides(wanted))
        strides = [1] * len(wanted)
        axes = [(n, step) for n, step in zip(self.shape, self.strides, strict=True) if n != 1]
        b = len(wanted) - 1
        # Neighbouring axes that are one run in memory, innermost first, are dealt out to the new axes.
        while axes:
            run, step = axes.pop()
            while axes and axes[-1][1] == step * run:
                run *= axes.pop()[0]
            filled = 1
            while b >= 0 and (filled < run or wanted[b] == 1):
                strides[b] = step * filled
                filled *= wanted[b]
                b -= 1
            if filled != run:
                return None
        return self.view(wanted, strides)


def broadcast_shapes(*shapes: Sequence[int]) -> tuple[int, ...]:
    """The shape to which all of `shapes` are broadcast; `InputError` if there is none."""
    dims = max(map(len, shapes), default=0)
    found = []
    for a in range(dims):
        sizes = {shape[a - dims + len(shape)] for shape in shapes if a - dims + len(shape) >= 0} - {1}
        if len(sizes) > 1:
            listed = " and ".join(str(tuple(shape)) for shape in shapes)
            raise InputError(f"tensors of shapes {listed} cannot be broadcast to each other")
        found.append(sizes.pop() if sizes else 1)
    return tuple(found)
