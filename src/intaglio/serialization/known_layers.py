"""Layers of `torch.nn` that a file can name: described by their constructor's arguments, and built from them.

A description is proved when it is made: the layer that it builds must have the same attributes, parameters,
buffers and children. A layer that a user has bent (hooks, replaced attributes, another activation) has no
description, and the reason says why. So are the float layers that graph mode makes. May import nn,
allowed_functions, values and errors.
"""

# ruff: noqa: SIM905 - long lists of names read better as words

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from intaglio.errors import FileFormatError
from intaglio.nn import DeQuantStub, FusedModule, QuantStub, ResidualLayer
from intaglio.nn.padded_conv import PaddedConv1d, PaddedConv2d, PaddedConv3d
from intaglio.serialization.allowed_functions import function_called, name_of_function
from intaglio.serialization.values import UnstorableError, decode, encode

__all__ = [
    "build_layer",
    "describe_layer",
    "holds_any_children",
    "holds_any_tensors",
    "is_known_class",
    "qualified_name",
]

_LAYERS = """
    AdaptiveAvgPool1d AdaptiveAvgPool2d AdaptiveAvgPool3d AdaptiveMaxPool1d AdaptiveMaxPool2d
    AdaptiveMaxPool3d AlphaDropout AvgPool1d AvgPool2d AvgPool3d BatchNorm1d BatchNorm2d BatchNorm3d
    Bilinear CELU ChannelShuffle CircularPad1d CircularPad2d CircularPad3d ConstantPad1d ConstantPad2d
    ConstantPad3d Conv1d Conv2d Conv3d ConvTranspose1d ConvTranspose2d ConvTranspose3d CosineSimilarity
    Dropout Dropout1d Dropout2d Dropout3d ELU Embedding EmbeddingBag FeatureAlphaDropout Flatten Fold GELU
    GLU GRU GRUCell GroupNorm Hardshrink Hardsigmoid Hardswish Hardtanh Identity InstanceNorm1d
    InstanceNorm2d InstanceNorm3d LPPool1d LPPool2d LPPool3d LSTM LSTMCell LayerNorm LeakyReLU Linear
    LocalResponseNorm LogSigmoid LogSoftmax MaxPool1d MaxPool2d MaxPool3d MaxUnpool1d MaxUnpool2d
    MaxUnpool3d Mish ModuleDict ModuleList MultiheadAttention PReLU PairwiseDistance PixelShuffle
    PixelUnshuffle RMSNorm RNN RNNCell RReLU ReLU ReLU6 ReflectionPad1d ReflectionPad2d ReflectionPad3d
    ReplicationPad1d ReplicationPad2d ReplicationPad3d SELU Sequential SiLU Sigmoid Softmax Softmax2d
    Softmin Softplus Softshrink Softsign Tanh Tanhshrink Threshold Transformer TransformerDecoder
    TransformerDecoderLayer TransformerEncoder TransformerEncoderLayer Unflatten Unfold Upsample
    UpsamplingBilinear2d UpsamplingNearest2d ZeroPad1d ZeroPad2d ZeroPad3d
""".split()

_CLASSES: dict[str, type[nn.Module]] = {
    **{f"torch.nn.{name}": getattr(nn, name) for name in _LAYERS if hasattr(nn, name)},
    "torch.nn.NonDynamicallyQuantizableLinear": NonDynamicallyQuantizableLinear,
    "torch.nn.Module": nn.Module,  # what holds others in a torch.fx.GraphModule
    "intaglio.nn.FusedModule": FusedModule,
    "intaglio.nn.ResidualLayer": ResidualLayer,
    **{f"intaglio.nn.{kind.__name__}": kind for kind in (PaddedConv1d, PaddedConv2d, PaddedConv3d)},
    "intaglio.nn.QuantStub": QuantStub,
    "intaglio.nn.DeQuantStub": DeQuantStub,
}
_NAMES = {kind: name for name, kind in _CLASSES.items()}

_MOST_RNN_LAYERS = 1000
_RNN_ARGUMENTS = "input_size hidden_size num_layers bias batch_first dropout bidirectional proj_size".split()
_NOT_ARGUMENTS = frozenset(["self", "device", "dtype", "args", "kwargs", "modules", "_weight", "_freeze"])
_MODULE_ATTRIBUTES = frozenset(vars(nn.Module()))


def is_known_class(module: nn.Module) -> bool:
    """Whether files know the very class of `module`; a subclass may compute something else."""
    return type(module) in _NAMES


def qualified_name(module: nn.Module) -> str:
    """The class's name for a recipe."""
    return _NAMES.get(type(module), f"{type(module).__module__}.{type(module).__qualname__}")


