"""Which modules a module calls itself, and with what, found by running it. May import examples
and module_state."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from intaglio.graph_passes.examples import Call, clone_values
from intaglio.graph_passes.module_state import kept_state

__all__ = ["calls_of_children"]


def calls_of_children(module: nn.Module, calls: Sequence[Call]) -> list[tuple[str, nn.Module, list[Call]]]:
    """The modules that `module` calls itself, with the first call of each for every call of `module`."""
    watcher = _Watcher(module)
    with kept_state(module):
        for call in calls:
            watcher.watch(call)
    found = {path: seen for path, seen in watcher.found.items() if len(seen) == len(calls)}
    return [
        (path, module.get_submodule(path), seen)
        for path, seen in found.items()
        if not any(path.startswith(f"{other}.") for other in found)
    ]


class _Watcher:
    """Sees which modules a module calls itself, and with what."""

    def __init__(self, module: nn.Module) -> None:
        self.found: dict[str, list[Call]] = {}
        self._module = module
        self._paths = {id(child): path for path, child in module.named_modules() if path}
        self._depth = self._number = 0

    def watch(self, call: Call) -> None:
        """Run the module on one more call."""
        handles = []
        for child in self._module.modules():
            if child is not self._module:
                handles.append(child.register_forward_pre_hook(self._enter, with_kwargs=True, prepend=True))
                handles.append(child.register_forward_hook(self._leave))
        try:
            call.run(self._module)
        finally:
            for handle in handles:
                handle.remove()
        self._number += 1

    def _enter(self, child: nn.Module, args: Any, kwargs: Any) -> None:
        if self._depth == 0:
            seen = self.found.setdefault(self._paths[id(child)], [])
            if len(seen) == self._number:
                seen.append(Call(*clone_values((args, kwargs))))
        self._depth += 1

    def _leave(self, child: nn.Module, args: Any, output: Any) -> None:
        self._depth -= 1
