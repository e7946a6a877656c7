"""What a recorded graph may call, by name: computations on tensors, and nothing else.

The functions and methods are those that PyTorch lets a tensor-like type override, which by their nature
compute on tensors, less those that reach beyond (raw pointers, storage, hooks, devices, callables), plus
factories, Python's operators, a few of `math` and of Python's built-in functions, and the checks that graphs
from `prepare_fx` make. Nothing here reads, writes, imports, compiles or loads. May import graph_passes.
"""

# ruff: noqa: SIM905 - long lists of names read better as words

from __future__ import annotations

import builtins
import functools
import math
import operator
import types
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.overrides import get_overridable_functions

from intaglio.files.python_names import BUILTINS, MATH, OPERATORS
from intaglio.graph_passes.traced_values import CHECKS

__all__ = ["ATTRIBUTES", "FACTORIES", "RANDOM", "function_called", "is_method_allowed", "name_of_function"]

ATTRIBUTES = frozenset("shape dtype device ndim T mT H mH real imag is_cuda values indices data".split())
"""Attributes of tensors, and of the tuples that torch's functions give, that a graph may read."""

RANDOM = "rand randn randint randperm normal rand_like randn_like randint_like bernoulli multinomial".split()
"""Functions of `torch` whose result is never the same: recorded even where nothing depends on an input."""

FACTORIES = """
    rand randn randint randperm normal rand_like randn_like randint_like arange empty eye full linspace
    logspace ones zeros tril_indices triu_indices bartlett_window blackman_window hamming_window hann_window
""".split()
"""Functions of `torch` that make tensors from sizes."""

# What the list of overridable functions forgets.
_MORE_FUNCTIONAL = """
    celu_ elu_ hardsigmoid hardswish hardtanh_ leaky_relu_ relu_ rrelu_ selu_ sigmoid tanh threshold_
""".split()
_MORE_TORCH = ["_assert", "_weight_norm"]
_MORE_METHODS = "new_empty new_full new_ones new_zeros unflatten".split()

# What reaches beyond the values of tensors, or is an inner kernel that leaves checking to its caller.
_BEYOND_PREFIXES = tuple(
    """
    _ as_strided batch_norm_ const_data cudnn_ data_ptr fake_quant fbgemm_ fused_moving_ miopen_ native_ q_
    quantize register_ resize set_ slice_inverse sparse_resize sym_ unsafe_
    """.split()
)
_BEYOND = frozenset(
    """
    apply_ autocast backward choose_qparams_optimized cuda int_repr ipu is_distributed is_inference is_pinned
    is_set_to is_shared map_ map2_ module_load mtia numpy pin_memory qscheme record_stream requires_grad_
    retain_grad share_memory_ storage storage_offset storage_type to_mkldnn tolist
    triplet_margin_with_distance_loss untyped_storage xpu
    """.split()
)


def name_of_function(function: Callable[..., Any]) -> str | None:
    """The name by which a file calls `function`, or None if a file cannot."""
    return _names().get(id(function))


def function_called(name: str) -> Callable[..., Any] | None:
    """The function that a file calls `name`, or None if there is none that it may call."""
    return _functions().get(name)


def is_method_allowed(name: str) -> bool:
    """Whether a file may call the tensors' method `name`."""
    return name in _methods()


@functools.cache
def _functions() -> dict[str, Callable[..., Any]]:
    """Every allowed function by its name."""
    found: dict[str, Callable[..., Any]] = {
        **{f"torch.{name}": getattr(torch, name) for name in (*FACTORIES, *_MORE_TORCH)},
        **{f"torch.nn.functional.{name}": getattr(torch.nn.functional, name) for name in _MORE_FUNCTIONAL},
        **{f"operator.{name}": getattr(operator, name) for name in OPERATORS},
        **{f"math.{name}": getattr(math, name) for name in MATH},
        **{f"builtins.{name}": getattr(builtins, name) for name in BUILTINS},
        **{f"intaglio.{check.__name__}": check for check in CHECKS},
    }
    overridable = {id(f) for functions in get_overridable_functions().values() for f in functions}
    for module in (torch, torch.nn.functional, torch.linalg, torch.fft, torch.special):
        for name, value in _public(module):
            if id(value) in overridable:
                found[f"{module.__name__}.{name}"] = value
    return found


def _public(module: types.ModuleType) -> Iterator[tuple[str, Callable[..., Any]]]:
    for name, value in vars(module).items():
        if callable(value) and not isinstance(value, type) and not _is_beyond(name):
            yield name, value


@functools.cache
def _names() -> dict[int, str]:
    """The names by the identity of the functions; of several names, the first."""
    return {id(function): name for name, function in reversed(_functions().items())}


@functools.cache
def _methods() -> frozenset[str]:
    """Every allowed method of tensors."""
    overridable = {getattr(f, "__name__", "_") for f in get_overridable_functions()[torch.Tensor]}
    return frozenset(
        name
        for name in overridable.union(_MORE_METHODS)
        if not _is_beyond(name) and callable(getattr(torch.Tensor, name, None))
    )


def _is_beyond(name: str) -> bool:
    return name in _BEYOND or name.startswith(_BEYOND_PREFIXES) or name.endswith("_copy")
