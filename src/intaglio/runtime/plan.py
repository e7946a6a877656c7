"""`Plan`: the calls that a planner wrote down, laid out in memory and handed to C++.

What C++ runs in one go is a segment; between segments stand the host's calls, if there are any. May import
memory, planner, array and _core.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from intaglio import _core
from intaglio.errors import InputError
from intaglio.runtime.array import Array, Buffer, contiguous_strides
from intaglio.runtime.calls import Call, HostCall
from intaglio.runtime.graph import make_objects, map_values
from intaglio.runtime.memory import Arena, lay_out
from intaglio.runtime.planner import Planner
from intaglio.runtime.rows import fuse_rows
from intaglio.runtime.stem import fuse_stems

__all__ = ["KEPT_ARENAS", "Plan", "input_array", "memory_at"]

KEPT_ARENAS = 4
"""Arenas of finished calls that are kept for the next ones; more calls at once have theirs for as long."""

_OFFSET_BITS = 48
_ARENA, _FIRST = 1, 2
"""Base numbers (csrc/program/plan.h): the arena, and the first of those that a call brings."""


@dataclass(frozen=True)
class _Output:
    """Stands for output `number` in what a plan gives."""

    number: int


class Plan:
    """A program for inputs of one shape.

    inputs: the arrays that stand for the tensors of a call, in order.
    outputs: those that it gives.
    arena: where everything between lies.
    """

    def __init__(self, planner: Planner, inputs: Sequence[Array], result: Any) -> None:
        self.inputs = tuple(inputs)
        self.outputs: list[Array] = []
        self._host = planner.host
        self._template = map_values(result, lambda leaf: self._give(planner, leaf))
        kept = {id(array.buffer) for array in self.outputs}
        self.calls = fuse_stems(fuse_rows(planner.calls, kept), kept)
        self.arena: Arena = lay_out(self.calls)
        self.left_to_host = dict(planner.left_to_host)
        self.core = _core.Plan(self.arena.bytes, KEPT_ARENAS)
        self._keep: list[Any] = []
        self._segments: list[tuple[int, int] | HostCall] = []
        self._number_buffers()
        self._add_calls()
        self.is_one_call = len(self._segments) <= 1 and not self.left_to_host

    # ---- Building ----------------------------------------------------------------------------------------

    def _give(self, planner: Planner, leaf: Any) -> Any:
        """Make `leaf` an output: in the caller's memory from the start where that can be."""
        if not isinstance(leaf, Array):
            return leaf
        buffer = leaf.buffer
        is_own = buffer.home == "arena" and leaf.bytes == buffer.bytes and leaf.offset == 0 and leaf.is_dense
        if not is_own or any(leaf.buffer is other.buffer for other in self.outputs):
            leaf = planner.copy(leaf, leaf.dense_strides() if leaf.size else contiguous_strides(leaf.shape))
            buffer = leaf.buffer
        buffer.home = "output"
        self.outputs.append(leaf)
        return _Output(len(self.outputs) - 1)

    def _number_buffers(self) -> None:
        for number, array in enumerate(self.inputs):
            array.buffer.number = number
        for number, array in enumerate(self.outputs, len(self.inputs)):
            array.buffer.number = number
        number = len(self.inputs) + len(self.outputs)
        for call in self.calls:
            for array in call.results if isinstance(call, HostCall) else ():
                array.buffer.number = number
                number += 1

    def _add_calls(self) -> None:
        first = 0
        for call in self.calls:
            if isinstance(call, HostCall):
                if len(self.core) > first:
                    self._segments.append((first, len(self.core)))
                first = len(self.core)
                self._segments.append(call)
            else:
                self._add(call)
        if len(self.core) > first:
            self._segments.append((first, len(self.core)))

    def _add(self, call: Call) -> None:
        arguments = {name: self._argument(value) for name, value in call.arguments.items()}
        getattr(self.core, call.driver)(call.label, **arguments)

    def _argument(self, value: Any) -> Any:
        if isinstance(value, Array):
            return self.place(value)
        if isinstance(value, (list, tuple)):
            return type(value)(self._argument(item) for item in value)
        return 0 if value is None else value

    def place(self, array: Array) -> int:
        """The place of an array, as the core has it."""
        buffer, offset = array.buffer, array.offset * array.item_bytes
        if buffer.home == "constant":
            self._keep.append(buffer.keep)
            return buffer.number + offset
        if buffer.home == "arena":
            return (_ARENA << _OFFSET_BITS) + self.arena.offset_of(buffer) + offset
        return ((_FIRST + buffer.number) << _OFFSET_BITS) + offset

    # ---- Running -----------------------------------------------------------------------------------------

    def run(self, addresses: list[int], threads: int) -> None:
        """Run everything, of tensors at these addresses: inputs, then outputs."""
        if self.is_one_call:
            self.core.run(addresses, threads)
        else:
            self._run_segments(addresses, threads, self.core.run_part)

    def time(self, addresses: list[int], threads: int) -> list[float]:
        """The same, and the seconds that each native step took."""
        seconds: list[float] = []

        def run(*segment: Any) -> None:
            seconds.extend(self.core.time_part(*segment))

        self._run_segments(addresses, threads, run)
        return seconds

    def _run_segments(self, addresses: list[int], threads: int, run: Callable[..., Any]) -> None:
        bases = list(addresses)
        values: dict[int, Any] = {}
        arena = self.core.take_arena()
        try:
            for segment in self._segments:
                if isinstance(segment, HostCall):
                    bases += self._call_host(segment, arena, bases, values)
                else:
                    run(*segment, arena, bases, threads)
        finally:
            self.core.give_arena(arena)

    def _call_host(self, call: HostCall, arena: int, bases: list[int], values: dict[int, Any]) -> list[int]:
        """Make a host's call; the addresses of its results."""

        def value_of(leaf: Any) -> Any:
            if not isinstance(leaf, Array):
                return self._host.constant(leaf)
            known = values.get(id(leaf))
            return self._host.wrap(self._memory(leaf, arena, bases), leaf) if known is None else known

        found = call.function(*map_values(call.args, value_of), **map_values(call.kwargs, value_of))
        results: list[tuple[Any, np.ndarray[Any, Any]]] = []
        others: list[Any] = []

        def receive(leaf: Any) -> None:
            unwrapped = self._host.unwrap(leaf)
            if unwrapped is None:
                others.append(leaf)
                return
            data = unwrapped[0]
            if len(results) in call.copied and len(results) < len(call.results):
                data = data.copy("K")
                leaf = self._host.wrap(data, replace(call.results[len(results)], quant=unwrapped[1]))
            results.append((leaf, data))

        map_values(found, receive)
        if repr(others) != repr(call.others):
            raise InputError(
                f"{call.label} gave {others}, but {call.others} when it was planned: what "
                "depends on values has no place in a program"
            )
        if len(results) != len(call.results):
            raise InputError(
                f"{call.label} gave {len(results)} tensors, {len(call.results)} when it was planned"
            )
        for array, (value, data) in zip(call.results, results, strict=True):
            strides = tuple(s // data.itemsize for s in data.strides)
            if data.shape != array.shape or not array.lies(strides) or data.dtype.name != array.dtype:
                raise InputError(
                    f"{call.label} gave a {data.dtype.name} tensor of shape {data.shape}, but of shape "
                    f"{array.shape} when it was planned: what depends on values has no place in a program"
                )
            values[id(array)] = value
        return [data.ctypes.data for _, data in results]

    def _memory(self, array: Array, arena: int, bases: list[int]) -> np.ndarray[Any, Any]:
        """The memory of an array as numpy sees it."""
        if array.data is not None:
            return array.data  # type: ignore[no-any-return]
        buffer = array.buffer
        begin = arena + self.arena.offset_of(buffer) if buffer.home == "arena" else bases[buffer.number]
        return memory_at(begin, array)

    def result(self, outputs: Sequence[Any]) -> Any:
        """What the model gives, of the tensors that were filled."""
        if type(self._template) is _Output:
            return outputs[self._template.number]
        given = map_values(
            self._template, lambda leaf: outputs[leaf.number] if type(leaf) is _Output else leaf
        )
        return make_objects(given)


def memory_at(address: int, array: Array) -> np.ndarray[Any, Any]:
    """`array` as numpy sees it where its buffer begins at `address`; the caller keeps that alive."""
    dtype = np.dtype(array.dtype)
    reach = sum((n - 1) * s for n, s in zip(array.shape, array.strides, strict=True)) + 1 if array.size else 0
    raw: Any = (ctypes.c_uint8 * (reach * dtype.itemsize)).from_address(
        address + array.offset * dtype.itemsize
    )
    strides = [s * dtype.itemsize for s in array.strides]
    return np.ndarray(array.shape, dtype, raw, 0, strides)


def input_array(shape: Sequence[int], strides: Sequence[int], dtype: str, **more: Any) -> Array:
    """An array that stands for a tensor of the caller's."""
    array = Array(Buffer("input", 0), tuple(shape), tuple(strides), dtype, **more)
    return replace(array, buffer=Buffer("input", array.bytes))
