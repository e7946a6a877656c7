"""In eval mode a model that trains for quantization computes with the kernels that will run it.

In float the same sums come out a rounding apart, and where a value lies on the edge between two integers that
makes a step; a deep network can grow such a step into many. So that what is evaluated is what `convert` will
give, to the bit, each layer's result in eval mode is that of its quantized form, wherever its inputs are
known to be whole steps. Gradients go through the float computation all the same. May import conversion,
observing, fake_quantize, nn and below.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence
from torch.utils._pytree import tree_leaves, tree_map

from intaglio.eager.conversion import quantized_form
from intaglio.eager.observing import observer_of, observing_hook
from intaglio.eager.static_planning import Leaf, is_dynamic
from intaglio.errors import IntaglioError
from intaglio.fake_quantize import ROUNDED_BY, FakeQuantize, FakeQuantizeBase, keep_gradient
from intaglio.nn.float_functional import FloatFunctional
from intaglio.nn.stubs import QuantStub
from intaglio.ops.layout import dequantize_image, quantize_image
from intaglio.qparams import QParams, as_uint8
from intaglio.qtensor import QTensor

__all__ = ["OnIntegers", "rehearse_layers"]

_IMAGE_DIMS = (4, 5)

AVERAGES = (
    *(nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d),
    *(nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d),
    *(nn.Upsample, nn.UpsamplingBilinear2d),
)
"""Modules that work on a `QTensor` as they are and round what they give to the steps of what they take."""

MOVES = (
    *(nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d),
    *(nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d),
    *(nn.ReLU, nn.ReLU6, nn.Hardtanh, nn.Identity, nn.Flatten, nn.Unflatten),
    *(nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.PixelShuffle, nn.UpsamplingNearest2d),
)
"""Modules that work on a `QTensor` as they are and only move values, or cut them off."""


def rehearse_layers(model: nn.Module, leaves: Sequence[Leaf]) -> None:
    """Let the prepared `leaves` of `model`, and what lies between them, compute on integers in eval mode."""
    prepared = set()
    for leaf in leaves:
        module = leaf.module
        prepared.add(module)
        if isinstance(module, FloatFunctional):
            if isinstance(module.activation_post_process, FakeQuantizeBase):
                module.rehearsal = rehearse
        elif isinstance(observer_of(module), FakeQuantizeBase):
            if not isinstance(module, QuantStub):
                module.register_forward_hook(rehearse, with_kwargs=True)
        elif is_dynamic(leaf.qconfig):
            module.register_forward_hook(rehearse_dynamic, with_kwargs=True)
    for part in model.modules():
        if (type(part) in AVERAGES or type(part) in MOVES) and part not in prepared:
            part.register_forward_hook(carry_on)


# ---- What a float tensor is in integers --------------------------------------------------------------------


def _mark_of(x: Any) -> FakeQuantize | QParams | None:
    """What rounded `x`, or the tensor that it is a view of: a fake quantizer, or a layer's integers."""
    if not isinstance(x, Tensor):
        return None
    found = getattr(x, ROUNDED_BY, None)
    if found is None and x._is_view() and x._base is not None:
        found = getattr(x._base, ROUNDED_BY, None)
    return found if isinstance(found, FakeQuantize | QParams) else None


def _as_integers(x: Any) -> Any:
    """The `QTensor` that `x` is, or `x` itself where it is none: its values are compared."""
    mark = _mark_of(x)
    if mark is None or x.dtype is not torch.float32 or not x.is_cpu:
        return x
    parameters = mark if isinstance(mark, QParams) else _parameters_of(mark)
    if parameters is None or parameters.axis is not None:
        return x
    plain = x.dim() not in _IMAGE_DIMS
    data = quantize_image(x.detach(), *parameters.scalars, *parameters.limits(), plain=plain)
    if not torch.equal(dequantize_image(data, *parameters.scalars), x.detach()):
        return x  # changed in place since, or cut from something else
    return QTensor(data, parameters)


_parameters: WeakKeyDictionary[nn.Module, tuple[tuple[float, float], QParams]] = WeakKeyDictionary()


def _parameters_of(rounder: FakeQuantize) -> QParams | None:
    """Its parameters in uint8: the same object while they stay the same, so that plans for it are kept."""
    if not rounder.has_range or not bool(rounder.fake_quant_enabled):
        return None
    found = rounder.choose()
    known = _parameters.get(rounder)
    if known is None or known[0] != found.scalars:
        try:
            _parameters[rounder] = known = (found.scalars, as_uint8(found))
        except IntaglioError:  # parameters that no uint8 has
            return None
    return known[1]


# ---- Layers ------------------------------------------------------------------------------------------------

_forms: WeakKeyDictionary[nn.Module, tuple[Any, nn.Module | None]] = WeakKeyDictionary()


