"""`Program`: a converted model that one call of C++ runs, of torch's tensors.

May import torch_host and runtime.
"""

from __future__ import annotations

from enum import Enum
from typing import Any

import torch
from torch import Tensor, nn

from intaglio.engine.torch_host import qparams_of, quant_of
from intaglio.errors import InputError
from intaglio.qtensor import QTensor
from intaglio.runtime.array import ITEM_BYTES, Array
from intaglio.runtime.calls import Host
from intaglio.runtime.model import Model
from intaglio.runtime.plan import Plan, input_array
from intaglio.runtime.program import MOST_PLANS, BaseProgram

__all__ = ["Program"]

_empty_strided = torch.empty_strided
_threads = torch.get_num_threads
_strided = torch.strided
_PLAIN = (bool, int, float, str, Enum, torch.dtype, torch.device, torch.layout, torch.memory_format)
"""What may be an input beside tensors: a plan is made for each value."""

_NAMES = {getattr(torch, name): name for name in ITEM_BYTES}


_Output = tuple[tuple[int, ...], tuple[int, ...], torch.dtype]


def _output(array: Array) -> _Output:
    return array.shape, array.strides, getattr(torch, array.dtype)


def _quick_key(args: tuple[Any, ...]) -> Any:
    """What a plan depends on where all arguments are plain tensors on the CPU, or None."""
    key: list[Any] = []
    for x in args:
        if type(x) is not Tensor or not x.is_cpu or x.layout is not _strided or x.is_neg():
            return None
        key += (x.shape, x.stride(), x.dtype)
    return tuple(key)


class Program(BaseProgram):
    """A model as flat lists of kernel calls: what `intaglio.compile` gives.

    Called as the model is, with tensors on the CPU; results need no gradient. Other shapes than before are
    planned when they come first, and the newest 64 plans are kept. Several threads may call one program at
    once: each call works in an arena of its own, and the GIL is released meanwhile.
    """

    def __init__(self, model: Model, host: Host, saved_as: nn.Module) -> None:
        super().__init__(model, host)
        self.saved_as = saved_as
        """The converted model, which `intaglio.save` writes."""
        # Of calls with plain tensors alone: plan and outputs, found without looking at the arguments twice.
        self._known: dict[Any, tuple[Plan, list[_Output]]] = {}

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What the model gives for these inputs."""
        key = None if kwargs else _quick_key(args)
        known = self._known.get(key) if key is not None else None
        if known is None:
            plan, tensors = self._find(args, kwargs)
            if key is not None and all(array.quant is None for array in plan.outputs):
                if len(self._known) >= MOST_PLANS:
                    self._known.clear()
                self._known[key] = (plan, [_output(array) for array in plan.outputs])
            return self._run(plan, tensors)
        plan, given = known
        outputs = [_empty_strided(shape, strides, dtype=dtype) for shape, strides, dtype in given]
        plan.run([x.data_ptr() for x in (*args, *outputs)], _threads())
        return plan.result(outputs)

    def _array_of(self, leaf: Any) -> Array | None:
        if isinstance(leaf, QTensor):
            return input_array(leaf.shape, leaf.data.stride(), "uint8", quant=quant_of(leaf.qparams))
        if not isinstance(leaf, Tensor):
            if leaf is not None and not isinstance(leaf, _PLAIN):
                raise InputError(
                    f"{self.model.name}: an input is of {type(leaf).__name__}, but a program takes tensors, "
                    "numbers and strings, and tuples, lists and dicts of them"
                )
            return None
        if leaf.is_neg():
            raise InputError(f"{self.model.name}: an input is a negative view: pass x.resolve_neg()")
        if not leaf.is_cpu or leaf.layout is not torch.strided:
            raise InputError(
                f"{self.model.name}: an input is on {leaf.device} with layout {leaf.layout}, but a "
                "program runs on dense tensors of the CPU: pass x.cpu()"
            )
        if leaf.dtype not in _NAMES or leaf.dtype in (torch.float64, torch.float16, torch.bfloat16):
            raise InputError(
                f"{self.model.name}: an input has dtype {leaf.dtype}, but a program takes float32 "
                "and integers: pass x.float()"
            )
        return input_array(leaf.shape, leaf.stride(), _NAMES[leaf.dtype])

    def _key_of(self, leaf: Any) -> Any:
        if isinstance(leaf, QTensor):
            return (leaf.shape, leaf.data.stride(), quant_of(leaf.qparams))
        if isinstance(leaf, Tensor):
            return (leaf.shape, leaf.stride(), leaf.dtype)
        return repr(leaf)

    def _address_of(self, leaf: Any) -> int:
        address: int = leaf.data.data_ptr() if isinstance(leaf, QTensor) else leaf.data_ptr()
        return address

    def _allocate(self, array: Array) -> Any:
        tensor = _empty_strided(array.shape, array.strides, dtype=getattr(torch, array.dtype))
        return tensor if array.quant is None else QTensor(tensor, qparams_of(array.quant))

    def _threads(self) -> int:
        return _threads()
