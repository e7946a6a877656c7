"""Functions, methods and operators become modules: what eager `prepare` can observe and `convert` can lower.

A function whose weights are the model's own tensors becomes the layer of `torch.nn` that computes it; sums,
products and joins become the methods of a `FloatFunctional` each. May import graphs, nn and below.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from intaglio.graph_passes.einsum import rewrite_einsum
from intaglio.graph_passes.graphs import (
    add_module,
    carry_meta,
    constant_of,
    drop_dead_nodes,
    is_constant,
    module_of,
    scope_of,
    shape_of,
    value_of,
)
from intaglio.graph_passes.layers import LAYERS, linear_of
from intaglio.graph_passes.normalizing import CHANGES_OTHERS
from intaglio.graph_passes.tracer import VALUES
from intaglio.nn import DeQuantStub, FloatFunctional, QuantStub

__all__ = ["KEYS", "drop_what_does_nothing", "modularize"]

KEYS = "intaglio_keys"
"""In a node's meta: what a user may call it in a QConfigMapping, the function that stood there first."""


@dataclass(frozen=True)
class _Form:
    """How a function of one tensor becomes a module: its parameters in order, and the module for them."""

    parameters: tuple[str, ...]
    make: Callable[..., nn.Module | None]
    name: str


def _form(parameters: str, make: Callable[..., nn.Module | None], name: str = "") -> _Form:
    return _Form(tuple(parameters.split()), make, name or getattr(make, "__name__", "layer").lower())


def _plain(kind: type[nn.Module], *names: str) -> _Form:
    """An activation, with those arguments that the module knows by the same name."""

    def make(**given: Any) -> nn.Module:
        return kind(**{name: value for name, value in given.items() if name in names})

    return _Form((*names, "inplace"), make, kind.__name__.lower())


def _softmax(dim: int | None = None, dtype: Any = None, **rest: Any) -> nn.Module | None:
    return None if dim is None or dtype is not None else nn.Softmax(dim)


def _clamp(min: Any = None, max: Any = None) -> nn.Module | None:
    numbers = isinstance(min, (int, float)) and isinstance(max, (int, float))
    if min == 0 and max is None:
        return nn.ReLU()
    return nn.Hardtanh(float(min), float(max)) if numbers and min < max else None


_ACTIVATIONS: dict[Any, _Form] = {
    (F.relu, F.relu_, torch.relu, torch.relu_, "relu", "relu_"): _plain(nn.ReLU),
    (F.relu6,): _plain(nn.ReLU6),
    (F.hardtanh, F.hardtanh_): _plain(nn.Hardtanh, "min_val", "max_val"),
    (torch.clamp, torch.clip, torch.clamp_, "clamp", "clip", "clamp_", "clip_"): _form(
        "min max", _clamp, "hardtanh"
    ),
    (F.leaky_relu, F.leaky_relu_): _plain(nn.LeakyReLU, "negative_slope"),
    (F.elu, F.elu_): _plain(nn.ELU, "alpha"),
    (F.celu, torch.celu): _plain(nn.CELU, "alpha"),
    (F.selu, torch.selu): _plain(nn.SELU),
    (F.gelu,): _plain(nn.GELU, "approximate"),
    (F.silu,): _plain(nn.SiLU),
    (F.mish,): _plain(nn.Mish),
    (F.softplus,): _form("beta threshold", nn.Softplus),
    (F.hardswish,): _plain(nn.Hardswish),
    (F.hardsigmoid,): _plain(nn.Hardsigmoid),
    (F.sigmoid, torch.sigmoid, torch.special.expit, "sigmoid", "sigmoid_"): _plain(nn.Sigmoid),
    (F.tanh, torch.tanh, "tanh", "tanh_"): _plain(nn.Tanh),
    (F.logsigmoid,): _plain(nn.LogSigmoid),
    (F.softsign,): _plain(nn.Softsign),
    (F.tanhshrink,): _plain(nn.Tanhshrink),
    (F.softshrink,): _form("lambd", nn.Softshrink),
    (F.hardshrink, torch.hardshrink, "hardshrink"): _form("lambd", nn.Hardshrink),
    (F.threshold, torch.threshold): _plain(nn.Threshold, "threshold", "value"),
    (F.softmax, torch.softmax, "softmax"): _form("dim _stacklevel dtype", _softmax, "softmax"),
}
_FORMS = {key: form for keys, form in _ACTIVATIONS.items() for key in keys}

_ADD = {torch.add, operator.add, operator.iadd, "add", "add_", "__add__", "__radd__", "__iadd__"}
_SUB = {torch.sub, torch.subtract, operator.sub, operator.isub, "sub", "sub_"}
_MUL = {
    torch.mul,
    torch.multiply,
    operator.mul,
    operator.imul,
    "mul",
    "mul_",
    "multiply",
    "__mul__",
    "__rmul__",
}
_DIV = {torch.div, torch.divide, torch.true_divide, operator.truediv, operator.itruediv, "div", "div_"}
_NEG = {torch.neg, torch.negative, operator.neg, "neg", "negative"}
_MATMUL = {torch.matmul, torch.bmm, operator.matmul, "matmul", "bmm", "__matmul__"}
_CAT = {torch.cat, torch.concat, torch.concatenate}
_STACK = {torch.stack}
_SQUARE = {torch.square, "square"}
_ADDMM = {torch.addmm, "addmm"}


