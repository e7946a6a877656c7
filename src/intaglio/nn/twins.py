"""Weights that several quantized modules share, kept shared through state dicts, pickles and copies.

Packed weights are one tensor in memory, but state dicts and pickles hold the plain ones, unpacked for each
module anew: `Twins` lets modules with the same weights hand out the same plain tensors, so that what is tied
is written once and is tied again when read. `WeightPool` is for modules that have the same weights, and other
outputs. May import nothing from the package.
"""

from __future__ import annotations

import weakref
import zlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from intaglio.nn.quantized import QuantizedModule

__all__ = ["PickledWeights", "Twins", "WeightPool"]


class PickledWeights:
    """The plain weights of one or more modules within a pickle.

    The first module to be unpickled packs them and stands in `packed_by`, from which the others take theirs.
    """

    def __init__(self, plain: dict[str, Tensor]) -> None:
        self.plain: dict[str, Tensor] | None = plain
        self.packed_by: QuantizedModule | None = None


class Twins:
    """The modules that were made with the same weights. They need not still have them.

    What was handed out is held weakly: it lives as long as the state dict or the pickler that it went to.
    """

    def __init__(self) -> None:
        self.members: weakref.WeakSet[QuantizedModule] = weakref.WeakSet()
        self._destination: Callable[[], Any] = lambda: None
        self._saved: weakref.WeakValueDictionary[str, Tensor] = weakref.WeakValueDictionary()
        self._pickled: Callable[[], PickledWeights | None] = lambda: None
        self._identity: tuple[int, ...] = ()

    def own_state(self, module: QuantizedModule, destination: Any) -> dict[str, Tensor]:
        """The `own_state` of `module`: for twins, within one state dict, the same tensors."""
        identity = module.weights_identity()
        if self._destination() is destination and self._identity == identity:
            saved = dict(self._saved)
            if saved.keys() == {name for name in module.state_spec() if "." not in name}:
                return saved
        state = module.own_state()
        self._identity = identity
        self._destination = weakref.ref(destination)
        self._saved = weakref.WeakValueDictionary(state)
        return state

    def pickled_weights(self, module: QuantizedModule) -> PickledWeights:
        """The weights of `module` for a pickle: for twins, within one pickle, the same object."""
        identity = module.weights_identity()
        weights = self._pickled()
        if weights is None or weights.plain is None or self._identity != identity:
            weights = PickledWeights(module.plain_state())
            self._identity = identity
            self._pickled = weakref.ref(weights)
        return weights

    def __deepcopy__(self, memo: dict[int, Any]) -> Twins:
        return Twins()


class WeightPool:
    """Packed weights by what they hold: modules packed alike from equal weights come to hold one tensor."""

    def __init__(self) -> None:
        self._held: dict[object, QuantizedModule] = {}

    def share(self, module: QuantizedModule) -> None:
        """Let `module`, which was just packed, hold the tensor of an earlier one if they are equal."""
        how = module.packed_how()
        if how is None:
            return
        weight = module.plain_state()["weight"].contiguous()
        checksum = zlib.crc32(memoryview(weight.numpy()))  # type: ignore[arg-type]
        known = self._held.setdefault((type(module), how, checksum), module)
        if known is not module and torch.equal(known.plain_state()["weight"], weight):
            module._buffers["packed"] = known._buffers["packed"]
            module.buffers_taken()
