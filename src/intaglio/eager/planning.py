"""Which modules `quantize_dynamic` replaces, and why the others stay: a plan, made before anything moves.

A plan reads the user's specification against the rules. Everything that can be refused is refused here,
so that a conversion which has begun does not fail. May import rules, qconfig and errors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from intaglio.errors import ConfigError, ConversionError, NothingQuantizedError
from intaglio.nn.quantized import QuantizedModule
from intaglio.observer import ObserverBase
from intaglio.qconfig import QConfig, dynamic_qconfig_of
from intaglio.qparams import QuantizedType, parse_dtype
from intaglio.rules import OpRule, Rules, all_rules, reader_of, rule_of, why_no_rule
from intaglio.spelling import did_you_mean

__all__ = [
    "Plan",
    "Replacement",
    "Spec",
    "paths_of",
    "plan_dynamic",
    "read_spec",
    "refuse_model",
    "rules_with",
]

Spec = dict[Any, QConfig | None]


@dataclass(frozen=True)
class Replacement:
    """One float module that will be quantized, and every path at which it stands."""

    module: nn.Module
    rule: OpRule
    qconfig: QConfig
    paths: tuple[str, ...]


@dataclass
class Plan:
    """What is replaced, and for every other module with parameters why it is not."""

    replacements: list[Replacement] = field(default_factory=list)
    kept: dict[str, str] = field(default_factory=dict)


def read_spec(
    qconfig_spec: Mapping[Any, QConfig | None] | Iterable[Any] | None,
    dtype: torch.dtype | str | QuantizedType,
    rules: Rules,
) -> Spec:
    """The user's specification as a dict from module type or name to qconfig."""
    if isinstance(qconfig_spec, Mapping):
        return dict(qconfig_spec)
    qconfig = dynamic_qconfig_of(dtype)
    if qconfig_spec is None:
        name = parse_dtype(dtype).name
        return {
            kind: qconfig for rule in rules if name in rule.default_for for kind in rule.all_float_types()
        }
    if isinstance(qconfig_spec, (str, type)):
        raise ConfigError(
            f"qconfig_spec must be a set of module types or names, not {qconfig_spec!r}: put it in {{}}"
        )
    return dict.fromkeys(qconfig_spec, qconfig)


def rules_with(mapping: Mapping[type[nn.Module], Callable[..., nn.Module]] | None) -> Rules:
    """Every rule, those of the user's `mapping` first."""
    return (*(_rule_from(kind, make) for kind, make in (mapping or {}).items()), *all_rules())


def _rule_from(kind: type[nn.Module], make: Callable[..., nn.Module]) -> OpRule:
    convert = getattr(make, "from_float", make)
    names = frozenset({"int8", "uint8", "uint4", "float16"})
    return OpRule(
        name=kind.__name__,
        float_types=(kind,),
        lower_dynamic=lambda module, qconfig, path: convert(module),
        weight_dtypes=names,
        default_for=names,
    )


def plan_dynamic(model: nn.Module, spec: Spec, rules: Rules) -> Plan:
    """Decide for every module of `model`; `NothingQuantizedError` if none would be quantized."""
    paths = paths_of(model)
    _check_keys(spec, {path for all_of_one in paths.values() for path in all_of_one})
    plan, inside = Plan(), list[str]()
    for path, module in model.named_modules():
        if any(path.startswith(prefix) for prefix in inside):
            continue
        children = path + "." if path else ""
        if isinstance(module, QuantizedModule):
            inside.append(children)
            continue
        qconfig = _qconfig_of(model, paths[id(module)], spec, rules)
        rule = rule_of(module, rules)
        reason = _reason_to_keep(module, rule, qconfig, rules)
        if reason is None:
            assert rule is not None
            assert qconfig is not None
            plan.replacements.append(Replacement(module, rule, qconfig, tuple(paths[id(module)])))
            inside.append(children)
            continue
        if any(True for _ in module.parameters(recurse=False)):
            plan.kept[path] = reason
        reader = reader_of(module, rules)
        if reader is not None:
            _check_no_child_named(path, reader, spec)
            inside.append(children)
            for name, child in module.named_modules():
                if name and any(True for _ in child.parameters(recurse=False)):
                    plan.kept[children + name] = f"part of a float {reader.name}"
    if not plan.replacements:
        raise NothingQuantizedError(_nothing_message(model, spec, plan))
    return plan


def _check_no_child_named(path: str, rule: OpRule, spec: Spec) -> None:
    for name in spec:
        if isinstance(name, str) and name.startswith(path + ".") and spec[name] is not None:
            raise ConfigError(
                f"'{name}' cannot be quantized alone: {rule.name} reads the weights of its children itself; "
                f"ask for '{path}'"
            )


