"""`TrainedLayer`: a float layer that computes with rounded weights while it trains for quantization.

`train_layer` gives a layer a class of its own, derived from `TrainedLayer` and the class that it had: to
`isinstance` it stays what it was, it keeps its parameters, hooks and names in the state dict, and it gains a
fake quantizer beside each weight that is rounded. How a kind of layer trains says the `TrainedForm` of its
rule. May import fake_quantize, rules, qconfig and errors.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from intaglio.errors import ConfigError
from intaglio.fake_quantize import FakeQuantize, FakeQuantizeBase, LearnedFakeQuantize
from intaglio.qconfig import QConfig
from intaglio.rules import TrainedForm, all_rules

__all__ = ["TrainedLayer", "check_rounder", "fake_quantizer_name", "form_of", "train_layer"]


LARGE = 1 << 14
"""Weights of so many values are rounded again for the backward pass instead of being held."""


class TrainedLayer(nn.Module):
    """Mixed into the class of a layer that trains for quantization; `float_class` is the class it had.

    `quantizes_input` says that its input gets a range for each row when it comes, as a dynamic qconfig asks.
    """

    float_class: type[nn.Module]
    form: TrainedForm
    quantizes_input: bool

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the float layer computes, with its weights rounded."""
        weights = self.rounded_weights()
        again = self._rounded_again(weights)
        if again is None:
            return self.form.forward(self, weights, *args, **kwargs)
        with again:
            return self.form.forward(self, weights, *args, **kwargs)

    def _rounded_again(self, weights: dict[str, Tensor]) -> Any:
        """What keeps autograd from holding a large rounded weight until the backward pass, which rounds anew.

        Rounding runs at the speed of memory; holding all rounded weights of a model would cost as much memory
        as the model.
        """
        if len(weights) != 1 or not torch.is_grad_enabled() or torch.compiler.is_compiling():
            return None
        ((name, rounded),) = weights.items()
        rounder = self.fake_quantizer(name)
        if rounded.numel() < LARGE or not (isinstance(rounder, FakeQuantize) and rounder.is_repeatable):
            return None
        place, shape, strides = rounded.data_ptr(), rounded.shape, rounded.stride()

        def pack(tensor: Tensor) -> Any:
            same = tensor.data_ptr() == place and tensor.shape == shape and tensor.stride() == strides
            return None if same else tensor

        def unpack(packed: Any) -> Tensor:
            if packed is not None:
                held: Tensor = packed
                return held
            with torch.no_grad():
                return self.rounded_weights()[name]

        return torch.autograd.graph.saved_tensors_hooks(pack, unpack)

    def forward_folded(self, factor: Tensor, *args: Any, **kwargs: Any) -> Any:
        """As `forward`, the weight rounded as a batch norm of this `(out_channels,)` factor leaves it."""
        (name,) = self.form.weights(self)
        rows = self.form.rows(self, self.weight_named(name))
        beside = factor.view(-1, *[1] * (rows.dim() - 1))
        # By 0 nothing can be divided: such a channel trains on with its weight as it is.
        whole = torch.where(beside == 0, 1.0, beside)
        rounded = torch.where(beside == 0, rows, self.fake_quantizer(name)(rows * beside) / whole)
        return self.form.forward(self, {name: self.form.unrows(self, rounded)}, *args, **kwargs)

    def rounded_weights(self) -> dict[str, Tensor]:
        """The weights as they are rounded now, by name."""
        form = self.form
        if form.by_rows:
            return {}
        return {
            name: form.unrows(self, self.fake_quantizer(name)(form.rows(self, self.weight_named(name))))
            for name in form.weights(self)
        }

    def weight_named(self, name: str) -> Tensor:
        """A weight of the layer, or of a layer in it."""
        owner, _, last = name.rpartition(".")
        found = getattr(self.get_submodule(owner) if owner else self, last)
        assert isinstance(found, Tensor)
        return found

    def fake_quantizer(self, name: str) -> FakeQuantizeBase:
        """What rounds the weight of this name."""
        found = self._modules[fake_quantizer_name(name)]
        assert isinstance(found, FakeQuantizeBase)
        return found

    @property
    def rounds(self) -> bool:
        """Whether weights are rounded now."""
        return any(bool(self.fake_quantizer(name).fake_quant_enabled) for name in self.form.weights(self))

    @property
    def shares_a_scale(self) -> bool:
        """Whether all output channels of the weight have one scale."""
        names = self.form.weights(self)
        return (
            not self.form.by_rows
            and len(names) == 1
            and getattr(self.fake_quantizer(names[0]), "ch_axis", None) is None
        )

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Copies and pickles name the float class: the class made of it is made anew."""
        return _new, (self.float_class,), self.__dict__


def fake_quantizer_name(weight: str) -> str:
    """Where a weight's fake quantizer stands: the legacy's `weight_fake_quant` for `weight`."""
    return weight.replace(".", "_") + "_fake_quant"


def check_rounder(rounder: object, path: str) -> None:
    """Raise `ConfigError` unless what a qconfig made for the weights of a layer rounds them."""
    if not isinstance(rounder, FakeQuantizeBase):
        raise ConfigError(
            f"'{path}': its qconfig's weight is a {type(rounder).__name__}, which only observes: training "
            "needs a fake quantizer, as intaglio.get_default_qat_qconfig('x86') has"
        )


def train_layer(layer: nn.Module, form: TrainedForm, qconfig: QConfig, path: str, *, dynamic: bool) -> None:
    """Make `layer` a `TrainedLayer`, in place; `ConfigError` for a qconfig that rounds no weights."""
    made = {}
    for name in form.weights(layer):
        rounder = form.rounder(qconfig)()
        check_rounder(rounder, path)
        rounder.name = f"{path}.{name}" if path else name
        made[name] = rounder
    layer.__class__ = _class_of(type(layer))
    assert isinstance(layer, TrainedLayer)
    layer.quantizes_input = dynamic
    for name, rounder in made.items():
        weight = layer.weight_named(name)
        rounder.train(layer.training)
        layer.add_module(fake_quantizer_name(name), rounder.to(weight.device))
        if weight.numel() and not form.by_rows:
            with torch.no_grad():
                rounder(form.rows(layer, weight.detach()))  # its range, and learned scales, start here
        if isinstance(rounder, LearnedFakeQuantize):
            rounder.requires_grad_(weight.requires_grad)


def form_of(kind: type[nn.Module]) -> TrainedForm | None:
    """How layers of a class train, by the first rule for the class or a base whose forward it keeps."""
    for rule in all_rules():
        for base in rule.all_float_types():
            if issubclass(kind, base) and kind.forward is base.forward:
                return rule.trained
    return None


def _class_of(kind: type[nn.Module]) -> type[nn.Module]:
    """The class for layers that were of this one: made once."""
    known = _classes.get(kind)
    if known is None:
        known = _classes[kind] = _make_class(kind)
    return known


_classes: dict[type[nn.Module], type[nn.Module]] = {}


def _make_class(kind: type[nn.Module]) -> type[nn.Module]:
    form = form_of(kind)
    assert form is not None
    members = {"float_class": kind, "form": form, "__module__": __name__}
    return type(f"Trained{kind.__name__}", (TrainedLayer, kind), members)


def _new(kind: type[nn.Module]) -> nn.Module:
    made = _class_of(kind)
    layer: nn.Module = made.__new__(made)
    return layer
