"""Fuses neighbouring calls of `run_rows`: a product, its function, the residual sum, the "
"normalization, and the
quantization for the products that follow become one call, between whose stages rows stay in cache.

The bits are those of the single calls. May import floats and planner.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from intaglio.runtime.array import Array, Buffer
from intaglio.runtime.calls import Call, HostCall, arrays_in
from intaglio.runtime.floats import rows_of

__all__ = ["fuse_rows"]

Calls = list[Call | HostCall]

_PRODUCT, _FUNCTION, _RESIDUAL, _NORM = 1, 2, 3, 4
"""The stages in their order."""

_PER_ROW = 1


def fuse_rows(calls: Calls, kept: set[int]) -> Calls:
    """Fewer calls of `run_rows`; `kept` are the buffers, by identity, that are needed after all calls."""
    fused = _Fusing(list(calls), kept)
    fused.join()
    fused.share_quantized()
    return [_finished(call) for call in fused.calls if call is not None]


def _is_rows(call: Any) -> bool:
    return isinstance(call, Call) and call.driver == "run_rows"


def _stages(call: Call) -> list[int]:
    given = call.arguments
    there = {
        _PRODUCT: given.get("packed") is not None,
        _FUNCTION: given.get("function", 0) != 0,
        _RESIDUAL: given.get("residual") is not None,
        _NORM: given.get("norm", 0) != 0,
    }
    return [stage for stage, is_there in there.items() if is_there]


def _same_rows(a: Any, b: Any) -> bool:
    """Whether two arrays are the same rows of the same memory."""
    if not isinstance(a, Array) or not isinstance(b, Array):
        return False
    return a.buffer is b.buffer and a.offset == b.offset and rows_of(a) == rows_of(b)


class _Fusing:
    """The calls, those that went into others being None; and who reads what."""

    def __init__(self, calls: Calls, kept: set[int]) -> None:
        self.calls: list[Call | HostCall | None] = list(calls)
        self.kept = kept
        self.readers: dict[int, list[int]] = {}
        self.writer: dict[int, int] = {}
        for place, call in enumerate(calls):
            for array in call.read():
                self.readers.setdefault(id(array.buffer), []).append(place)
            for array in call.written():
                self.writer[id(array.buffer)] = place

    # ---- Stages ------------------------------------------------------------------------------------------

    def join(self) -> None:
        """Let every call of rows do what the one before it did, where it can."""
        for place, call in enumerate(self.calls):
            if _is_rows(call) and isinstance(call, Call):
                while self._take_producer(place):
                    pass

    def _take_producer(self, place: int) -> bool:
        call = self.calls[place]
        assert isinstance(call, Call)
        if call.arguments.get("packed") is not None:
            return False
        self._turn_residual(call, place)
        x = call.arguments["x"]
        before = self._producer(x, place)
        if before is None:
            return False
        producer = self.calls[before]
        assert isinstance(producer, Call)
        first, last = min(_stages(call), default=_NORM), max(_stages(producer), default=0)
        residual = call.arguments.get("residual")
        if last >= first or "sum" in producer.arguments:
            return False
        if residual is not None and residual.buffer is x.buffer:
            return False
        others = [reader for reader in self.readers[id(x.buffer)] if reader != place]
        is_needed = bool(others) or id(x.buffer) in self.kept
        if is_needed and (first != _NORM or any(other < place for other in others)):
            return False
        joined = {**producer.arguments, **{k: v for k, v in call.arguments.items() if k != "x"}}
        writes = ["y"]
        if is_needed:
            joined["sum"] = x
            writes.append("sum")
        self.calls[place] = Call("run_rows", producer.label, joined, tuple(writes), producer.work)
        self.calls[before] = None
        for array in producer.read():
            readers = self.readers[id(array.buffer)]
            readers[:] = [place if reader == before else reader for reader in readers]
        self.readers[id(x.buffer)] = others
        self.writer[id(x.buffer)] = place
        return True

    def _producer(self, x: Any, place: int) -> int | None:
        """The call of rows that wrote just these rows, if there is one before `place`."""
        before = self.writer.get(id(x.buffer)) if isinstance(x, Array) else None
        if before is None or before >= place:
            return None
        producer = self.calls[before]
        is_it = isinstance(producer, Call) and _is_rows(producer) and _same_rows(producer.arguments["y"], x)
        return before if is_it else None

    def _turn_residual(self, call: Call, place: int) -> None:
        """Of the two operands of a sum, let the one be `x` that a product has made for this alone."""
        arguments = call.arguments
        residual, x = arguments.get("residual"), arguments["x"]
        if residual is None or arguments.get("function", 0) or self._is_product(x, place):
            return
        if self._is_product(residual, place):
            arguments["x"], arguments["residual"] = residual, x

    def _is_product(self, x: Any, place: int) -> bool:
        before = self._producer(x, place)
        producer = None if before is None else self.calls[before]
        return (
            isinstance(producer, Call)
            and producer.arguments.get("packed") is not None
            and self.readers[id(x.buffer)] == [place]
            and id(x.buffer) not in self.kept
        )

    # ---- Quantization ------------------------------------------------------------------------------------

    def share_quantized(self) -> None:
        """Quantize rows once for all the products that read them, where they are made if that is a call of
        rows."""
        for place, call in enumerate(self.calls):
            if isinstance(call, Call) and _is_rows(call):
                self._quantize_output(place, call)
        self._quantize_shared()

    def _products_of(self, x: Array) -> Iterator[tuple[int, Call]]:
        """The products that quantize just these rows, row by row."""
        for reader in sorted(set(self.readers.get(id(x.buffer), ()))):
            call = self.calls[reader]
            if (
                isinstance(call, Call)
                and _is_rows(call)
                and call.arguments.get("packed") is not None
                and call.arguments.get("granularity") == _PER_ROW
                and _same_rows(call.arguments.get("x"), x)
            ):
                yield reader, call

    def _quantize_output(self, place: int, call: Call) -> None:
        y = call.arguments["y"]
        products = list(self._products_of(y))
        if not products or "out_q" in call.arguments:
            return
        quantized = _quantized_rows(y)
        call.arguments.update({f"out_{name}": array for name, array in quantized.items()})
        call.writes = (*call.writes, *(f"out_{name}" for name in quantized))
        for reader, product in products:
            self._feed(reader, product, y, quantized)
        if not self.readers[id(y.buffer)] and id(y.buffer) not in self.kept:
            call.arguments["y"] = None

    def _quantize_shared(self) -> None:
        """Of rows that something else makes: quantize before the first of several products."""
        found: dict[int, list[tuple[int, Call]]] = {}
        for place, call in enumerate(self.calls):
            if isinstance(call, Call) and _is_rows(call) and isinstance(call.arguments.get("x"), Array):
                found.setdefault(id(call.arguments["x"].buffer), []).append((place, call))
        inserted: list[tuple[int, Call]] = []
        for places in found.values():
            x = places[0][1].arguments.get("x")
            products = list(self._products_of(x)) if isinstance(x, Array) else []
            if not isinstance(x, Array) or len(products) < 2:
                continue
            quantized = _quantized_rows(x)
            first, example = products[0]
            arguments = {"x": x, "y": None} | {f"out_{name}": array for name, array in quantized.items()}
            writes = ("y", *(f"out_{name}" for name in quantized))
            inserted.append((first, Call("run_rows", example.label, arguments, writes)))
            for reader, product in products:
                self._feed(reader, product, x, quantized)
        for place, call in sorted(inserted, key=lambda item: -item[0]):
            self.calls.insert(place, call)

    def _feed(self, reader: int, product: Call, x: Array, quantized: dict[str, Array]) -> None:
        """Let a product read rows that are quantized."""
        product.arguments["x"] = None
        product.arguments.update(quantized)
        product.arguments["source"] = x
        others = [v for name, v in product.arguments.items() if name not in ("source", *product.writes)]
        if not any(array.buffer is x.buffer for array in arrays_in(others)):
            readers = self.readers[id(x.buffer)]
            readers[:] = [other for other in readers if other != reader]


def _quantized_rows(x: Array) -> dict[str, Array]:
    """Memory for the rows of `x` quantized: integers, scales and zero points."""
    found = rows_of(x)
    assert found is not None
    rows, columns, _ = found
    stride = -(-columns // 4) * 4
    shapes = {"q": (rows, stride), "scale": (rows,), "zero_point": (rows,)}
    dtypes = {"q": "uint8", "scale": "float32", "zero_point": "int32"}
    arrays = {}
    for name, shape in shapes.items():
        strides = (stride, 1) if len(shape) == 2 else (1,)
        array = Array(Buffer("arena", 0), shape, strides, dtypes[name])
        arrays[name] = replace(array, buffer=Buffer("arena", array.bytes))
    return arrays


def _finished(call: Call | HostCall) -> Call | HostCall:
    """A call of rows with the sizes and strides that its driver takes."""
    if not isinstance(call, Call) or call.driver != "run_rows":
        return call
    given = dict(call.arguments)
    source = given.pop("source", None) if given.get("x") is None else given["x"]
    given.pop("source", None)
    found = rows_of(source)
    assert found is not None
    for name in ("x", "residual", "sum", "y"):
        array = given.get(name)
        if array is not None:
            layout = rows_of(array)
            assert layout is not None
            given[f"{name}_stride"] = layout[2]
    for name in ("q", "out_q"):
        if given.get(name) is not None:
            given[f"{name}_stride"] = given[name].strides[0]
    arguments = {"rows": found[0], "k": found[1], **given}
    return Call(call.driver, call.label, arguments, call.writes, call.work)
