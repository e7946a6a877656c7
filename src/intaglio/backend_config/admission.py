"""Whether a qconfig keeps to what a backend's pattern allows, and in words why not.

May import dtype_config, pattern_config, nn.fused, rules, qconfig, observer and qparams.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any

from torch import nn
from torch.nn.utils.parametrize import type_before_parametrizations

from intaglio.backend_config.dtype_config import DTypeConfig, DTypeWithConstraints
from intaglio.backend_config.pattern_config import Pattern, checked_pattern
from intaglio.nn.fused import FusedModule
from intaglio.nn.normed import NormedLayer
from intaglio.nn.residual import ResidualLayer
from intaglio.observer import FixedQParamsObserver, NoopObserver, PlaceholderObserver
from intaglio.qconfig import QConfig
from intaglio.qparams import FLOAT16, FLOAT32, QParams, QuantizedType, parse_stored_dtype
from intaglio.rules import OpRule, all_rules

__all__ = ["Request", "patterns_of", "rule_of_class", "why_not_admitted"]


def patterns_of(module: nn.Module | Pattern) -> list[Pattern]:
    """The patterns that a module is, or a pattern itself, the most special first.

    A `FusedModule` is the tuple of its parts' classes, or its own class; a `ResidualLayer` or a `NormedLayer`
    is its layer. A
    class also is each base whose `forward` it keeps.

    >>> [kind.__name__ for kind in patterns_of(nn.Linear(2, 3))]
    ['Linear']
    """
    if isinstance(module, ResidualLayer | NormedLayer):
        return patterns_of(module.layer)
    if isinstance(module, FusedModule):
        parts = tuple(type_before_parametrizations(part) for part in module)
        return [*_variants(parts), *_variants((type(module),))]
    if isinstance(module, nn.Module):
        return _variants((type_before_parametrizations(module),))
    pattern = checked_pattern(module)
    return _variants(pattern if isinstance(pattern, tuple) else (pattern,))


def _variants(parts: tuple[Any, ...]) -> list[Pattern]:
    found = list(product(*(_kinds_of(part) for part in parts)))
    return [kinds[0] for kinds in found] if len(parts) == 1 else list(found)


def _kinds_of(part: Any) -> list[Any]:
    if not (isinstance(part, type) and issubclass(part, nn.Module)):
        return [part]
    return [kind for kind in part.__mro__ if issubclass(kind, nn.Module) and kind.forward is part.forward]


def rule_of_class(kind: Any) -> OpRule | None:
    """The rule for modules of a class; None for anything else."""
    kinds = _kinds_of(kind)
    return next((rule for rule in all_rules() for base in rule.all_float_types() if base in kinds), None)


@dataclass(frozen=True)
class Request:
    """What a qconfig asks of an op, read from its observers once.

    quantizes_weight: whether the qconfig's weight observer is used at all; norms and PReLU keep theirs.
    fixed: the parameters that the op's output has whatever comes, if its rule says so.
    """

    activation: Any
    weight: Any
    quantizes_weight: bool
    fixed: QParams | None

    @classmethod
    def of(cls, pattern: Pattern, qconfig: QConfig) -> Request:
        """What `qconfig` asks of `pattern`."""
        parts = pattern if isinstance(pattern, tuple) else (pattern,)
        first, last = rule_of_class(parts[0]), rule_of_class(parts[-1])
        quantizes_weight = first is None or has_quantized_weight(first)
        static = None if last is None else last.static
        output = None if static is None or isinstance(static.output, str) else static.output
        return cls(qconfig.activation(), qconfig.weight(), quantizes_weight, output)

    @property
    def is_dynamic(self) -> bool:
        """Whether activations are to be quantized as they come."""
        return bool(getattr(self.activation, "is_dynamic", False))

    @property
    def observes_nothing(self) -> bool:
        """Whether activations can stay float under this qconfig."""
        return isinstance(self.activation, (PlaceholderObserver, NoopObserver))


def has_quantized_weight(rule: OpRule) -> bool:
    """Whether a rule quantizes a weight by the qconfig's weight observer."""
    return bool(rule.weight_dtypes) or (rule.static is not None and rule.static.input_channels is not None)