def modularize(gm: fx.GraphModule, *, is_qat: bool = False) -> None:
    """Put a module in the place of every function that has one; for training, dropouts stay."""
    for node in list(gm.graph.nodes):
        if node.op in ("call_function", "call_method"):
            node.meta.setdefault(KEYS, (node.target,))
            rewrite_einsum(gm, node)
    for node in list(gm.graph.nodes):
        is_call = node.op in ("call_function", "call_method") and CHANGES_OTHERS not in node.meta
        if is_call and isinstance(value_of(node), Tensor):
            _modularize_node(gm, node)
    drop_what_does_nothing(gm, keep_dropout=is_qat)
    drop_dead_nodes(gm)


def _modularize_node(gm: fx.GraphModule, node: fx.Node) -> None:
    key = node.target
    if not value_of(node).is_floating_point():
        return
    if key in _FORMS:
        _as_activation(gm, node, _FORMS[key])
    elif key in LAYERS:
        _as_layer(gm, node, *LAYERS[key])
    elif key in _ADDMM:
        _as_addmm(gm, node)
    elif key in _MATMUL:
        if not _as_linear(gm, node):
            _as_functional(gm, node, "matmul", node.args[:2])
    elif key in _CAT or key in _STACK:
        _as_cat(gm, node)
    else:
        _as_arithmetic(gm, node)


def _as_activation(gm: fx.GraphModule, node: fx.Node, form: _Form) -> None:
    given = dict(zip(form.parameters, node.args[1:], strict=False)) | dict(node.kwargs)
    x = given.pop("input", None) if not node.args else node.args[0]
    if not isinstance(x, fx.Node) or any(isinstance(value, fx.Node) for value in given.values()):
        return
    module = form.make(**given)
    if module is not None:
        _replace(gm, node, add_module(gm, scope_of(node), form.name, module), (x,))


def _replace(
    gm: fx.GraphModule, node: fx.Node, path: str, args: Sequence[Any], kwargs: Any = None
) -> fx.Node:
    with gm.graph.inserting_before(node):
        made = carry_meta(node, gm.graph.call_module(path, tuple(args), kwargs or {}))
    node.replace_all_uses_with(made)
    gm.graph.erase_node(node)
    return made


# ---- Sums, products, joins -----------------------------------------------------------------------------


def _as_functional(gm: fx.GraphModule, node: fx.Node, operation: str, operands: Sequence[Any]) -> fx.Node:
    path = add_module(gm, scope_of(node), operation, FloatFunctional())
    return _replace(gm, node, path, (operation, *operands))


def _before(gm: fx.GraphModule, node: fx.Node, operation: str, *operands: Any) -> fx.Node:
    """A further operation before `node`, on values of its shape."""
    path = add_module(gm, scope_of(node), operation, FloatFunctional())
    with gm.graph.inserting_before(node):
        made = gm.graph.call_module(path, (operation, *operands))
    made.meta.update(operands[0].meta)
    made.meta[KEYS] = node.meta.get(KEYS, ())
    return made


def _is_float(x: Any) -> bool:
    value = value_of(x) if isinstance(x, fx.Node) else x
    return isinstance(value, Tensor) and value.dtype is torch.float32 and value.dim() > 0


def _is_number(x: Any) -> bool:
    return isinstance(x, (int, float)) and not isinstance(x, bool)


def _as_arithmetic(gm: fx.GraphModule, node: fx.Node) -> None:
    key = node.target
    if len(node.args) == 1 and _is_float(node.args[0]) and not node.kwargs:
        if key in _NEG:
            _as_functional(gm, node, "mul_scalar", (node.args[0], -1.0))
        elif key in _SQUARE:
            _as_functional(gm, node, "mul", (node.args[0], node.args[0]))
        return
    if len(node.args) != 2:
        return
    operands: Any = node.args
    x, y = operands
    alpha: Any = node.kwargs.get("alpha", 1)
    if set(node.kwargs) - {"alpha"} or not _is_number(alpha):
        return
    if _is_float(x) and _is_float(y):
        if key in _SUB or (key in _ADD and alpha != 1):
            factor = -float(alpha) if key in _SUB else float(alpha)
            _as_functional(gm, node, "add", (x, _before(gm, node, "mul_scalar", y, factor)))
        elif key in _ADD or key in _MUL:
            _as_functional(gm, node, "add" if key in _ADD else "mul", (x, y))
    elif _is_float(x) and _is_number(y):
        if key in _ADD or key in _SUB:
            _as_functional(gm, node, "add_scalar", (x, float(y * alpha) * (1 if key in _ADD else -1)))
        elif key in _MUL or (key in _DIV and y != 0):
            _as_functional(gm, node, "mul_scalar", (x, float(y) if key in _MUL else 1.0 / y))
    elif _is_number(x) and _is_float(y):
        if key in _ADD or key in _MUL:
            _as_functional(gm, node, "add_scalar" if key in _ADD else "mul_scalar", (y, float(x)))
        elif key in _SUB:
            _as_functional(gm, node, "add_scalar", (_before(gm, node, "mul_scalar", y, -1.0), float(x)))


