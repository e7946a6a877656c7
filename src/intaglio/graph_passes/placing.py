"""Which values of a graph are integers, and where they begin and end: `choose_integers` and `insert_stubs`.

Layers that multiply are worth integers; what lies between them follows. Left in float are, for accuracy's
sake: sums that go into a layer norm (a transformer's stream), attention's scores, and what comes after the
last layer that multiplies. May import graphs, rules, nn and below.
"""

# ruff: noqa: SIM905 - lists of names read better as words

from __future__ import annotations

import operator
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor, fx, nn

from intaglio.eager.rehearsal import OnIntegers
from intaglio.eager.static_planning import is_dynamic
from intaglio.graph_passes.fusing import is_functional, is_summed_in
from intaglio.graph_passes.graphs import add_module, is_check, module_of, scope_of, value_of
from intaglio.graph_passes.tracer import VALUES
from intaglio.graph_passes.trying import try_integers
from intaglio.nn import DeQuantStub, FloatFunctional, FusedModule, QuantStub, ResidualLayer
from intaglio.nn.fused import layer_kind
from intaglio.qconfig import QConfig, QConfigAny, default_dynamic_qconfig
from intaglio.rules import OpRule, all_rules, rule_of

__all__ = ["Integers", "choose_integers", "insert_stubs", "keep_on_integers"]

QConfigOf = Callable[[fx.Node], QConfigAny]
_NORMS = (nn.LayerNorm, nn.RMSNorm)
_FLOAT_INSIDE = (nn.RNNBase, nn.RNNCellBase, nn.MultiheadAttention)
_MOST_ROUNDS = 20


@dataclass
class Integers:
    """The plan for one graph.

    nodes: those that give integers.
    qconfigs: of each node that is quantized, its qconfig; a dynamic one is between floats.
    reasons: why a node that could be quantized is not.
    held: those whose values change in place after they were made.
    """

    nodes: set[fx.Node] = field(default_factory=set)
    qconfigs: dict[fx.Node, Any] = field(default_factory=dict)
    reasons: dict[fx.Node, str] = field(default_factory=dict)
    held: frozenset[fx.Node] = frozenset()


def choose_integers(
    gm: fx.GraphModule,
    qconfig_of: QConfigOf,
    *,
    held: Iterable[fx.Node] = (),
    quantized_inputs: Iterable[int] = (),
    between_floats: Literal["static", "dynamic"] = "dynamic",
    custom: Collection[type[nn.Module]] = (),
    dynamic: QConfig = default_dynamic_qconfig,
) -> Integers:
    """Decide for every node of a graph of modules whether it gives integers.

    `held` must stay floats; `quantized_inputs` are the numbers of the placeholders that will be `QTensor`s;
    `custom` are classes of the user's own, which take and give integers; `between_floats` is the form of a
    Linear whose input is worked out in float.
    """
    chooser = _Chooser(gm, qconfig_of, set(quantized_inputs), between_floats, custom, dynamic)
    banned = dict.fromkeys(held, "another value is changed through it in place") | chooser.better_in_float()
    for _ in range(_MOST_ROUNDS):
        plan = chooser.plan(banned)
        after = chooser.after_the_last(plan)
        if not after:
            break
        banned.update(after)
    plan.held = frozenset(held)
    return plan