def why_not_admitted(config: DTypeConfig, request: Request) -> str | None:
    """Why `config` does not allow what is requested, in words; None if it does."""
    return (
        _why_not_activation(config, request)
        or _why_not_weight(config, request)
        or _why_not_fixed(config.output_dtype_with_constraints, request)
    )


def _why_not_activation(config: DTypeConfig, request: Request) -> str | None:
    found = _dtype_of(request.activation)
    stays_float = config.input_dtype is FLOAT32 and request.observes_nothing
    if config.input_dtype is not None and not stays_float:
        if found is not config.input_dtype:
            return f"activation is {found}, not {config.input_dtype}"
        if request.is_dynamic != bool(config.is_dynamic):
            wanted = "dynamic" if config.is_dynamic else "static"
            return f"activation is {'dynamic' if request.is_dynamic else 'static'}, not {wanted}"
        broken = _why_out_of_limits("activation", request.activation, config.input_dtype_with_constraints)
        if broken is not None:
            return broken
    output = FLOAT32 if stays_float or request.is_dynamic else found
    if config.output_dtype not in (None, output):
        return f"output is {output}, not {config.output_dtype}"
    if config.output_dtype in (None, FLOAT32):
        return None
    return _why_out_of_limits("activation", request.activation, config.output_dtype_with_constraints)


def _why_not_weight(config: DTypeConfig, request: Request) -> str | None:
    if not request.quantizes_weight:
        return None
    found = _dtype_of(request.weight)
    if config.weight_dtype is not None:
        if found is not config.weight_dtype:
            return f"weight is {found}, not {config.weight_dtype}"
        broken = _why_out_of_limits("weight", request.weight, config.weight_dtype_with_constraints)
        if broken is not None:
            return broken
    is_half = not request.is_dynamic and found is FLOAT16 and _dtype_of(request.activation) is FLOAT16
    bias = FLOAT16 if is_half else FLOAT32
    return None if config.bias_dtype in (None, bias) else f"bias is {bias}, not {config.bias_dtype}"


def _why_out_of_limits(role: str, observer: Any, allowed: DTypeWithConstraints) -> str | None:
    dtype = _dtype_of(observer)
    low, high = (getattr(observer, name, None) for name in ("quant_min", "quant_max"))
    low, high = dtype.quant_min if low is None else low, dtype.quant_max if high is None else high
    if allowed.quant_min_lower_bound is not None and low < allowed.quant_min_lower_bound:
        return f"{role} has quant_min {low}, below {allowed.quant_min_lower_bound}"
    if allowed.quant_max_upper_bound is not None and high > allowed.quant_max_upper_bound:
        return f"{role} has quant_max {high}, above {allowed.quant_max_upper_bound}"
    least, smallest = allowed.scale_min_lower_bound, getattr(observer, "eps", None) or 0.0
    if least is not None and smallest < least:
        return f"{role} has eps {smallest:.6g}, below the smallest scale {least:.6g}: set eps on its observer"
    return None


def _why_not_fixed(allowed: DTypeWithConstraints, request: Request) -> str | None:
    """Of an output of a fixed range: by the op's rule, or else by the qconfig's observer."""
    wanted = (allowed.scale_exact_match, allowed.zero_point_exact_match)
    if None in wanted:
        return None
    fixed = request.fixed
    if fixed is None:
        if not isinstance(request.activation, FixedQParamsObserver):
            return "its output's parameters are not fixed: use a FixedQParamsObserver"
        fixed = request.activation.choose()
    if fixed.scalars == wanted:
        return None
    return f"its output has scale and zero point {fixed.scalars}, not {wanted}"


def _dtype_of(observer: Any) -> QuantizedType:
    return parse_stored_dtype(getattr(observer, "dtype", FLOAT32))