def paths_of(model: nn.Module) -> dict[int, list[str]]:
    """Every path of every module, by the module's id: one that is used in two places has two."""
    paths: dict[int, list[str]] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        paths.setdefault(id(module), []).append(path)
    return paths


def _reason_to_keep(
    module: nn.Module, rule: OpRule | None, qconfig: QConfig | None, rules: Rules
) -> str | None:
    if rule is None:
        return why_no_rule(module, rules)
    if not rule.weight_dtypes:
        return f"{rule.name} has no dynamic form"
    if qconfig is None:
        return "not asked for"
    dtype = qconfig.weight().dtype.name
    if dtype not in rule.weight_dtypes:
        return f"{rule.name} has no {dtype} form"
    return rule.refuse(module, qconfig)


def _qconfig_of(model: nn.Module, paths: list[str], spec: Spec, rules: Rules) -> QConfig | None:
    """What the specification says of one module, at whichever of its paths it says something."""
    said = [(path, *found) for path in paths if (found := _said_of(model, path, spec, rules))]
    for path, qconfig in said[1:]:
        if qconfig is not said[0][1]:
            raise ConfigError(
                f"'{said[0][0]}' and '{path}' are one module, but qconfig_spec asks for two things: "
                "give both the same qconfig"
            )
    return said[0][1] if said else None


def _said_of(model: nn.Module, path: str, spec: Spec, rules: Rules) -> tuple[QConfig | None] | None:
    """Its own name before its type; the nearest ancestor that the specification knows before others."""
    parts = path.split(".") if path else []
    for length in range(len(parts), -1, -1):
        name = ".".join(parts[:length])
        if name in spec:
            return (spec[name],)
        at = model.get_submodule(name)
        if type(at) in spec:
            return (spec[type(at)],)
        rule = rule_of(at, rules)
        if rule is not None:
            for kind in (*rule.all_float_types(), *rule.covers):
                if kind in spec:
                    return (spec[kind],)
    return None


def _check_keys(spec: Spec, names: set[str]) -> None:
    for key, qconfig in spec.items():
        if isinstance(key, str) and key not in names:
            hint = did_you_mean(key, names)
            raise ConfigError(f"qconfig_spec names {key!r}, but the model has no such module{hint}")
        if not isinstance(key, (str, type)):
            raise ConfigError(f"qconfig_spec has the key {key!r}: use module types or names")
        if qconfig is not None and not isinstance(qconfig, QConfig):
            raise ConfigError(
                f"qconfig_spec[{key!r}] is {qconfig!r}: use an intaglio.QConfig, for instance "
                "intaglio.default_dynamic_qconfig, or None to keep the module in float"
            )
        for name in () if qconfig is None else qconfig._fields:
            observer = getattr(qconfig, name)()
            if not isinstance(observer, ObserverBase):
                raise ConfigError(
                    f"qconfig_spec[{key!r}]: its {name} gives {type(observer).__name__}, not an observer of "
                    "intaglio: use for instance PerChannelMinMaxObserver.with_args()"
                )


def _nothing_message(model: nn.Module, spec: Spec, plan: Plan) -> str:
    already = sum(isinstance(module, QuantizedModule) for module in model.modules())
    if already and not plan.kept:
        return "nothing to quantize: the model is already quantized"
    wanted = ", ".join(sorted(k.__name__ if isinstance(k, type) else repr(k) for k in spec)) or "nothing"
    held = sorted(
        {type(m).__name__ for m in model.modules() if any(True for _ in m.parameters(recurse=False))}
    )
    reasons = sorted({reason for reason in plan.kept.values() if reason != "not asked for"})
    return (
        f"nothing was quantized: asked for {wanted}; the model's modules with parameters are "
        f"{', '.join(held) or 'none'}"
        + (f" ({'; '.join(reasons)})" if reasons else "")
        + (f"; {already} modules are quantized already" if already else "")
    )


def refuse_model(model: Any) -> None:
    """Raise `ConversionError` for what is not an `nn.Module` with data on the CPU."""
    if not isinstance(model, nn.Module):
        raise ConversionError(f"quantize_dynamic takes an nn.Module, not {type(model).__name__}")
    for name, parameter in model.named_parameters():
        if is_lazy(parameter):
            raise ConversionError(
                f"parameter '{name}' has no data yet (lazy module): run the model once first"
            )
        if parameter.is_meta:
            raise ConversionError(f"parameter '{name}' has no data (meta device): load the weights first")
        if parameter.device.type != "cpu":
            raise ConversionError(
                f"parameter '{name}' is on {parameter.device}: int8 kernels run on the CPU; "
                "call model.cpu() first"
            )
