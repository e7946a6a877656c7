"""The one table of what can be quantized: an `OpRule` for each kind of float module.

A rule says everything about its op and stands in the file of `intaglio.nn` that implements it; adding
an op is adding a file with a registered rule. May import qconfig.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal

from torch import Tensor, nn

from intaglio.errors import ConfigError
from intaglio.qconfig import QConfig
from intaglio.qparams import QParams

__all__ = [
    "Example",
    "OpRule",
    "Rules",
    "StaticForm",
    "TrainedForm",
    "all_rules",
    "reader_of",
    "register_rule",
    "rule_of",
    "why_no_rule",
]

Example = tuple[nn.Module, tuple[Any, ...]]


def _no_dynamic_form(module: nn.Module, qconfig: QConfig, path: str) -> nn.Module:
    raise ConfigError(f"'{path}': {type(module).__name__} has no dynamic quantized form")


@dataclass(frozen=True)
class StaticForm:
    """How one kind of float module becomes one between `QTensor`s, after its output was observed.

    lower: makes the quantized module from the float one, its qconfig, its path and its output's parameters,
        which are None if the output is float or was never seen.
    output: "observed", "float" (nothing is observed; the quantized module gives float tensors), or the
        parameters that hold whatever comes (a sigmoid's 0..1).
    input_channels: of a layer with weights, how many channels its input has and along which axis, counted
        from the last: their means are recorded, so that the bias can take up what rounding weights shifts.
    may_be_unseen: whether the module can be converted without having seen data.
    refuse: why this very module must stay float, or None.
    examples: small float modules with float inputs, on which the tests prove the form.
    """

    lower: Callable[[nn.Module, QConfig, str, QParams | None], nn.Module]
    output: Literal["observed", "float"] | QParams = "observed"
    input_channels: Callable[[nn.Module], tuple[int, int]] | None = None
    may_be_unseen: bool = False
    refuse: Callable[[nn.Module, QConfig], str | None] = lambda module, qconfig: None
    examples: tuple[Callable[[], Example], ...] = ()
    floor_sqnr: float = 30.0


def _as_it_is(module: nn.Module, weight: Tensor) -> Tensor:
    return weight


@dataclass(frozen=True)
class TrainedForm:
    """How one kind of float layer trains for quantization.

    forward: `forward(module, weights, *args, **kwargs)` computes what the float module does, with these
        weights, by name, in place of its own.
    weights: the names of the module's weights that are rounded.
    rounder: what makes a weight's fake quantizer, where the qconfig's weight alone does not say.
    by_rows: whether rows are rounded as they are looked up, so that no weight is rounded as a whole.
    rows, unrows: a weight with its output channels first, and back.
    """

    forward: Callable[..., Any]
    weights: Callable[[nn.Module], tuple[str, ...]] = lambda module: ("weight",)
    rounder: Callable[[QConfig], Callable[..., Any]] = lambda qconfig: qconfig.weight
    by_rows: bool = False
    rows: Callable[[nn.Module, Tensor], Tensor] = _as_it_is
    unrows: Callable[[nn.Module, Tensor], Tensor] = _as_it_is


@dataclass(frozen=True)
class OpRule:
    """How one kind of float module is quantized.

    float_types: the float classes, and with them subclasses that keep their `forward`.
    float_type_names: further classes by qualified name, for libraries that may not be installed.
    static: its form between `QTensor`s, or None.
    trained: how it trains for quantization, if it has weights to round.
    lower_dynamic: makes the quantized module from the float one, its qconfig and its path.
    weight_dtypes: names of the weight types that `lower_dynamic` can make.
    default_for: names of the types for which `quantize_dynamic` takes this op when not told what to take.
    refuse: why this very module must stay float, or None.
    covers: further types by which a user may ask for this rule (MultiheadAttention is made of Linear).
    reads_children: the float module reads its children's weights itself, so that no child can be replaced
        without it.
    examples: small float modules with inputs, on which the tests prove the rule.
    """

    name: str
    float_types: tuple[type[nn.Module], ...]
    static: StaticForm | None = None
    trained: TrainedForm | None = None
    lower_dynamic: Callable[[nn.Module, QConfig, str], nn.Module] = _no_dynamic_form
    weight_dtypes: frozenset[str] = frozenset()
    default_for: frozenset[str] = frozenset()
    float_type_names: frozenset[str] = frozenset()
    refuse: Callable[[nn.Module, QConfig], str | None] = lambda module, qconfig: None
    covers: tuple[type[nn.Module], ...] = ()
    reads_children: bool = False
    examples: tuple[Callable[[], Example], ...] = ()
    floor_sqnr: float = 25.0

    def all_float_types(self) -> tuple[type[nn.Module], ...]:
        """`float_types` and those of `float_type_names` whose library is loaded."""
        return self.float_types + tuple(_loaded_types(self.float_type_names))

    def matches(self, module: nn.Module) -> bool:
        """Whether `module` is of this rule's types and computes what they compute."""
        return "forward" not in vars(module) and any(
            isinstance(module, kind) and type(module).forward is kind.forward
            for kind in self.all_float_types()
        )


Rules = Sequence[OpRule]

_rules: list[OpRule] = []


def register_rule(rule: OpRule) -> OpRule:
    """Add a rule; rules added later win, so that a user's own comes before ours."""
    import_module("intaglio.nn")  # ours are there before it, even if nothing else has been imported
    _rules.insert(0, rule)
    return rule


def all_rules() -> tuple[OpRule, ...]:
    """Every registered rule, the latest first."""
    import_module("intaglio.nn")  # which registers ours
    return tuple(_rules)


def rule_of(module: nn.Module, rules: Rules) -> OpRule | None:
    """The first of `rules` that is for `module`, or None."""
    return next((rule for rule in rules if rule.matches(module)), None)


def reader_of(module: nn.Module, rules: Rules) -> OpRule | None:
    """The rule of whose kind `module` is and whose floats read their children's weights, or None.

    A subclass with a forward of its own has no rule, but may call the forward that reads them.
    """
    readers = (rule for rule in rules if rule.reads_children)
    return next((rule for rule in readers if isinstance(module, rule.all_float_types())), None)


def why_no_rule(module: nn.Module, rules: Rules) -> str:
    """Why `rule_of(module, rules)` is None, in words for the user."""
    for rule in rules:
        for kind in rule.all_float_types():
            if isinstance(module, kind):
                if "forward" in vars(module):
                    return f"its forward is replaced on this very {type(module).__name__}"
                return f"its class overrides {kind.__name__}.forward"
    return f"no rule for {type(module).__name__}"


def _loaded_types(names: Iterable[str]) -> Iterable[type[nn.Module]]:
    for name in names:
        module_name, _, class_name = name.rpartition(".")
        found = getattr(sys.modules.get(module_name), class_name, None)
        if isinstance(found, type) and issubclass(found, nn.Module):
            yield found
