"""Embedding and EmbeddingBag: rows of 8 or 4 bits with a float scale and offset each, and their rules.

Only weights are quantized; rows come out as floats of the dtype that the float module had. An Embedding
that is tied to a Linear reads its rows out of that Linear's int8 weight (`TiedEmbedding`).
May import linear, quantized, ops, rules, qconfig and errors.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx import Proxy

from intaglio.errors import ConfigError, InputError
from intaglio.fake_quantize import FakeQuantize, default_embedding_fake_quant
from intaglio.nn.quantized import QuantizedModule, StateSpec, register_quantized
from intaglio.nn.trained import TrainedLayer
from intaglio.nn.weights import check_finite
from intaglio.observer import UniformQuantizationObserverBase
from intaglio.ops.embedding import (
    bytes_of_row,
    pack_table,
    run_embedding,
    run_embedding_bag,
    unpack_table,
)
from intaglio.ops.library import is_eager
from intaglio.qconfig import QConfig
from intaglio.qparams import UINT4, UINT8, QuantizedType, choose_row_params, quantize_row_codes
from intaglio.rules import Example, OpRule, StaticForm, TrainedForm, register_rule

__all__ = ["QuantizedEmbedding", "QuantizedEmbeddingBag", "check_indices", "quantize_table"]


INDEX_TYPES = frozenset({torch.int64, torch.int32})

ROWS_AT_ONCE = 4096
"""Rows that are quantized together, so that float64 temporaries stay small beside the table."""


def quantize_table(weight: Tensor, qconfig: QConfig, path: str) -> tuple[dict[str, Tensor], int]:
    """Plain state and bits of an `(N, D)` float table, quantized as `qconfig.weight` says.

    4 bits for uint4; 8 for uint8, and for int8, which can mean nothing else here. `ConfigError`, naming the
    module, for an observer that finds no range.
    """
    weight = weight.detach().to(torch.float32)
    observer = qconfig.weight()
    if not isinstance(observer, UniformQuantizationObserverBase):
        raise ConfigError(
            f"'{path}': its qconfig's weight observer is {type(observer).__name__}: an embedding needs one "
            "that finds a range, such as that of intaglio.float_qparams_weight_only_qconfig"
        )
    check_finite(weight, path)
    observer(weight)
    low, high = (limit.expand(len(weight)) for limit in observer.range())
    dtype, bits = (UINT4, 4) if observer.dtype is UINT4 else (UINT8, 8)
    scale, offset = choose_row_params(low, high, dtype)
    blocks = [slice(at, at + ROWS_AT_ONCE) for at in range(0, len(weight), ROWS_AT_ONCE)]
    codes = torch.cat([_codes_of(weight[b], scale[b], offset[b], dtype) for b in blocks])
    return {"weight": codes, "weight_scale": scale, "weight_offset": offset}, bits


def _codes_of(rows: Tensor, scale: Tensor, offset: Tensor, dtype: QuantizedType) -> Tensor:
    codes = quantize_row_codes(rows, scale, offset, dtype)
    if dtype is UINT8:
        return codes
    if codes.shape[1] % 2:
        codes = nn.functional.pad(codes, (0, 1))
    return codes[:, ::2] | codes[:, 1::2] << 4


def check_indices(module: QuantizedModule, indices: Tensor, name: str = "input") -> None:
    """Raise `InputError`, naming the layer and the remedy, if `indices` are not int32 or int64 on the CPU."""
    if module.training:
        raise InputError(
            f"{module.where()} is quantized for inference but in training mode: call model.eval()"
        )
    if not isinstance(indices, Tensor):
        raise InputError(f"{module.where()}: {name} must be a torch.Tensor, not {type(indices).__name__}")
    if indices.dtype not in INDEX_TYPES:
        raise InputError(
            f"{module.where()}: {name} has dtype {indices.dtype}, but indices are int32 or int64: "
            f"pass {name}.long()"
        )
    if indices.device.type not in ("cpu", "meta"):
        raise InputError(
            f"{module.where()}: {name} is on {indices.device}, but int8 kernels run on the CPU: "
            f"pass {name}.cpu()"
        )


class _QuantizedTable(QuantizedModule):
    """What Embedding and EmbeddingBag have in common: the table, its state, its dtype."""

    float_name: ClassVar[str]
    packed: Tensor

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        *,
        bits: int = 8,
        padding_idx: int | None = None,
        dtype: str = "float32",
        path: str = "",
    ) -> None:
        super().__init__(path)
        if bits not in (4, 8):
            raise ConfigError(f"{type(self).__name__}: rows have 4 or 8 bits, not {bits}")
        self.num_embeddings, self.embedding_dim = num_embeddings, embedding_dim
        self.bits, self.padding_idx = bits, padding_idx
        self.dtype: torch.dtype = getattr(torch, dtype)
        self.register_buffer("packed", None, persistent=False)

    @property
    def weight(self) -> Tensor:
        """The `(num_embeddings, embedding_dim)` table as floats, all of it dequantized at each access.

        For code that slices it or asks for its dtype; a lookup does not need it.
        """
        rows = torch.arange(self.num_embeddings)
        table = run_embedding(self.packed, rows, self.embedding_dim, self.bits, self.where())
        return table.to(self.dtype)

    def config(self) -> dict[str, Any]:
        """Arguments of the constructor."""
        return {
            "num_embeddings": self.num_embeddings,
            "embedding_dim": self.embedding_dim,
            "bits": self.bits,
            "padding_idx": self.padding_idx,
            "dtype": str(self.dtype).removeprefix("torch."),
        }

    def state_spec(self) -> StateSpec:
        """`weight` (two 4-bit codes to a byte, the first the low half), `weight_scale`, `weight_offset`."""
        return {
            "weight": ((self.num_embeddings, bytes_of_row(self.embedding_dim, self.bits)), torch.uint8),
            "weight_scale": ((self.num_embeddings,), torch.float32),
            "weight_offset": ((self.num_embeddings,), torch.float32),
        }

    def plain_state(self) -> dict[str, Tensor]:
        """Unpack."""
        return dict(zip(self.state_spec(), unpack_table(self.packed), strict=True))

    def load_plain_state(self, state: dict[str, Tensor]) -> None:
        """Lay scale, offset and codes of each row side by side."""
        self.packed = pack_table(state["weight"], state["weight_scale"], state["weight_offset"])

    def float_bytes(self) -> int:
        """Bytes of the float table."""
        return self.num_embeddings * self.embedding_dim * self.dtype.itemsize

    def extra_repr(self) -> str:
        """What `print` shows."""
        padding = "" if self.padding_idx is None else f", padding_idx={self.padding_idx}"
        return f"{self.num_embeddings}, {self.embedding_dim}{padding}, weight=uint{self.bits} per row"


@register_quantized
class QuantizedEmbedding(_QuantizedTable):
    """Rows of an 8- or 4-bit table: `scale[i] * weight[i] + offset[i]` for each index `i`.

    Takes int32 or int64 indices of any shape `(*)` on the CPU and gives `(*, embedding_dim)` of the float
    module's dtype. `InputError`, naming the layer, for other inputs and indices that are no row.
    """

    kind = "embedding"

    @classmethod
    def from_float(cls, module: nn.Module, qconfig: QConfig, path: str = "") -> QuantizedEmbedding:
        """Quantize an `nn.Embedding`."""
        assert isinstance(module, nn.Embedding)
        state, bits = quantize_table(module.weight, qconfig, path)
        quantized = cls(
            module.num_embeddings,
            module.embedding_dim,
            bits=bits,
            padding_idx=module.padding_idx,
            dtype=str(module.weight.dtype).removeprefix("torch."),
            path=path,
        )
        quantized.load_plain_state(state)
        return quantized

    def forward(self, input: Tensor) -> Tensor:
        """Look up `(*)` indices; see the class."""
        if (
            type(input) is Tensor
            and input.dtype in INDEX_TYPES
            and input.is_cpu
            and not self.training
            and is_eager()
        ):
            # From the dict: nn.Module's attribute access to a buffer takes longer than the kernel's call.
            packed: Tensor = self._buffers["packed"]  # type: ignore[assignment]
            y = run_embedding(packed, input, self.embedding_dim, self.bits, self.where())
        elif isinstance(input, Proxy):
            return self.as_fx_node(input)
        else:
            check_indices(self, input)
            op = torch.ops.intaglio.embedding
            y = op(self.packed, input, self.embedding_dim, self.bits, self.where())
        return y if self.dtype is torch.float32 else y.to(self.dtype)


@register_quantized
class QuantizedEmbeddingBag(_QuantizedTable):
    """Sums, means or maxima of bags of rows of an 8- or 4-bit table.

    The arguments of `nn.EmbeddingBag.forward`: `input` `(bags, size)`, or `(count,)` with `offsets`
    `(bags,)`, or `(bags + 1,)` where `include_last_offset`; `per_sample_weights` of the input's shape, for
    mode 'sum'. Gives `(bags, embedding_dim)` of the float module's dtype, zeros for an empty bag. Rows are
    reduced in float32 in the order of the indices. `InputError`, naming the layer, for anything else.
    """

    kind = "embedding_bag"

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        *,
        mode: str = "mean",
        include_last_offset: bool = False,
        bits: int = 8,
        padding_idx: int | None = None,
        dtype: str = "float32",
        path: str = "",
    ) -> None:
        super().__init__(
            num_embeddings, embedding_dim, bits=bits, padding_idx=padding_idx, dtype=dtype, path=path
        )
        self.mode, self.include_last_offset = mode, include_last_offset

    @classmethod
    def from_float(cls, module: nn.Module, qconfig: QConfig, path: str = "") -> QuantizedEmbeddingBag:
        """Quantize an `nn.EmbeddingBag`."""
        assert isinstance(module, nn.EmbeddingBag)
        state, bits = quantize_table(module.weight, qconfig, path)
        quantized = cls(
            module.num_embeddings,
            module.embedding_dim,
            mode=module.mode,
            include_last_offset=module.include_last_offset,
            bits=bits,
            padding_idx=module.padding_idx,
            dtype=str(module.weight.dtype).removeprefix("torch."),
            path=path,
        )
        quantized.load_plain_state(state)
        return quantized

    def forward(
        self, input: Tensor, offsets: Tensor | None = None, per_sample_weights: Tensor | None = None
    ) -> Tensor:
        """Reduce bags; see the class."""
        if isinstance(input, Proxy):
            return self.as_fx_node(input, offsets, per_sample_weights)
        self._check(input, offsets, per_sample_weights)
        weights = None if per_sample_weights is None else per_sample_weights.to(torch.float32)
        plain = type(input) is Tensor and input.is_cpu and is_eager()
        direct = plain and (weights is None or not weights.requires_grad)
        run = run_embedding_bag if direct else torch.ops.intaglio.embedding_bag
        y: Tensor = run(
            self.packed,
            input,
            offsets,
            weights,
            self.embedding_dim,
            self.bits,
            self.mode,
            self.include_last_offset,
            -1 if self.padding_idx is None else self.padding_idx,
            self.where(),
        )
        return y if self.dtype is torch.float32 else y.to(self.dtype)

    def _check(self, input: Tensor, offsets: Tensor | None, weights: Tensor | None) -> None:
        check_indices(self, input)
        if input.dim() == 2 and offsets is not None:
            raise InputError(
                f"{self.where()}: input of shape {tuple(input.shape)} has a bag in each row: "
                "offsets must be None"
            )
        if input.dim() not in (1, 2) or (input.dim() == 1 and offsets is None):
            raise InputError(
                f"{self.where()}: input has shape {tuple(input.shape)}: "
                "pass (bags, size), or 1-d with offsets"
            )
        if offsets is not None:
            check_indices(self, offsets, "offsets")
            if offsets.dim() != 1 or (self.include_last_offset and offsets.shape[0] == 0):
                raise InputError(
                    f"{self.where()}: offsets have shape {tuple(offsets.shape)}, but must be 1-d"
                    + (" and end with the number of indices" if self.include_last_offset else "")
                )
        if weights is None:
            return
        if self.mode != "sum":
            raise InputError(f"{self.where()}: per_sample_weights need mode 'sum', but mode is '{self.mode}'")
        if weights.shape != input.shape:
            raise InputError(
                f"{self.where()}: per_sample_weights have shape {tuple(weights.shape)}, "
                f"but input has {tuple(input.shape)}"
            )
        self.check_input(weights, name="per_sample_weights")

    def config(self) -> dict[str, Any]:
        """Arguments of the constructor."""
        return super().config() | {"mode": self.mode, "include_last_offset": self.include_last_offset}

    def extra_repr(self) -> str:
        """What `print` shows."""
        return f"{super().extra_repr()}, mode={self.mode}"


def _refuse(module: nn.Module, qconfig: QConfig) -> str | None:
    assert isinstance(module, (nn.Embedding, nn.EmbeddingBag))
    if module.max_norm is not None:
        return (
            f"max_norm={module.max_norm} rewrites rows as they are looked up, which a quantized table "
            "cannot: renormalize the weight and set max_norm to None"
        )
    if module.weight.numel() == 0:
        return "its weight is empty"
    return None


def _example() -> Example:
    return nn.Embedding(50, 33, padding_idx=3), (torch.randint(0, 50, (4, 7)),)


def _example_bag() -> Example:
    bags = torch.randint(0, 50, (20,)), torch.tensor([0, 0, 5, 19])
    return nn.EmbeddingBag(50, 32, mode="mean", padding_idx=2), bags


def _example_square_bag() -> Example:
    return nn.EmbeddingBag(50, 33, mode="max"), (torch.randint(0, 50, (5, 4)),)


def _static_form(lower_dynamic: Callable[[nn.Module, QConfig, str], nn.Module]) -> StaticForm:
    """The same table, which gives float rows: a `QuantStub` after it makes them a `QTensor`."""
    return StaticForm(
        lambda module, qconfig, path, output: lower_dynamic(module, qconfig, path),
        output="float",
        refuse=_refuse,
    )


def _table_rounder(qconfig: QConfig) -> Callable[..., Any]:
    """What rounds rows in training: the qconfig's weight if it is for rows, or 8 bits a row."""
    rounder = qconfig.weight()
    is_for_rows = isinstance(rounder, FakeQuantize) and rounder.rounds_rows
    return qconfig.weight if is_for_rows else default_embedding_fake_quant


