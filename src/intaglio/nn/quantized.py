"""`QuantizedModule`: what every quantized module is.

State is plain tensors (int8 weight, float scales, bias): that is what `state_dict`, pickles, deep copies
and files hold. In memory there is only their packed form, made at load for the CPU at hand, so that no
weight is held twice. May import twins, ops and errors.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn
from torch.fx import Proxy
from torch.nn.modules import module as torch_module
from torch.utils._pytree import tree_leaves

from intaglio.errors import ConfigError, InputError
from intaglio.nn.twins import PickledWeights, Twins

__all__ = ["HOOKS", "QuantizedModule", "StateSpec", "quantized_class", "register_quantized"]

HOOKS = (
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
)
"""Where `nn.Module` keeps what `register_forward_hook` and `register_forward_pre_hook` were given."""

StateSpec = dict[str, tuple[tuple[int, ...], torch.dtype]]

_classes: dict[str, type[QuantizedModule]] = {}
_Class = TypeVar("_Class", bound="type[QuantizedModule]")
_Self = TypeVar("_Self", bound="QuantizedModule")


class QuantizedModule(nn.Module):
    """Base of the quantized modules.

    A subclass says what it is made of (`config`, `from_config`, `state_spec`) and moves its plain state
    in and out of the packed form (`plain_state`, `load_plain_state`). `path` is where the module stood in
    the user's model, which errors name; `replaced` has the shapes of the parameters that stood there.
    """

    kind: ClassVar[str]
    """The name under which files know the class."""

    def __init__(self, path: str = "") -> None:
        super().__init__()
        self.path = path
        self.replaced: dict[str, tuple[int, ...]] | None = None
        self.training = False
        self._twins: Twins | None = None

    # ---- What a subclass defines -----------------------------------------------------------------------

    def config(self) -> dict[str, Any]:
        """Arguments of `from_config`: JSON values only."""
        raise ConfigError(f"{type(self).__name__} defines no config")

    @classmethod
    def from_config(cls: type[_Self], config: dict[str, Any]) -> _Self:
        """An empty module of this configuration; `load_plain_state` fills it."""
        return cls(**config)

    def state_spec(self) -> StateSpec:
        """Shape and dtype of each plain tensor, by name."""
        raise ConfigError(f"{type(self).__name__} defines no state_spec")

    def plain_state(self) -> dict[str, Tensor]:
        """The plain tensors, unpacked."""
        raise ConfigError(f"{type(self).__name__} defines no plain_state")

    def load_plain_state(self, state: dict[str, Tensor]) -> None:
        """Pack `state`, which fits `state_spec`."""
        raise ConfigError(f"{type(self).__name__} defines no load_plain_state")

    def own_state(self) -> dict[str, Tensor]:
        """The plain tensors that are not a quantized child's: no dot in their names."""
        return {name: tensor for name, tensor in self.plain_state().items() if "." not in name}

    def load_own_state(self, state: dict[str, Tensor]) -> None:
        """Pack the tensors of `own_state`."""
        self.load_plain_state(state)

    def float_bytes(self) -> int:
        """Bytes of the float module's parameters that this one replaces."""
        raise ConfigError(f"{type(self).__name__} defines no float_bytes")

    # ---- What every quantized module has ----------------------------------------------------------------

    def __call__(self, *inputs: Any, **named: Any) -> Any:
        """As `nn.Module.__call__`, which needs 0.7 us more to find that there are no hooks."""
        if (
            self._forward_hooks
            or self._forward_pre_hooks
            or torch_module._global_forward_hooks
            or torch_module._global_forward_pre_hooks
            or self._compiled_call_impl is not None
        ):
            return super().__call__(*inputs, **named)
        return self.forward(*inputs, **named)

    def plain_bytes(self) -> int:
        """Bytes of the plain state, which is what a file holds."""
        return sum(
            torch.Size(shape).numel() * torch.empty((), dtype=dtype).element_size()
            for shape, dtype in self.state_spec().values()
        )

    def where(self) -> str:
        """The module's path in the user's model, for messages."""
        return f"'{self.path}' ({type(self).__name__})" if self.path else type(self).__name__

    def check_input(self, x: Tensor, features: int | None = None, name: str = "input") -> None:
        """Raise `InputError`, naming the layer and the remedy, if `x` is not a float tensor on the CPU.

        With `features`, its last dimension must have that size.
        """
        if self.training:
            raise InputError(
                f"{self.where()} is quantized for inference but in training mode: call model.eval()"
            )
        if not isinstance(x, Tensor):
            raise InputError(f"{self.where()}: {name} must be a torch.Tensor, not {type(x).__name__}")
        if not x.is_floating_point():
            raise InputError(
                f"{self.where()}: {name} has dtype {x.dtype}, but a float tensor is needed: "
                "it is quantized inside; pass x.float()"
            )
        if x.device.type not in ("cpu", "meta"):
            raise InputError(
                f"{self.where()}: {name} is on {x.device}, but int8 kernels run on the CPU: pass x.cpu()"
            )
        if features is not None and (x.dim() == 0 or x.shape[-1] != features):
            raise InputError(
                f"{self.where()}: {name} has shape {tuple(x.shape)}, "
                f"but its last dimension must be {features}"
            )

    def as_fx_node(self, *inputs: Any, **named: Any) -> Any:
        """What `forward` gives for proxies of `torch.fx`: one node, as for torch's own modules."""
        tracer: Any = next(x for x in tree_leaves((inputs, named)) if isinstance(x, Proxy)).tracer
        return tracer.create_proxy("call_module", tracer.path_of_module(self), inputs, named)

    def refuse_gradient(self, x: Tensor, y: Tensor) -> Tensor:
        """`y`, computed from `x` behind autograd's back, such that asking for the gradient of `x` raises.

        For the direct call of a kernel; the ops of `torch.library` refuse by themselves.
        """
        if not torch.is_grad_enabled():
            return y
        refused: Tensor = _RefusedGradient.apply(x, y, self.where())  # type: ignore[no-untyped-call]
        return refused

    def set_path(self, path: str) -> None:
        """Say where the module stands, its quantized children in it."""
        for name, part in self.named_modules(prefix=path):
            if isinstance(part, QuantizedModule):
                part.path = name

    def twin(self, path: str) -> QuantizedModule:
        """Another module with the same weights: not a copy of them."""
        other = type(self).from_config(self.config())
        other.path, other.replaced = path, self.replaced
        other.share_weights_of(self)
        return other

    def share_weights_of(self, other: QuantizedModule) -> None:
        """Take the packed weights of a module of the same configuration for one's own."""
        self._buffers.update(other._buffers)
        self._modules.update(other._modules)
        self._twins = other._twins = other._twins or Twins()
        self._twins.members.update((self, other))
        self.buffers_taken()
        for child in other.children():  # it now stands in both, and is asked for its state by both
            if isinstance(child, QuantizedModule) and child._twins is None:
                child._twins = Twins()

    def buffers_taken(self) -> None:
        """What follows when the buffers were taken from another module."""

    def weights_identity(self) -> tuple[int, ...]:
        """Equal for two modules if, and only if, they share their weights."""
        return tuple(id(buffer) for buffer in self.buffers())

    def packed_how(self) -> object | None:
        """What besides the plain `weight` decides what `packed` holds; None where that holds more."""
        return None

    def weight_identity(self) -> object | None:
        """Equal for two modules only if `weight` of their plain states is the same; None if unknown."""
        packed = self._buffers.get("packed")
        return None if packed is None or self.packed_how() is None else (type(self), id(packed))

    # ---- Copies, state dicts, pickles ---------------------------------------------------------------------

    def __deepcopy__(self, memo: dict[int, Any]) -> QuantizedModule:
        other = type(self).from_config(self.config())
        memo[id(self)] = other
        other.path, other.replaced, other.training = self.path, self.replaced, self.training
        for name in ("_buffers", "_modules", "_twins", *HOOKS):
            setattr(other, name, copy.deepcopy(getattr(self, name), memo))
        if other._twins is not None:
            other._twins.members.add(other)
        other.buffers_taken()
        return other

    def __getstate__(self) -> dict[str, Any]:
        return {
            "config": self.config(),
            "weights": (self._twins or Twins()).pickled_weights(self),
            "path": self.path,
            "replaced": self.replaced,
            "training": self.training,
            "hooks": {name: getattr(self, name) for name in HOOKS},
        }

    def __setstate__(self, saved: dict[str, Any]) -> None:
        self.__dict__.update(type(self).from_config(saved["config"]).__dict__)
        weights: PickledWeights = saved["weights"]
        if weights.packed_by is not None:
            self.share_weights_of(weights.packed_by)
        else:
            assert weights.plain is not None
            self.load_plain_state(weights.plain)
            weights.plain, weights.packed_by = None, self
        self.set_path(saved["path"])
        self.replaced, self.training = saved["replaced"], saved["training"]
        self.__dict__.update(saved["hooks"])

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        if self._twins is not None and isinstance(destination, OrderedDict):
            state = self._twins.own_state(self, destination)
        else:
            state = self.own_state()
        for name, tensor in state.items():
            destination[prefix + name] = tensor

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        for hook in self._load_state_dict_pre_hooks.values():
            hook(state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs)
        spec = {name: claim for name, claim in self.state_spec().items() if "." not in name}
        found = {name: state_dict[prefix + name] for name in spec if prefix + name in state_dict}
        missing_keys.extend(prefix + name for name in spec if name not in found)
        if strict:
            ours = (key[len(prefix) :] for key in state_dict if key.startswith(prefix))
            unexpected_keys.extend(
                prefix + key for key in ours if key not in spec and key.split(".")[0] not in self._modules
            )
        wrong = [
            f"size or dtype mismatch for {prefix}{name}: the state dict has {_describe(tensor)}, "
            f"{self.where()} takes {spec[name][0]} {spec[name][1]}"
            for name, tensor in found.items()
            if not _fits(tensor, spec[name])
        ]
        error_msgs.extend(wrong)
        if found and not wrong:
            kept = self.own_state() if len(found) < len(spec) and self.weights_identity() else {}
            state = kept | {name: tensor.detach().cpu() for name, tensor in found.items()}
            if len(state) == len(spec):
                self.load_own_state(state)
                self._share_again()

    def _share_again(self) -> None:
        """Share weights with a twin once more if both have been given the same."""
        for twin in self._twins.members if self._twins else ():
            pairs = [*zip(self.buffers(), twin.buffers(), strict=False)]
            if twin is not self and pairs and all(a is b or torch.equal(a, b) for a, b in pairs):
                self.share_weights_of(twin)
                return

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> QuantizedModule:
        device = fn(torch.empty(0, dtype=torch.uint8)).device
        if device.type != "cpu":
            raise InputError(
                f"{self.where()} cannot be moved to {device}: its int8 kernels run on the CPU. "
                "Move the float modules one by one, or leave the model on the CPU"
            )
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self


def _fits(tensor: Any, spec: tuple[tuple[int, ...], torch.dtype]) -> bool:
    return isinstance(tensor, Tensor) and not tensor.is_meta and (tuple(tensor.shape), tensor.dtype) == spec


def _describe(tensor: Any) -> str:
    if not isinstance(tensor, Tensor):
        return f"a {type(tensor).__name__}"
    return f"{tuple(tensor.shape)} {tensor.dtype}" + (" without data (meta)" if tensor.is_meta else "")


class _RefusedGradient(torch.autograd.Function):
    """Gives its second argument; backward raises."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, where: str) -> Tensor:
        ctx.where = where
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        raise InputError(
            f"{ctx.where} has no gradient: quantized modules are for inference. Train the float model, or "
            "keep the layers that need gradients in float"
        )


def register_quantized(cls: _Class) -> _Class:
    """Class decorator: makes `cls` known to files by its `kind`."""
    _classes[cls.kind] = cls
    return cls


def quantized_class(kind: str) -> type[QuantizedModule] | None:
    """The class that files call `kind`, or None."""
    return _classes.get(kind)