@dataclass
class _Chooser:
    gm: fx.GraphModule
    qconfig_of: QConfigOf
    quantized_inputs: set[int]
    between_floats: Literal["static", "dynamic"]
    custom: Collection[type[nn.Module]]
    dynamic: QConfig

    def plan(self, banned: dict[fx.Node, str]) -> Integers:
        """The plan, with these nodes in float."""
        plan = Integers()
        number = 0
        for node in self.gm.graph.nodes:
            if node.op == "placeholder":
                if number in self.quantized_inputs:
                    plan.nodes.add(node)
                number += 1
            elif node.op not in ("get_attr", "output"):
                self._decide(node, plan, banned)
        return plan

    def _decide(self, node: fx.Node, plan: Integers, banned: dict[fx.Node, str]) -> None:
        module, qconfig = module_of(self.gm, node), self.qconfig_of(node)
        rule = None if module is None else _rule_of(module)
        if type(module) in self.custom and qconfig is not None:
            plan.qconfigs[node] = qconfig
            plan.nodes.add(node)
            return
        if rule is None:
            if node not in banned and qconfig is not None and self._follows(node, plan):
                plan.nodes.add(node)
            return
        assert module is not None
        if qconfig is None:
            plan.reasons[node] = "its qconfig is None"
        elif is_dynamic(qconfig):
            self._make_dynamic(node, module, rule, qconfig, plan)
        elif node in banned:
            plan.reasons[node] = banned[node]
            self._make_dynamic(node, module, rule, self.dynamic, plan, asked=False)
        else:
            self._make_static(node, module, rule, qconfig, plan)

    def _make_static(
        self, node: fx.Node, module: nn.Module, rule: OpRule, qconfig: Any, plan: Integers
    ) -> None:
        static = rule.static
        refused = "no static form" if static is None else static.refuse(_part(module), qconfig)
        if refused is not None:
            plan.reasons[node] = refused
            self._make_dynamic(node, module, rule, self.dynamic, plan, asked=False)
            return
        assert static is not None
        if static.output == "float":
            plan.qconfigs[node] = qconfig
            return
        is_given = self._takes_integers(node, plan)
        is_worth_it = layer_kind(_part(module)) is not None or isinstance(module, ResidualLayer)
        if isinstance(_part(module), nn.Linear) and self.between_floats == "dynamic":
            is_worth_it = any(x.op == "placeholder" for x in self._back_through_moves(node.args[0]))
        if isinstance(module, _FLOAT_INSIDE):
            is_worth_it, is_given = False, is_given and _gives_first_only(node)
        if is_given or is_worth_it:
            plan.qconfigs[node] = qconfig
            plan.nodes.add(node)
            return
        plan.reasons[node] = "it stands between float values"
        self._make_dynamic(node, module, rule, self.dynamic, plan, asked=False)

    def _make_dynamic(
        self,
        node: fx.Node,
        module: nn.Module,
        rule: OpRule,
        qconfig: Any,
        plan: Integers,
        *,
        asked: bool = True,
    ) -> None:
        """Let a layer quantize its input as it comes, if it can."""
        if isinstance(module, FusedModule):
            return self._make_dynamic_inside(node, module, qconfig, plan, asked=asked)
        dtype = qconfig.weight().dtype.name
        if dtype not in rule.weight_dtypes or (
            not asked and isinstance(module, nn.Embedding | nn.EmbeddingBag)
        ):
            if asked and rule.weight_dtypes:
                plan.reasons[node] = f"{rule.name} has no dynamic {dtype} form"
            return None
        refused = rule.refuse(module, qconfig)
        if refused is not None:
            plan.reasons[node] = refused
            return None
        plan.qconfigs[node] = qconfig
        plan.reasons.pop(node, None)
        return None

    def _make_dynamic_inside(
        self, node: fx.Node, module: FusedModule, qconfig: Any, plan: Integers, *, asked: bool
    ) -> None:
        rule = rule_of(module.layer, all_rules())
        if rule is not None:
            self._make_dynamic(node, module.layer, rule, qconfig, plan, asked=asked)

    def _takes_integers(self, node: fx.Node, plan: Integers) -> bool:
        """Whether every tensor that a node takes is integers already, or one of the model's own."""
        inputs = [x for x in node.all_input_nodes if _is_float_tensor(x)]
        moving = [x for x in inputs if x.op != "get_attr"]
        return bool(moving) and all(x in plan.nodes for x in moving)

    def _follows(self, node: fx.Node, plan: Integers) -> bool:
        if not any(x in plan.nodes for x in node.all_input_nodes):
            return False
        if node.target is operator.getitem and isinstance(module_of(self.gm, node.args[0]), _FLOAT_INSIDE):
            return bool(node.args[1] == 0)  # states and attention's weights are floats
        return try_integers(self.gm, node, plan.nodes) == "integers"

    # ---- What accuracy wants in float ---------------------------------------------------------------------

    def better_in_float(self) -> dict[fx.Node, str]:
        """Sums on their way into a layer norm, and what is near a softmax."""
        found: dict[fx.Node, str] = {}
        for node in self.gm.graph.nodes:
            module = module_of(self.gm, node)
            if isinstance(module, _NORMS):
                for source in self._back_through_moves(node.args[0]):
                    if is_functional(self.gm, source, "add", "add_relu"):
                        found[source] = "a sum that is normalized next is more accurate in float"
            elif isinstance(module, nn.Softmax | nn.LogSoftmax) or "softmax" in str(node.target):
                found[node] = "a softmax is more accurate in float"
                for source in self._back_through_moves(node.args[0], through_sums=True):
                    if is_functional(self.gm, source, "matmul", "add", "mul_scalar", "add_scalar"):
                        found[source] = "attention's scores are more accurate in float"
                for user in self._on_through_moves(node):
                    if is_functional(self.gm, user, "matmul"):
                        found[user] = "attention's scores are more accurate in float"
        return found

    def _back_through_moves(self, node: Any, *, through_sums: bool = False) -> Iterable[fx.Node]:
        seen: set[fx.Node] = set()
        waiting = [node]
        while waiting:
            at = waiting.pop()
            if not isinstance(at, fx.Node) or at in seen:
                continue
            seen.add(at)
            yield at
            scalar = is_functional(self.gm, at, "mul_scalar", "add_scalar")
            if _is_move(at):
                waiting.append(at.args[0])
            elif scalar or (through_sums and is_functional(self.gm, at, "add")):
                waiting += at.args[1:]

    def _on_through_moves(self, node: fx.Node) -> Iterable[fx.Node]:
        for user in node.users:
            yield user
            if _is_move(user):
                yield from self._on_through_moves(user)

    def after_the_last(self, plan: Integers) -> dict[fx.Node, str]:
        """What gives integers, loses by it, and serves no layer that multiplies."""
        serves: set[fx.Node] = set()
        for node in reversed(list(self.gm.graph.nodes)):
            if any(user in serves or (user in plan.nodes and self._multiplies(user)) for user in node.users):
                serves.add(node)
        reason = "no layer that multiplies comes after it"
        return {
            node: reason
            for node in plan.nodes
            if node not in serves
            and not self._multiplies(node)
            and self._loses(node)
            and node.op != "placeholder"
        }

    def _multiplies(self, node: fx.Node) -> bool:
        module = module_of(self.gm, node)
        if module is None:
            return False
        part = _part(module)
        return (
            layer_kind(part) is not None
            or isinstance(part, (ResidualLayer, *_FLOAT_INSIDE))
            or (isinstance(module, FloatFunctional) and node.args[0] == "matmul")
        )

    def _loses(self, node: fx.Node) -> bool:
        """Whether a node rounds what it gives: not what only moves, cuts off or pools values."""
        module = module_of(self.gm, node)
        if isinstance(module, FloatFunctional):
            return node.args[0] not in ("add_scalar", "mul_scalar") and not is_summed_in(self.gm, node)
        if module is not None:
            rule = _rule_of(module)
            return rule is not None or isinstance(module, nn.Softmax)
        return any(part in str(node.target) for part in ("softmax", "sigmoid", "tanh"))