def _as_cat(gm: fx.GraphModule, node: fx.Node) -> None:
    named = dict(node.kwargs)
    tensors = node.args[0] if node.args else named.pop("tensors", None)
    dim = node.args[1] if len(node.args) > 1 else named.pop("dim", named.pop("axis", 0))
    if named or not isinstance(tensors, (list, tuple)) or not isinstance(dim, int):
        return
    if not all(_is_float(x) for x in tensors):
        return
    parts = list(tensors)
    if node.target in _STACK:
        with gm.graph.inserting_before(node):
            parts = [_unsqueezed(gm, x, dim) for x in parts]
    _as_functional(gm, node, "cat", (parts, dim))


def _unsqueezed(gm: fx.GraphModule, x: Any, dim: int) -> fx.Node:
    made: fx.Node = gm.graph.call_function(torch.unsqueeze, (x, dim))
    made.meta.update(x.meta)
    made.meta[VALUES] = tuple(value.unsqueeze(dim) for value in x.meta.get(VALUES, ()))
    return made


# ---- Layers whose weights are the model's own tensors --------------------------------------------------


def _as_layer(
    gm: fx.GraphModule, node: fx.Node, parameters: str, make: Callable[..., nn.Module | None]
) -> None:
    names = parameters.split()
    given = dict(zip(names, node.args, strict=False)) | dict(node.kwargs)
    x = given.pop("input", None)
    held: dict[str, Any] = {}
    for name, value in given.items():
        if isinstance(value, fx.Node):
            tensor = constant_of(gm, value)
            if tensor is None:
                return
            held[name] = tensor
        else:
            held[name] = value
    if isinstance(x, fx.Node):
        if node.target is F.batch_norm:
            held["rank"] = len(shape_of(x))
        module = make(**held)
        if module is not None:
            name = str(getattr(node.target, "__name__", "layer"))
            _replace(gm, node, add_module(gm, scope_of(node), name, module), (x,))


def _as_linear(gm: fx.GraphModule, node: fx.Node) -> bool:
    """A product with one of the model's own matrices, as a Linear; whether it was one."""
    x, y = node.args[:2]
    weight = constant_of(gm, y)
    if weight is None or weight.dim() != 2 or is_constant(x) or node.kwargs:
        return False
    module = linear_of(weight.detach().t().contiguous())
    assert module is not None
    _replace(gm, node, add_module(gm, scope_of(node), "linear", module), (x,))
    return True


def _as_addmm(gm: fx.GraphModule, node: fx.Node) -> None:
    if len(node.args) != 3 or node.kwargs:
        return
    bias, weight = constant_of(gm, node.args[0]), constant_of(gm, node.args[2])
    if bias is None or weight is None or bias.dim() != 1 or len(bias) != weight.shape[1]:
        return
    module = linear_of(weight.detach().t().contiguous(), bias)
    assert module is not None
    _replace(gm, node, add_module(gm, scope_of(node), "linear", module), (node.args[1],))


# ---- What does nothing after training ------------------------------------------------------------------

_IDLE = (nn.Identity, QuantStub, DeQuantStub)
"""Stubs too: the passes place their own."""
_DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)
_DROPOUT_FUNCTIONS = {F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout, torch.dropout}


def drop_what_does_nothing(
    gm: fx.GraphModule, *, keep_dropout: bool = False, keep_stubs: bool = False
) -> None:
    """Take out identities, dropouts in eval mode, and conversions to the type that a value has."""
    for node in list(gm.graph.nodes):
        module = module_of(gm, node)
        if module is not None:
            is_dropout = type(module) in _DROPOUTS and not module.training and not keep_dropout
            idle = (type(module) in _IDLE and not keep_stubs) or is_dropout
            idle = idle and not module._forward_hooks and not module._forward_pre_hooks
        elif node.target in _DROPOUT_FUNCTIONS:
            idle = (node.args[2] if len(node.args) > 2 else node.kwargs.get("training", True)) is False
        else:
            idle = _is_same_type(node)
        if idle and node.args and isinstance(node.args[0], fx.Node):
            node.replace_all_uses_with(node.args[0])
            gm.graph.erase_node(node)


def _is_same_type(node: fx.Node) -> bool:
    if node.op != "call_method" or node.target not in ("to", "float", "type", "type_as") or not node.args:
        return False
    before, after = value_of(node.args[0]), value_of(node)
    same = isinstance(before, Tensor) and isinstance(after, Tensor) and before.dtype is after.dtype
    return same and node.kwargs.get("copy", False) is False and shape_of(node) == tuple(before.shape)
