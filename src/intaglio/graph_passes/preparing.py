"""A traced graph, made ready for eager `prepare`: all passes in their order, with the user's settings.

May import the other passes, fx and backend_config (the configuration), qconfig_mapping and below.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import Any, Literal

from torch import fx, nn

from intaglio.backend_config.backend import BackendConfig
from intaglio.eager.static_planning import is_dynamic
from intaglio.fx.custom_config import PrepareCustomConfig
from intaglio.graph_passes.copying import custom_classes, entry_of
from intaglio.graph_passes.counting import count_multiply_adds
from intaglio.graph_passes.fusing import fuse_graph, fuse_residuals
from intaglio.graph_passes.graphs import drop_dead_nodes, module_of, scope_of
from intaglio.graph_passes.modularize import KEYS, modularize
from intaglio.graph_passes.normalizing import fold_constants, functionalize, separate_calls
from intaglio.graph_passes.placing import Integers, choose_integers, insert_stubs, round_averages
from intaglio.graph_passes.record import GraphRecord
from intaglio.graph_passes.restoring import restore_functions
from intaglio.graph_passes.tracer import join_paths
from intaglio.nn import FusedModule, NormedLayer, ResidualLayer
from intaglio.qconfig import QConfigAny, default_dynamic_qat_qconfig, default_dynamic_qconfig
from intaglio.qconfig_mapping import QConfigMapping
from intaglio.rules import all_rules, rule_of

__all__ = ["Settings", "normalize", "prepare_alone", "prepare_region", "settings_of"]


def normalize(gm: fx.GraphModule, *, is_qat: bool = False) -> set[fx.Node]:
    """Run the passes that every other takes for granted; gives the nodes that must stay floats."""
    drop_dead_nodes(gm)
    separate_calls(gm)
    held = functionalize(gm)
    fold_constants(gm, is_qat=is_qat)
    return {node for node in held if node in set(gm.graph.nodes)}


@dataclass(frozen=True)
class Settings:
    """What holds for one graph."""

    mapping: QConfigMapping
    custom: PrepareCustomConfig
    backend: BackendConfig | None
    between_floats: Literal["static", "dynamic"]
    is_qat: bool = False
    prefix: str = ""
    """The path of the standalone module that the mapping is for: its names are those within it."""


def settings_of(model: nn.Module, path: str, settings: Settings) -> Settings:
    """The settings for the graph at `path`: its own, if it is a standalone module's or in one."""
    names = path.split(".") if path else []
    for length in range(len(names), 0, -1):
        outer = ".".join(names[:length])
        try:
            module = model.get_submodule(outer)
        except AttributeError:  # what tracing made
            continue
        entry = entry_of(settings.custom, outer, module)
        if entry is not None:
            return replace(
                settings,
                mapping=settings.mapping if entry.qconfig_mapping is None else entry.qconfig_mapping,
                custom=entry.prepare_custom_config or PrepareCustomConfig(),
                backend=entry.backend_config or settings.backend,
                prefix="" if entry.qconfig_mapping is None else outer,
            )
    return settings


def prepare_region(gm: fx.GraphModule, path: str, settings: Settings, record: GraphRecord) -> None:
    """Make one graph ready for eager `prepare`: fused, with stubs, and a qconfig on all that is quantized."""
    backend = settings.backend
    held = normalize(gm, is_qat=settings.is_qat)
    modularize(gm, is_qat=settings.is_qat)
    fuse_graph(gm, backend.fuser_methods() if backend else None, is_qat=settings.is_qat)
    own = path == settings.prefix
    inputs = settings.custom.input_quantized_indexes if own else []
    outputs = settings.custom.output_quantized_indexes if own else []

    def choose() -> Integers:
        chooser = _QConfigs(gm, path, settings)
        return choose_integers(
            *(gm, chooser.of),
            held=held,
            quantized_inputs=inputs,
            between_floats=settings.between_floats,
            custom=custom_classes(settings.custom.float_to_observed_mapping),
            dynamic=default_dynamic_qat_qconfig if settings.is_qat else default_dynamic_qconfig,
        )

    plan = choose()
    fuse_residuals(gm, plan.nodes.__contains__)
    plan = choose()
    for node, qconfig in plan.qconfigs.items():
        module = module_of(gm, node)
        assert module is not None
        vars(module)["qconfig"] = qconfig
    for node, reason in plan.reasons.items():
        target = f"{path}.{node.target}" if path else str(node.target)
        record.floats[target] = reason
    total, integers = count_multiply_adds(gm, plan)
    record.macs += total
    record.int8_macs += integers
    restore_functions(gm, set(plan.qconfigs))
    if settings.is_qat:
        round_averages(gm, plan)
    insert_stubs(gm, plan, quantized_outputs=outputs)
    drop_dead_nodes(gm)
    gm.graph.lint()


def prepare_alone(
    layer: nn.Module, path: str, mapping: QConfigMapping, record: GraphRecord, *, is_qat: bool = False
) -> None:
    """Let a layer that Python code calls quantize what it is given as it comes, if it can."""
    qconfig = mapping.qconfig_for(path=path, object_type=type(layer), scopes=(), index=0)
    rule = rule_of(layer, all_rules())
    if rule is None:
        return  # nothing that could be quantized
    if qconfig is None:
        record.floats[path] = "its qconfig is None"
        return
    otherwise = default_dynamic_qat_qconfig if is_qat else default_dynamic_qconfig
    dynamic = qconfig if is_dynamic(qconfig) else otherwise
    if dynamic.weight().dtype.name not in rule.weight_dtypes:
        record.floats[path] = "it is called by code that cannot be traced, and has no dynamic form"
        return
    refused = rule.refuse(layer, dynamic)
    if refused is None:
        vars(layer)["qconfig"] = dynamic
    else:
        record.floats[path] = refused


class _QConfigs:
    """Asks the mapping for the qconfig of each node of a graph."""

    def __init__(self, gm: fx.GraphModule, path: str, settings: Settings) -> None:
        self._gm, self._settings = gm, settings
        self._path = path.removeprefix(settings.prefix).lstrip(".") if settings.prefix else path
        self._known: dict[fx.Node, QConfigAny] = {}
        counts: Counter[tuple[str, Any]] = Counter()
        for node in gm.graph.nodes:
            if node.op in ("placeholder", "get_attr", "output"):
                continue
            self._known[node] = self._ask(node, counts)

    def of(self, node: fx.Node) -> QConfigAny:
        """The qconfig of a node."""
        return self._known.get(node)

    def _ask(self, node: fx.Node, counts: Counter[tuple[str, Any]]) -> QConfigAny:
        scope = join_paths(self._path, scope_of(node))
        module = module_of(self._gm, node)
        kinds: tuple[Any, ...] = node.meta.get(KEYS, ()) or (node.target,)
        path = scope
        if module is not None and KEYS not in node.meta:
            layer = module
            while isinstance(layer, FusedModule | NormedLayer | ResidualLayer):
                layer = layer.layer
            kinds = tuple(dict.fromkeys((type(module), type(layer))))
            path = join_paths(self._path, str(node.target))
        index = counts[scope, kinds[0]]
        counts[scope, kinds[0]] += 1
        qconfig = self._settings.mapping.qconfig_for(
            path=path, object_type=kinds, scopes=(scope,), index=index
        )
        refused = None
        if qconfig is not None and self._settings.backend is not None and module is not None:
            refused = self._settings.backend.why_refused(module, qconfig)
        return qconfig if refused is None else None
