"""MultiheadAttention: the form whose projections are quantized dynamically, and its rule.

The projections are quantized Linears; what happens between them stays in float. Where query, key and value
have one width, their int8 projections are one Linear, so that self-attention quantizes its input once and
multiplies once. May import ops, rules, quantized, linear and errors.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx import Proxy

from intaglio.errors import ConfigError
from intaglio.nn.attention_layout import AttentionLayout, attend_with_weights
from intaglio.nn.attention_trained import TRAINED
from intaglio.nn.linear import LINEAR, DynamicLinear
from intaglio.nn.quantized import QuantizedModule, StateSpec, quantized_class, register_quantized
from intaglio.nn.requantized import requantized_form
from intaglio.qconfig import QConfig
from intaglio.qparams import INT8
from intaglio.rules import Example, OpRule, register_rule

__all__ = ["DynamicMultiheadAttention"]

PACKED = ("in_proj", "out_proj")
SEPARATE = ("q_proj", "k_proj", "v_proj", "out_proj")
LINEAR_KINDS = frozenset({"dynamic_linear", "half_linear"})


@register_quantized
class DynamicMultiheadAttention(QuantizedModule, AttentionLayout):
    """`nn.MultiheadAttention` with quantized projections: the same call, shapes, masks and outputs.

    `query` is `(L, N, E)`, `(N, L, E)` with `batch_first`, or `(L, E)`; `key` and `value` likewise with `S`
    positions of `kdim` and `vdim` features. Gives the output in the layout of `query`, and the attention
    weights `(N, L, S)`, or `(N, H, L, S)` if they are not averaged, or None if they are not needed. Raises
    `InputError` for other inputs and in training mode.
    """

    kind = "dynamic_multihead_attention"

    # What torch's transformer layers look at before they take their fused float path: this says no.
    in_proj_weight = None
    in_proj_bias = None
    _qkv_same_embed_dim = False

    def __init__(
        self,
        num_heads: int,
        projections: dict[str, QuantizedModule],
        *,
        bias_kv: bool = False,
        add_zero_attn: bool = False,
        batch_first: bool = False,
        path: str = "",
    ) -> None:
        super().__init__(path)
        self.is_packed = "in_proj" in projections
        for name in PACKED if self.is_packed else SEPARATE:
            self.add_module(name, projections[name])
        self.embed_dim = int(cast(Any, self.out_proj).in_features)
        self.kdim = self.embed_dim if self.is_packed else int(cast(Any, self.k_proj).in_features)
        self.vdim = self.embed_dim if self.is_packed else int(cast(Any, self.v_proj).in_features)
        self.num_heads, self.head_dim = num_heads, self.embed_dim // num_heads
        self.add_zero_attn, self.batch_first, self.has_bias_kv = add_zero_attn, batch_first, bias_kv
        empty = torch.zeros(1, 1, self.embed_dim) if bias_kv else None
        self.register_buffer("bias_k", empty, persistent=False)
        self.register_buffer("bias_v", None if empty is None else empty.clone(), persistent=False)

    @classmethod
    def from_float(cls, module: nn.Module, qconfig: QConfig, path: str = "") -> DynamicMultiheadAttention:
        """Quantize the projections of an `nn.MultiheadAttention`."""
        assert isinstance(module, nn.MultiheadAttention)
        prefix = path + "." if path else ""
        projections = {
            name: cast(QuantizedModule, LINEAR.lower_dynamic(linear, qconfig, prefix + name))
            for name, linear in _float_projections(module, qconfig).items()
        }
        quantized = cls(
            module.num_heads,
            projections,
            bias_kv=module.bias_k is not None,
            add_zero_attn=module.add_zero_attn,
            batch_first=module.batch_first,
            path=path,
        )
        if module.bias_k is not None and module.bias_v is not None:
            quantized.bias_k = module.bias_k.detach().to(torch.float32, copy=True)
            quantized.bias_v = module.bias_v.detach().to(torch.float32, copy=True)
        return quantized

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Attend; see the class and `nn.MultiheadAttention`."""
        if isinstance(query, Proxy):
            options = (key_padding_mask, need_weights, attn_mask, average_attn_weights, is_causal)
            return cast("tuple[Tensor, Tensor | None]", self.as_fx_node(query, key, value, *options))
        self.check_inputs(query, key, value)
        self.check_causal(is_causal, attn_mask)
        batched, dtype = query.dim() == 3, query.dtype
        heads = self.split_heads(*self._project(query, key, value), batched)
        # torch's own rule: the causal shortcut only where nothing else masks and no weights are wanted.
        causal = is_causal and key_padding_mask is None and not need_weights
        mask = None if causal else self.merge_masks(key_padding_mask, attn_mask, heads)
        if need_weights:
            mixed, weights = attend_with_weights(*heads, mask)
            weights = weights.mean(1) if average_attn_weights else weights
            weights = (weights if batched else weights.squeeze(0)).to(dtype)
        else:
            mixed, weights = F.scaled_dot_product_attention(*heads, attn_mask=mask, is_causal=causal), None
        output: Tensor = self._projections()["out_proj"](mixed.transpose(1, 2).flatten(2)).to(dtype)
        if not batched:
            return output.squeeze(0), weights
        return (output if self.batch_first else output.transpose(0, 1)), weights

    def _project(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The three projections in float32, in the layout of the inputs; one tensor is quantized once."""
        same_kv = key is value
        same = query is key and same_kv
        query = query.float()
        key = query if same else key.float()
        value = key if same_kv else value.float()
        if not self.is_packed:
            parts = self._projections()
            return parts["q_proj"](query), parts["k_proj"](key), parts["v_proj"](value)
        in_proj, width = cast(DynamicLinear, self.in_proj), self.embed_dim
        if same:
            q, k, v = in_proj(query).chunk(3, -1)
            return q, k, v
        q = in_proj.columns(query, 0, width)
        if same_kv:
            k, v = in_proj.columns(key, width, 3 * width).chunk(2, -1)
            return q, k, v
        return q, in_proj.columns(key, width, 2 * width), in_proj.columns(value, 2 * width, 3 * width)

    def _projections(self) -> dict[str, QuantizedModule]:
        return {name: cast(QuantizedModule, part) for name, part in self.named_children()}

    def config(self) -> dict[str, Any]:
        """The constructor's arguments; each projection as its kind and config."""
        return {
            "num_heads": self.num_heads,
            "bias_kv": self.has_bias_kv,
            "add_zero_attn": self.add_zero_attn,
            "batch_first": self.batch_first,
            "projections": {
                name: {"kind": part.kind, "config": part.config()}
                for name, part in self._projections().items()
            },
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> DynamicMultiheadAttention:
        """An empty module; `ConfigError` where a projection is not a Linear."""
        projections = {}
        for name in PACKED if "in_proj" in config["projections"] else SEPARATE:
            part = config["projections"][name]
            made = quantized_class(part["kind"]) if part["kind"] in LINEAR_KINDS else None
            if made is None:
                raise ConfigError(f"{name} of an attention must be a Linear, not {part['kind']!r}")
            projections[name] = made.from_config(part["config"])
        options = {name: config[name] for name in ("bias_kv", "add_zero_attn", "batch_first")}
        return cls(config["num_heads"], projections, **options)

    def state_spec(self) -> StateSpec:
        """Those of the projections under their names, and `bias_k` and `bias_v` if there are any."""
        spec: StateSpec = {
            f"{name}.{key}": value
            for name, part in self._projections().items()
            for key, value in part.state_spec().items()
        }
        if self.has_bias_kv:
            spec |= dict.fromkeys(("bias_k", "bias_v"), ((1, 1, self.embed_dim), torch.float32))
        return spec

    def plain_state(self) -> dict[str, Tensor]:
        """Unpack."""
        state = {
            f"{name}.{key}": tensor
            for name, part in self._projections().items()
            for key, tensor in part.plain_state().items()
        }
        if self.bias_k is not None and self.bias_v is not None:
            state |= {"bias_k": self.bias_k, "bias_v": self.bias_v}
        return state

    def load_plain_state(self, state: dict[str, Tensor]) -> None:
        """Pack each projection."""
        for name, part in self._projections().items():
            prefix = f"{name}."
            part.load_plain_state({k[len(prefix) :]: v for k, v in state.items() if k.startswith(prefix)})
        self.load_own_state(state)

    def load_own_state(self, state: dict[str, Tensor]) -> None:
        """Set `bias_k` and `bias_v`, if there are any."""
        if self.has_bias_kv:
            self.bias_k, self.bias_v = state["bias_k"], state["bias_v"]

    def float_bytes(self) -> int:
        """Bytes of the float projections and biases."""
        own = 2 * 4 * self.embed_dim if self.has_bias_kv else 0
        return own + sum(part.float_bytes() for part in self._projections().values())

    def extra_repr(self) -> str:
        """What `print` shows beside the projections."""
        return f"embed_dim={self.embed_dim}, num_heads={self.num_heads}, batch_first={self.batch_first}"


def _float_projections(module: nn.MultiheadAttention, qconfig: QConfig) -> dict[str, nn.Linear]:
    """The projections as Linears that share the attention's parameters.

    float16 quantizes no input, so that nothing is gained by one Linear for all three.
    """
    out = {"out_proj": cast(nn.Linear, module.out_proj)}
    if module.in_proj_weight is None:
        weights = [module.q_proj_weight, module.k_proj_weight, module.v_proj_weight]
    elif qconfig.weight().dtype is INT8:
        return {"in_proj": _linear_of(module.in_proj_weight, module.in_proj_bias)} | out
    else:
        weights = [*module.in_proj_weight.chunk(3)]
    biases = [None] * 3 if module.in_proj_bias is None else [*module.in_proj_bias.chunk(3)]
    pairs = zip(SEPARATE, weights, biases, strict=False)
    return {name: _linear_of(weight, bias) for name, weight, bias in pairs} | out


def _linear_of(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    linear.weight = nn.Parameter(weight, requires_grad=False)
    linear.register_parameter("bias", None if bias is None else nn.Parameter(bias, requires_grad=False))
    return linear


def _example() -> Example:
    x = torch.randn(7, 3, 48)
    return nn.MultiheadAttention(48, 4), (x, x, x)


def _example_of_two_sequences() -> Example:
    attention = nn.MultiheadAttention(
        32, 2, bias=False, kdim=24, vdim=40, add_bias_kv=True, add_zero_attn=True, batch_first=True
    )
    return attention, (torch.randn(2, 5, 32), torch.randn(2, 9, 24), torch.randn(2, 9, 40))


def _example_of_memory() -> Example:
    memory = torch.randn(9, 2, 40)
    return nn.MultiheadAttention(40, 5, bias=False), (torch.randn(4, 2, 40), memory, memory)


ATTENTION = register_rule(
    OpRule(
        name="MultiheadAttention",
        float_types=(nn.MultiheadAttention,),
        static=requantized_form(
            DynamicMultiheadAttention.from_float,
            lambda module, qconfig: None,
            (_example, _example_of_two_sequences, _example_of_memory),
        ),
        trained=TRAINED,
        lower_dynamic=DynamicMultiheadAttention.from_float,
        weight_dtypes=LINEAR.weight_dtypes,
        default_for=LINEAR.default_for,
        covers=(nn.Linear,),
        reads_children=True,
        examples=(_example, _example_of_two_sequences, _example_of_memory),
    )
)