def _used_rows(module: nn.Module, input: Tensor) -> tuple[Tensor, Tensor, int | None]:
    """The rows that are looked up, rounded; each index's place among them, and that of the padding."""
    assert isinstance(module, TrainedLayer)
    used, places = torch.unique(input, return_inverse=True)
    padding_idx: Any = module.padding_idx
    sparse: Any = module.sparse
    rows = F.embedding(used, module.weight_named("weight"), padding_idx, sparse=sparse)
    found = (used == padding_idx).nonzero() if padding_idx is not None else used.new_empty(0)
    return module.fake_quantizer("weight")(rows), places, int(found[0]) if len(found) else None


def _train(module: nn.Module, weights: dict[str, Tensor], input: Tensor) -> Tensor:
    rows, places, _ = _used_rows(module, input)
    return F.embedding(places, rows)


def _train_bag(
    module: nn.Module,
    weights: dict[str, Tensor],
    input: Tensor,
    offsets: Tensor | None = None,
    per_sample_weights: Tensor | None = None,
) -> Tensor:
    assert isinstance(module, nn.EmbeddingBag)
    rows, places, padding_idx = _used_rows(module, input)
    return F.embedding_bag(
        *(places, rows, offsets),
        mode=module.mode,
        per_sample_weights=per_sample_weights,
        include_last_offset=module.include_last_offset,
        padding_idx=padding_idx,
    )


EMBEDDING = register_rule(
    OpRule(
        name="Embedding",
        float_types=(nn.Embedding,),
        static=_static_form(QuantizedEmbedding.from_float),
        trained=TrainedForm(_train, rounder=_table_rounder, by_rows=True),
        lower_dynamic=QuantizedEmbedding.from_float,
        weight_dtypes=frozenset({"uint8", "uint4", "int8"}),
        default_for=frozenset({"uint8", "uint4"}),
        refuse=_refuse,
        examples=(_example,),
    )
)
EMBEDDING_BAG = register_rule(
    OpRule(
        name="EmbeddingBag",
        float_types=(nn.EmbeddingBag,),
        static=_static_form(QuantizedEmbeddingBag.from_float),
        trained=TrainedForm(_train_bag, rounder=_table_rounder, by_rows=True),
        lower_dynamic=QuantizedEmbeddingBag.from_float,
        weight_dtypes=frozenset({"uint8", "uint4", "int8"}),
        default_for=frozenset({"uint8", "uint4"}),
        refuse=_refuse,
        examples=(_example_bag, _example_square_bag),
    )
)