def _part(module: nn.Module) -> nn.Module:
    """Of a layer and the activation fused with it the layer, which decides for both."""
    return module.layer if isinstance(module, FusedModule) else module


def _rule_of(module: nn.Module) -> OpRule | None:
    return rule_of(_part(module), all_rules())


def _is_float_tensor(node: fx.Node) -> bool:
    value = value_of(node)
    if isinstance(value, Tensor):
        return value.is_floating_point()
    return isinstance(value, (tuple, list)) and any(
        isinstance(x, Tensor) and x.is_floating_point() for x in value
    )


_MOVES = frozenset(
    """
    chunk clone contiguous detach expand flatten getitem movedim narrow pad permute reshape roll select split
    squeeze swapaxes transpose unbind unflatten unsqueeze view
    """.split()
)


def _is_move(node: fx.Node) -> bool:
    if node.op not in ("call_function", "call_method") or not node.args:
        return False
    return str(node.target if node.op == "call_method" else getattr(node.target, "__name__", "")) in _MOVES


def _gives_first_only(node: fx.Node) -> bool:
    """Whether of a recurrent layer's or an attention's results each is taken by itself."""
    if not isinstance(value_of(node), tuple):
        return True
    return all(user.target is operator.getitem for user in node.users)


# ---- Averages ----------------------------------------------------------------------------------------------

_AVERAGES = frozenset(
    """
    avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d
    interpolate mean
    """.split()
)