def holds_any_children(module: nn.Module) -> bool:
    """Whether `module` is a container whose children have the names that one gives them."""
    return isinstance(module, (nn.Sequential, nn.ModuleList, nn.ModuleDict)) or holds_any_tensors(module)


def holds_any_tensors(module: nn.Module) -> bool:
    """Whether `module` is a container of tensors as well: a graph, or a plain `nn.Module` in one."""
    return type(module) is nn.Module or isinstance(module, fx.GraphModule)


def describe_layer(module: nn.Module) -> dict[str, Any]:
    """Encoded arguments from which `build_layer` makes this layer, without its tensors and children.

    Raises `UnstorableError`, saying why, if there are none.
    """
    if not is_known_class(module):
        raise UnstorableError(f"{type(module).__name__} is not a layer of torch.nn")
    if module._forward_hooks or module._forward_pre_hooks:
        raise UnstorableError("it has forward hooks, which are code")
    arguments = {name: encode(value) for name, value in _arguments_of(module).items()}
    try:
        rebuilt = build_layer(_NAMES[type(module)], arguments)
    except FileFormatError as error:
        raise UnstorableError(f"its attributes do not make another one: {error}") from None
    _check_alike(module, rebuilt)
    return arguments


def build_layer(class_name: str, arguments: Mapping[str, Any]) -> nn.Module:
    """The layer of that name, on the meta device: nothing is allocated. `FileFormatError` if it is none."""
    kind = _CLASSES.get(class_name)
    if kind is None:
        raise FileFormatError(f"{class_name[:80]!r} is not a layer that files may name")
    decoded = {name: decode(value, f"an argument of {class_name}") for name, value in arguments.items()}
    if not _NOT_ARGUMENTS.isdisjoint(decoded):
        raise FileFormatError(f"{class_name} is given {sorted(decoded)}, which files may not give")
    build: Callable[..., nn.Module] = _BUILDERS.get(kind, _call_constructor)
    try:
        with torch.device("meta"):
            return build(kind, **decoded)
    except Exception as error:  # whatever a constructor of torch.nn raises for absurd arguments
        raise FileFormatError(f"{class_name} cannot be built from {str(arguments)[:200]}: {error}") from None


# ---- Arguments -------------------------------------------------------------------------------------------


def _arguments_of(module: nn.Module) -> dict[str, Any]:
    if isinstance(module, nn.RNNBase):
        names = [*_RNN_ARGUMENTS, "nonlinearity"] if isinstance(module, nn.RNN) else _RNN_ARGUMENTS
        return {name: getattr(module, name) for name in names if name != "proj_size" or module.proj_size}
    if isinstance(module, (PaddedConv1d, PaddedConv2d, PaddedConv3d)):
        arguments = _arguments_by_name(module, type(module).__bases__[1])
        del arguments["padding_mode"]  # it is what pads by sides
        return arguments | {"sides": list(module._reversed_padding_repeated_twice)}
    if isinstance(module, ResidualLayer):
        return {"activation": module.activation is not None}
    if isinstance(module, nn.PairwiseDistance):
        return _arguments_by_name(module) | {"p": module.norm}
    if isinstance(module, nn.MultiheadAttention):
        arguments = _arguments_by_name(module)
        return arguments | {"bias": module.in_proj_bias is not None, "add_bias_kv": module.bias_k is not None}
    if isinstance(module, (nn.TransformerEncoderLayer, nn.TransformerDecoderLayer)):
        arguments = {"norm_first": module.norm_first, "activation": _name_activation(module.activation)}
        fused = getattr(module, "activation_relu_or_gelu", None)
        return arguments | ({} if fused is None else {"activation_relu_or_gelu": fused})
    if isinstance(module, (nn.TransformerEncoder, nn.TransformerDecoder)):
        names = [
            n
            for n in ("num_layers", "use_nested_tensor", "enable_nested_tensor", "mask_check")
            if hasattr(module, n)
        ]
        return {name: getattr(module, name) for name in names} | {"norm": module.norm is not None}
    return _arguments_by_name(module)


def _arguments_by_name(module: nn.Module, kind: type[nn.Module] | None = None) -> dict[str, Any]:
    """The attributes that bear the names of the constructor's parameters, where they are not the defaults.

    The constructor is that of `kind`, if it is given.
    """
    found = {}
    for name, parameter in inspect.signature((kind or type(module)).__init__).parameters.items():
        if name in _NOT_ARGUMENTS or not hasattr(module, name):
            continue
        value = getattr(module, name)
        if name == "bias" and not isinstance(value, bool):
            if not (getattr(module, "affine", True) and getattr(module, "elementwise_affine", True)):
                continue
            value = value is not None
        if type(value) is not type(parameter.default) or value != parameter.default:
            found[name] = value
    return found