def _form_of(module: nn.Module) -> nn.Module | None:
    """The quantized form of a prepared layer as it is now; None if it has none yet."""
    rounders = [part for part in module.modules() if isinstance(part, FakeQuantizeBase)]
    if not all(bool(part.fake_quant_enabled) for part in rounders):
        return None
    output = observer_of(module)
    is_scalar = isinstance(module, FloatFunctional)  # whose sums with numbers need no range
    if isinstance(output, FakeQuantize) and not output.has_range and not is_scalar:
        return None
    tensors = [*module.parameters(), *module.buffers()]
    # The kernels move ranges behind the version counters' back.
    scalars = output.choose().scalars if isinstance(output, FakeQuantize) and output.has_range else None
    key = (*((id(t), 0 if t.is_inference() else t._version) for t in tensors), scalars)
    known = _forms.get(module)
    if known is None or known[0] != key:
        try:
            with torch.no_grad():
                form = quantized_form(module)
        except IntaglioError:  # convert will say why
            form = None
        _forms[module] = known = (key, form)
    return known[1]


@observing_hook
def rehearse(module: nn.Module, inputs: Any, named: Any, output: Any) -> Any:
    """Forward hook: in eval mode, give what the layer's quantized form gives."""
    if module.training or torch.compiler.is_compiling():
        _forms.pop(module, None)
        return output
    integers, named_integers = tree_map(_as_integers, (inputs, named), is_leaf=_is_packed)
    taken = _first_tensors(integers)
    if not taken or not all(isinstance(x, QTensor) for x in taken):
        return output
    form = _form_of(module)
    if form is None:
        return output
    with torch.no_grad():
        return _instead(output, form(*integers, **named_integers))


@observing_hook
def rehearse_dynamic(module: nn.Module, inputs: Any, named: Any, output: Any) -> Any:
    """The same for a layer that quantizes its input as it comes, and gives floats."""
    if module.training or torch.compiler.is_compiling():
        _forms.pop(module, None)
        return output
    tensors = [x for x in tree_leaves((inputs, named)) if isinstance(x, Tensor)]
    form = _form_of(module) if all(x.is_cpu and x.dtype is not torch.float64 for x in tensors) else None
    if form is None:
        return output
    with torch.no_grad():
        plain, named_plain = tree_map(_detached, (inputs, named), is_leaf=_is_packed)
        return _instead(output, form(*plain, **named_plain))


def _is_packed(x: Any) -> bool:
    return isinstance(x, PackedSequence)


def _detached(x: Any) -> Any:
    if isinstance(x, PackedSequence):
        return x._replace(data=x.data.detach())
    return x.detach() if isinstance(x, Tensor) else x


def _first_tensors(inputs: Any) -> list[Any]:
    """The tensors that a layer takes as arguments of their own; states in tuples may be floats."""
    found: list[Any] = []
    for x in inputs:
        if isinstance(x, (Tensor, QTensor)):
            found.append(x)
        elif isinstance(x, list):
            found += x
    return found


def _instead(output: Any, found: Any) -> Any:
    """`found` with the gradients of `output`, part by part."""
    if isinstance(found, PackedSequence):
        return output._replace(data=_instead(output.data, found.data))
    if isinstance(found, tuple) and isinstance(output, tuple):
        return type(output)(_instead(a, b) for a, b in zip(output, found, strict=True))
    if not isinstance(found, (QTensor, Tensor)) or not isinstance(output, Tensor):
        return output
    exact = dequantize_image(found.data, *found.qparams.scalars) if isinstance(found, QTensor) else found
    with torch.enable_grad():
        exact = keep_gradient(output, exact) if output.requires_grad else exact
    if isinstance(found, QTensor):
        vars(exact)[ROUNDED_BY] = found.qparams
    return exact


# ---- Between layers ----------------------------------------------------------------------------------------


@observing_hook
def carry_on(module: nn.Module, inputs: Any, output: Any) -> Any:
    """Forward hook of what works on a `QTensor` as it is: its result is in steps of its input."""
    is_average = type(module) in AVERAGES
    return _carried(lambda x: type(module).forward(module, x), inputs, output, module.training, is_average)


def _carried(
    function: Callable[..., Any], inputs: Any, output: Any, is_training: bool, is_average: bool
) -> Any:
    mark = _mark_of(inputs[0]) if inputs else None
    if mark is None or not isinstance(output, Tensor) or torch.compiler.is_compiling():
        return output
    x = inputs[0] if is_training else _as_integers(inputs[0])
    if isinstance(x, QTensor):
        with torch.no_grad():
            found = function(x, *inputs[1:])
        same = isinstance(found, QTensor) and found.shape == output.shape
        return _instead(output, found) if same else output
    if is_average:
        return mark.round_again(output) if isinstance(mark, FakeQuantize) else output
    if is_training and output is not inputs[0]:
        vars(output)[ROUNDED_BY] = mark
    return output


class OnIntegers(nn.Module):
    """A function or a method between layers of a graph that trains; `convert_fx` puts it back as it was."""

    def __init__(self, op: str, target: Any, is_average: bool) -> None:
        super().__init__()
        self.op, self.target, self.is_average = op, target, is_average

    def forward(self, *inputs: Any, **named: Any) -> Any:
        """Call it, in steps of its first argument."""
        return _carried(
            lambda *others: self._call(*others, **named),
            inputs,
            self._call(*inputs, **named),
            self.training,
            self.is_average,
        )

    def _call(self, *inputs: Any, **named: Any) -> Any:
        if self.op == "call_method":
            return getattr(inputs[0], self.target)(*inputs[1:], **named)
        return self.target(*inputs, **named)

    def extra_repr(self) -> str:
        """What `print` shows."""
        return str(self.target if self.op == "call_method" else getattr(self.target, "__name__", self.target))
