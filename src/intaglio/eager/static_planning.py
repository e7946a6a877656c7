"""Which modules `prepare` observes and why the others stay float: a plan, made before anything is attached.

A module's qconfig is its own attribute `qconfig`, or that of the nearest module around it; None keeps a part
in float. May import rules, qconfig and errors.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from intaglio.eager.observing import is_prepared
from intaglio.eager.planning import paths_of
from intaglio.errors import ConfigError, ConversionError, NothingQuantizedError
from intaglio.fake_quantize import FakeQuantizeBase
from intaglio.nn.quantized import QuantizedModule
from intaglio.observer import PlaceholderObserver
from intaglio.qconfig import QConfig
from intaglio.rules import OpRule, Rules, rule_of, why_no_rule

__all__ = ["Leaf", "StaticPlan", "is_dynamic", "plan_static"]


@dataclass(frozen=True)
class Leaf:
    """One module that will be quantized as a whole, and every path at which it stands.

    Without a rule it is the user's own: `observed_class.from_float` makes what stands for it until `convert`.
    """

    module: nn.Module
    qconfig: QConfig
    paths: tuple[str, ...]
    rule: OpRule | None = None
    observed_class: Any = None


@dataclass
class StaticPlan:
    """What is observed, and for every other module with parameters why it is not."""

    leaves: list[Leaf] = field(default_factory=list)
    kept: dict[str, str] = field(default_factory=dict)


_UNSET: Any = object()


def plan_static(
    model: nn.Module,
    rules: Rules,
    *,
    observed_classes: Mapping[type[nn.Module], Any] | None = None,
    allowed: set[type[nn.Module]] | None = None,
) -> StaticPlan:
    """Decide for every module of `model`; `NothingQuantizedError` if none would be quantized."""
    if is_prepared(model):
        raise ConversionError("the model is prepared already: calibrate it and convert it")
    plan = StaticPlan()
    found: dict[int, tuple[str, Any]] = {}
    for path, module, qconfig in _walk(model, "", _UNSET):
        if id(module) in found:
            first, known = found[id(module)]
            if known is not qconfig:
                raise ConfigError(
                    f"'{first}' and '{path}' are one module, but they inherit two qconfigs: "
                    "give the module one of its own"
                )
        found.setdefault(id(module), (path, qconfig))
    paths = paths_of(model)
    inside: list[str] = []
    for path, module in model.named_modules():
        if any(path.startswith(prefix) for prefix in inside):
            continue
        qconfig = found[id(module)][1]
        leaf, reason = _decide(
            module, qconfig, tuple(paths[id(module)]), rules, observed_classes or {}, allowed
        )
        if leaf is not None or isinstance(module, QuantizedModule):
            inside.append(path + "." if path else "")
        if leaf is not None:
            plan.leaves.append(leaf)
        elif any(True for _ in module.parameters(recurse=False)):
            plan.kept[path] = reason
    _check_something(plan, [qconfig for _, qconfig in found.values()])
    return plan


def is_dynamic(qconfig: QConfig) -> bool:
    """Whether a qconfig asks for activations to be quantized as they come."""
    activation = qconfig.activation()
    return isinstance(activation, PlaceholderObserver) or (
        isinstance(activation, FakeQuantizeBase) and activation.is_dynamic
    )


def _decide(
    module: nn.Module,
    qconfig: Any,
    paths: tuple[str, ...],
    rules: Rules,
    observed_classes: Mapping[type[nn.Module], Any],
    allowed: set[type[nn.Module]] | None,
) -> tuple[Leaf | None, str]:
    """The leaf that `module` becomes, or why it becomes none."""
    if qconfig is _UNSET or qconfig is None:
        return None, "no qconfig" if qconfig is _UNSET else "its qconfig is None"
    _check_qconfig(qconfig, paths[0])
    if type(module) in observed_classes:
        return Leaf(module, qconfig, paths, observed_class=observed_classes[type(module)]), ""
    if allowed is not None and type(module) not in allowed:
        return None, f"{type(module).__name__} is not in allow_list"
    rule = rule_of(module, rules)
    if rule is None:
        return None, why_no_rule(module, rules)
    if is_dynamic(qconfig):
        dtype = qconfig.weight().dtype.name
        if dtype not in rule.weight_dtypes:
            return None, f"{rule.name} has no dynamic {dtype} form"
        reason = rule.refuse(module, qconfig)
    elif rule.static is None:
        return None, f"{rule.name} has no static form"
    else:
        reason = rule.static.refuse(module, qconfig)
    return (Leaf(module, qconfig, paths, rule), "") if reason is None else (None, reason)


def _walk(module: nn.Module, path: str, inherited: Any) -> Iterator[tuple[str, nn.Module, Any]]:
    """Every path of every module with the qconfig that holds there."""
    qconfig = vars(module).get("qconfig", inherited)
    yield path, module, qconfig
    for name, child in module.named_children():
        yield from _walk(child, f"{path}.{name}" if path else name, qconfig)


def _check_qconfig(qconfig: Any, path: str) -> None:
    if not callable(getattr(qconfig, "activation", None)) or not callable(getattr(qconfig, "weight", None)):
        raise ConfigError(
            f"'{path}': its qconfig is a {type(qconfig).__name__}, not an intaglio.QConfig: "
            "set it to intaglio.get_default_qconfig('x86'), or to None to keep the module in float"
        )


def _check_something(plan: StaticPlan, qconfigs: list[Any]) -> None:
    if plan.leaves:
        return
    if all(qconfig is _UNSET for qconfig in qconfigs):
        raise NothingQuantizedError(
            "no module has a qconfig: set model.qconfig = intaglio.get_default_qconfig('x86') before prepare"
        )
    reasons = [f"'{path}': {reason}" for path, reason in list(plan.kept.items())[:5]]
    raise NothingQuantizedError(
        "nothing would be quantized" + (": " + "; ".join(reasons) if reasons else ": no module has a rule")
    )