def _name_activation(activation: Any) -> str | None:
    """None for a module, which is recorded as a child."""
    if isinstance(activation, nn.Module):
        return None
    name = name_of_function(activation)
    if name is None:
        raise UnstorableError(f"its activation {activation!r:.60} is not one of torch's functions")
    return name


# ---- Construction: the children that constructors make are placeholders, replaced by the recorded ones ----


def _call_constructor(kind: type[nn.Module], **arguments: Any) -> nn.Module:
    return kind(**arguments)


def _build_rnn(kind: type[nn.Module], **arguments: Any) -> nn.Module:
    layers = arguments.get("num_layers", 1)
    if type(layers) is not int or layers > _MOST_RNN_LAYERS:
        raise ValueError(f"it claims {layers!r:.40} layers")
    dropout = arguments.pop("dropout", 0.0)
    built = kind(**arguments)
    built.dropout = dropout  # set afterwards: the constructor warns of dropout in a single layer
    return built


def _build_transformer_layer(
    kind: type[nn.Module], norm_first: bool, activation: str | None, **attributes: Any
) -> nn.Module:
    function = nn.Identity() if activation is None else function_called(activation)
    if function is None:
        raise ValueError(f"the activation {activation!r:.60} is not one of torch's functions")
    return _with_attributes(kind(1, 1, 1, norm_first=norm_first, activation=function), attributes)


def _build_transformer_stack(kind: type[nn.Module], norm: bool, **attributes: Any) -> nn.Module:
    more = {"enable_nested_tensor": False} if kind is nn.TransformerEncoder else {}
    return _with_attributes(kind(nn.Identity(), 0, norm=nn.Identity() if norm else None, **more), attributes)


def _with_attributes(built: nn.Module, attributes: Mapping[str, Any]) -> nn.Module:
    for name, value in attributes.items():
        if name.startswith("_") or name not in vars(built) or type(value) not in (bool, int):
            raise ValueError(f"it has no attribute {name!r:.40}")
        setattr(built, name, value)
    return built


def _build_residual(kind: type[nn.Module], activation: bool) -> nn.Module:
    return kind(nn.Identity(), nn.Identity() if activation else None)


def _build_transformer(kind: type[nn.Module], **arguments: Any) -> nn.Module:
    return kind(**arguments, custom_encoder=nn.Identity(), custom_decoder=nn.Identity())


_BUILDERS: dict[type[nn.Module], Callable[..., nn.Module]] = {
    **dict.fromkeys((nn.LSTM, nn.GRU, nn.RNN), _build_rnn),
    **dict.fromkeys((nn.TransformerEncoderLayer, nn.TransformerDecoderLayer), _build_transformer_layer),
    **dict.fromkeys((nn.TransformerEncoder, nn.TransformerDecoder), _build_transformer_stack),
    nn.Transformer: _build_transformer,
    ResidualLayer: _build_residual,
}


# ---- Proof -----------------------------------------------------------------------------------------------


def _check_alike(module: nn.Module, rebuilt: nn.Module) -> None:
    """Raise `UnstorableError` unless the two compute the same once they hold the same tensors."""
    for name in () if holds_any_tensors(module) else ("_parameters", "_buffers"):
        found, expected = _shapes(getattr(module, name)), _shapes(getattr(rebuilt, name))
        if found != expected:
            raise UnstorableError(f"its {name[1:]} are {found}, where another one has {expected}")
    if not holds_any_children(module) and {*module._modules} != {*rebuilt._modules}:
        raise UnstorableError(f"its children are {[*module._modules]}, not {[*rebuilt._modules]}")
    attributes = vars(module)
    for name, expected in vars(rebuilt).items():
        if name.startswith("_") or name in _MODULE_ATTRIBUTES:
            continue
        if name not in attributes or not _is_same(attributes[name], expected):
            raise UnstorableError(
                f"its attribute {name!r} is {attributes.get(name)!r:.60}, not {expected!r:.60}"
            )
    for name in attributes.keys() - vars(rebuilt).keys():
        if hasattr(type(module), name):
            raise UnstorableError(f"its {name!r} has been replaced")


def _shapes(tensors: Mapping[str, Tensor | None]) -> dict[str, tuple[int, ...] | None]:
    return {name: None if tensor is None else tuple(tensor.shape) for name, tensor in tensors.items()}


def _is_same(a: Any, b: Any) -> bool:
    if isinstance(a, nn.Module) and isinstance(b, nn.Module):
        return True
    return (
        a is b
        or (type(a) is type(b) and bool(a == b))
        or (isinstance(a, (tuple, list)) and tuple(a) == tuple(b))
    )