def keep_on_integers(gm: fx.GraphModule, plan: Integers) -> None:
    """For training: let functions between layers work in steps of what they take, as on integers."""
    for node in list(gm.graph.nodes):
        is_call = node.op in ("call_function", "call_method") and node in plan.nodes
        if not is_call or not node.args or node.args[0] not in plan.nodes or node.target is operator.getitem:
            continue
        name = str(node.target if node.op == "call_method" else getattr(node.target, "__name__", ""))
        made = OnIntegers(node.op, node.target, name in _AVERAGES)
        path = add_module(gm, scope_of(node), name.strip("_") or "function", made)
        with gm.graph.inserting_before(node):
            call = gm.graph.call_module(path, node.args, node.kwargs)
        call.meta.update(node.meta)
        node.replace_all_uses_with(call)
        gm.graph.erase_node(node)
        plan.nodes.discard(node)
        plan.nodes.add(call)


# ---- Stubs -------------------------------------------------------------------------------------------------


def insert_stubs(gm: fx.GraphModule, plan: Integers, *, quantized_outputs: Iterable[int] = ()) -> None:
    """Put a `QuantStub` where floats become integers and a `DeQuantStub` where integers become floats.

    One for each value: who takes it shares it. `quantized_outputs` are the numbers of the outputs that stay
    integers.
    """
    _Stubs(gm, plan, set(quantized_outputs)).insert()
    gm.recompile()


class _Stubs:
    def __init__(self, gm: fx.GraphModule, plan: Integers, quantized_outputs: set[int]) -> None:
        self._gm, self._plan, self._quantized_outputs = gm, plan, quantized_outputs
        self._made: dict[tuple[fx.Node, str], fx.Node] = {}

    def insert(self) -> None:
        """See `insert_stubs`."""
        integers = self._plan.nodes
        for node in list(self._gm.graph.nodes):
            if node.op in ("placeholder", "get_attr"):
                continue
            wants = self._wants(node)
            for source in node.all_input_nodes:
                if not _is_float_tensor(source):
                    continue
                is_integer = source in integers
                if wants == "integers" and not is_integer:
                    node.replace_input_with(source, self._quantized(source, node))
                elif wants == "floats" and is_integer:
                    self._dequantize_input(node, source)

    def _wants(self, node: fx.Node) -> str:
        integers = self._plan.nodes
        if node.op == "output":
            return "floats"
        if is_check(node):
            return "either"
        if node in integers:
            return "integers" if module_of(self._gm, node) is not None else "either"
        if node.target is operator.getitem and node.args[0] in integers:
            return "either"
        if any(source in integers for source in node.all_input_nodes):
            return "either" if try_integers(self._gm, node, integers) == "plain" else "floats"
        return "floats"

    def _quantized(self, source: fx.Node, user: fx.Node) -> fx.Node:
        key = (source, "quant")
        if key not in self._made:
            stub = QuantStub()
            vars(stub)["qconfig"] = self._plan.qconfigs.get(user)
            if source in self._plan.held:  # whoever asks later may see other values
                return self._at(user.prev, source, "quant", stub)
            self._made[key] = self._after(source, "quant", stub)
            self._plan.nodes.add(self._made[key])
        return self._made[key]

    def _dequantized(self, source: fx.Node) -> fx.Node:
        key = (source, "dequant")
        if key not in self._made:
            stub = DeQuantStub()
            vars(stub)["qconfig"] = next(q for q in self._plan.qconfigs.values() if not is_dynamic(q))
            self._made[key] = self._after(source, "dequant", stub)
        return self._made[key]

    def _dequantize_input(self, node: fx.Node, source: fx.Node) -> None:
        if node.op == "output" and self._quantized_outputs:
            given = node.args[0]
            parts = list(given) if isinstance(given, (tuple, list)) else [given]
            kept = [
                part if number in self._quantized_outputs or part is not source else self._dequantized(source)
                for number, part in enumerate(parts)
            ]
            node.args = (type(given)(kept) if isinstance(given, (tuple, list)) else kept[0],)
            return
        node.replace_input_with(source, self._dequantized(source))

    def _after(self, source: fx.Node, name: str, stub: nn.Module) -> fx.Node:
        at = source
        while at.next.op == "placeholder":
            at = at.next
        return self._at(at, source, name, stub)

    def _at(self, at: fx.Node, source: fx.Node, name: str, stub: nn.Module) -> fx.Node:
        path = add_module(self._gm, scope_of(source), name, stub)
        with self._gm.graph.inserting_after(at):
            made = self._gm.graph.call_module(path, (source,))
        made.meta.update(source.meta)
        made.meta[VALUES] = source.meta.get(VALUES, ())
        return made
