"""`Recorder`: which of the package's ops run, seen as tracers and profilers see them."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map


class Recorder(TorchDispatchMode):
    """Remembers calls of this package's ops."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, tuple[Any, ...], dict[str, Any]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "intaglio":
            self.calls.append((func, tree_map(_detached, args), tree_map(_detached, kwargs or {})))
        return func(*args, **(kwargs or {}))


def _detached(x: Any) -> Any:
    return x.detach().clone() if isinstance(x, Tensor) else x
