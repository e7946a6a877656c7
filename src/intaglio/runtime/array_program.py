"""`ArrayProgram`: a program of numpy arrays, for where torch is not installed.

May import program and numpy_host.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from intaglio.errors import FileFormatError, InputError
from intaglio.runtime.array import Array, Quant
from intaglio.runtime.model import Model
from intaglio.runtime.numpy_host import NumpyHost
from intaglio.runtime.plan import Plan, input_array
from intaglio.runtime.program import BaseProgram

__all__ = ["ArrayProgram"]

_TYPES = ("float32", "int32", "int64", "bool", "uint8")


class ArrayProgram(BaseProgram):
    """A saved model that takes and gives numpy arrays: what `intaglio.runtime.load` gives.

    Called as the model is. Other shapes than before are planned when they come first. Several threads may
    call one program at once. A result that is quantized comes as the numbers that it stands for.
    """

    def __init__(self, model: Model, threads: int | None = None) -> None:
        super().__init__(model, NumpyHost())
        if threads is not None and threads < 1:
            raise InputError(f"a program runs on at least one thread, not {threads}")
        self.threads = threads or len(os.sched_getaffinity(0))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What the model gives for these arrays."""
        try:
            return super().__call__(*args, **kwargs)
        except (KeyError, TypeError, ValueError, AttributeError, LookupError, ArithmeticError) as error:
            raise _explained(error) from error
        except (MemoryError, RecursionError) as error:
            raise InputError(
                f"{self.model.name} cannot be planned for this: {type(error).__name__}"
            ) from error

    def _array_of(self, leaf: Any) -> Array | None:
        if not isinstance(leaf, np.ndarray):
            return None
        if leaf.dtype.name not in _TYPES or not leaf.dtype.isnative:
            raise InputError(
                f"{self.model.name}: an input has dtype {leaf.dtype}, but a program takes {', '.join(_TYPES)}"
            )
        if not leaf.flags.aligned or any(step % leaf.itemsize for step in leaf.strides):
            raise InputError(f"{self.model.name}: an input is not aligned: pass np.ascontiguousarray(x)")
        if any(step < 0 for step in leaf.strides):
            raise InputError(f"{self.model.name}: an input runs backwards: pass np.ascontiguousarray(x)")
        return input_array(leaf.shape, [step // leaf.itemsize for step in leaf.strides], leaf.dtype.name)

    def _key_of(self, leaf: Any) -> Any:
        if isinstance(leaf, np.ndarray):
            return (leaf.shape, leaf.strides, leaf.dtype.name)
        return repr(leaf)

    def _address_of(self, leaf: Any) -> int:
        address: int = leaf.ctypes.data
        return address

    def _allocate(self, array: Array) -> Any:
        order = sorted(range(array.ndim), key=lambda a: (-array.strides[a], a))
        laid = np.empty([array.shape[a] for a in order], array.dtype)
        return laid.transpose(np.argsort(order)) if array.ndim else laid

    def _run(self, plan: Plan, tensors: Sequence[Any]) -> Any:
        outputs = [self._allocate(array) for array in plan.outputs]
        plan.run([x.ctypes.data for x in (*tensors, *outputs)], self._threads())
        return plan.result([_numbers(x, array.quant) for x, array in zip(outputs, plan.outputs, strict=True)])

    def _threads(self) -> int:
        return self.threads


def _numbers(x: Any, quant: Quant | None) -> Any:
    return (
        x
        if quant is None
        else (x.astype(np.int32) - quant.zero_point).astype(np.float32) * np.float32(quant.scale)
    )


def _explained(error: Exception) -> Exception:
    """What a recipe's absurd values made a lowering raise, as an error of the file."""
    if isinstance(error, (InputError, FileFormatError)):
        return error
    return FileFormatError(f"the file's model cannot be planned: {type(error).__name__}: {error}")
