"""What the observers of a model have seen, apart from its weights: to save it and to load it back.

May import observing, input_mean and errors.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from intaglio.errors import ConfigError
from intaglio.observer.input_mean import InputMean
from intaglio.observer.observing import ObserverBase

__all__ = ["get_observer_state_dict", "load_observer_state_dict"]


def get_observer_state_dict(mod: nn.Module) -> OrderedDict[str, Tensor]:
    """The part of `mod.state_dict()` that its observers hold.

    >>> from intaglio.observer import MinMaxObserver
    >>> sorted(get_observer_state_dict(nn.ModuleDict({"x": MinMaxObserver()})))
    ['x.max_val', 'x.min_val']
    """
    state = mod.state_dict()
    prefixes = tuple(path for path, _ in _observers_of(mod))
    found = OrderedDict((key, value) for key, value in state.items() if key.startswith(prefixes))
    found._metadata = getattr(state, "_metadata", OrderedDict())  # type: ignore[attr-defined]
    return found


def load_observer_state_dict(mod: nn.Module, obs_dict: Mapping[str, Tensor]) -> None:
    """Let the observers of `mod` have seen what those that `obs_dict` comes from had.

    States of `torch.ao.quantization.get_observer_state_dict` load as well. Raises `ConfigError` if a state is
    missing for an observer, or if there is none for a state.
    """
    metadata = getattr(obs_dict, "_metadata", {})
    observers = list(_observers_of(mod))
    keys = set(obs_dict)
    prefixes = tuple(prefix for prefix, _ in observers)
    strange = sorted(key for key in keys if not key.startswith(prefixes))
    unseen = [(p, module) for p, module in observers if not any(k.startswith(p) for k in keys)]
    # Means of inputs are not in states that torch.ao made.
    lacking = [p for p, module in unseen if isinstance(module, ObserverBase) and module.state_dict()]
    if strange or lacking:
        raise ConfigError(
            f"the observers' state does not fit the model: {_some(strange)} belong to no observer of it, and "
            f"nothing is there for {_some([p.rstrip('.') for p in lacking])}; prepare the model as it was "
            "prepared when the state was taken"
        )
    for prefix, module in observers:
        own = {key.removeprefix(prefix): value for key, value in obs_dict.items() if key.startswith(prefix)}
        if own or isinstance(module, ObserverBase):
            _load(module, own, metadata.get(prefix.rstrip("."), {}), prefix)


def _load(module: nn.Module, own: dict[str, Any], metadata: dict[str, Any], prefix: str) -> None:
    missing: list[str] = []
    unexpected: list[str] = []
    errors: list[str] = []
    module._load_from_state_dict(own, "", metadata, True, missing, unexpected, errors)
    if missing or unexpected or errors:
        raise ConfigError(
            f"'{prefix.rstrip('.')}' is a {type(module).__name__}, whose state lacks {_some(missing)}, does "
            f"not know {_some(unexpected)}; {' '.join(errors)}: prepare the model as when the state was taken"
        )


def _observers_of(model: nn.Module) -> list[tuple[str, nn.Module]]:
    return [
        (path + "." if path else "", module)
        for path, module in model.named_modules()
        if isinstance(module, (ObserverBase, InputMean))
    ]


def _some(names: list[str]) -> str:
    shown = ", ".join(f"'{name}'" for name in names[:3])
    return (shown + (" and more" if len(names) > 3 else "")) or "nothing"
