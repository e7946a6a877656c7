"""Conv1d/2d/3d: the dynamic quantized form, its rule, and what conv_transpose.py shares with it.

Weights are int8 per output channel; each sample of a batch is quantized to uint8 with a range of its own,
and padding is exact (a border of the zero point). May import ops, rules, quantized, linear and errors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Proxy

from intaglio.errors import InputError
from intaglio.nn.linear import quantize_weight
from intaglio.nn.quantized import QuantizedModule, StateSpec, register_quantized
from intaglio.ops.conv import ConvSpec, is_channels_last, pack_conv, run_conv_dynamic, unpack_conv
from intaglio.ops.library import is_eager
from intaglio.ops.packing import MAX_K
from intaglio.qconfig import QConfig
from intaglio.qparams import INT8, QParams
from intaglio.qtensor import QTensor
from intaglio.rules import Example, OpRule, register_rule

__all__ = ["ConvModule", "DynamicConv", "example_of", "lies_channels_last", "refuse_conv"]


FloatConv = nn.Conv1d | nn.Conv2d | nn.Conv3d


class ConvModule(QuantizedModule):
    """What ordinary and transposed convolutions share: one to three dimensions, as `kernel_size` has.

    `channels_last` says that the float weight lay so, in which case results do too, as torch has it.
    """

    packed: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Sequence[int],
        *,
        stride: Sequence[int],
        dilation: Sequence[int],
        groups: int,
        bias: bool,
        channels_last: bool,
        path: str,
    ) -> None:
        super().__init__(path)
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.kernel_size, self.stride, self.dilation = tuple(kernel_size), tuple(stride), tuple(dilation)
        self.has_bias, self.channels_last = bias, channels_last
        self.register_buffer("packed", None, persistent=False)

    def conv_spec(self) -> ConvSpec:
        """What the kernels need to know."""
        raise NotImplementedError

    @property
    def dims(self) -> int:
        """1, 2 or 3."""
        return len(self.kernel_size)

    @property
    def weight(self) -> QTensor:
        """The int8 weight with its scales, `(out_channels, in_channels / groups, *kernel_size)`.

        Output channels come first in a transposed convolution too.
        """
        data, scale, _ = unpack_conv(self.packed)
        zero_point = torch.zeros_like(scale, dtype=torch.int32)
        return QTensor(
            data.view(self.conv_spec().weight_shape), QParams(scale, zero_point, INT8, 0, -127, 127)
        )

    @property
    def bias(self) -> Tensor | None:
        """The `(out_channels,)` float32 bias, or None."""
        return unpack_conv(self.packed)[2] if self.has_bias else None

    def _shared_config(self) -> dict[str, Any]:
        return {
            "in_channels": self.in_channels,
            "out_channels": self.out_channels,
            "kernel_size": list(self.kernel_size),
            "stride": list(self.stride),
            "dilation": list(self.dilation),
            "groups": self.groups,
            "bias": self.has_bias,
            "channels_last": self.channels_last,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> ConvModule:
        """An empty module."""
        return cls(**config)

    def state_spec(self) -> StateSpec:
        """`weight`, as `conv_spec().weight_shape` says, `weight_scale` and, if there is one, `bias`."""
        spec: StateSpec = {
            "weight": (self.conv_spec().weight_shape, torch.int8),
            "weight_scale": ((self.out_channels,), torch.float32),
        }
        if self.has_bias:
            spec["bias"] = ((self.out_channels,), torch.float32)
        return spec

    def plain_state(self) -> dict[str, Tensor]:
        """Unpack."""
        weight, scale, bias = unpack_conv(self.packed)
        state = {"weight": weight.view(self.conv_spec().weight_shape), "weight_scale": scale}
        return state | {"bias": bias} if self.has_bias else state

    def load_plain_state(self, state: dict[str, Tensor]) -> None:
        """Pack for the instruction set in use."""
        self.packed = pack_conv(self.conv_spec(), state["weight"], state["weight_scale"], state.get("bias"))

    def float_bytes(self) -> int:
        """Bytes of the float weight and bias."""
        weight = torch.Size(self.conv_spec().weight_shape).numel()
        return 4 * (weight + self.has_bias * self.out_channels)

    def _fill(self, weight: Tensor, bias: Tensor | None, qconfig: QConfig) -> None:
        data, scale = quantize_weight(weight, qconfig, self.path)
        state = {"weight": data, "weight_scale": scale}
        if bias is not None:
            state["bias"] = bias.detach().to(torch.float32)
        self.load_plain_state(state)

    def _convolve(self, x: Tensor, size_of: Callable[[Sequence[int]], Sequence[int]]) -> Tensor:
        """Convolve `(N, C, *size)` or, as one sample, `(C, *size)`; `size_of(size)` is the output's."""
        self.check_input(x)
        dims = self.dims
        if x.dim() == dims + 1:
            return self._convolve(x.unsqueeze(0), size_of).squeeze(0)
        if x.dim() != dims + 2 or x.shape[1] != self.in_channels:
            axes = ("length", "height, width", "depth, height, width")[dims - 1]
            raise InputError(
                f"{self.where()}: input has shape {tuple(x.shape)}, but (batch, {self.in_channels}, {axes}) "
                f"or ({self.in_channels}, {axes}) is needed"
            )
        size = x.shape[2:]
        if any(length < 1 for length in size):
            raise InputError(f"{self.where()}: input of shape {tuple(x.shape)} has no pixels")
        output_size = size_of(size)
        channels_last = dims > 1 and (self.channels_last or is_channels_last(x))
        if type(x) is Tensor and x.dtype is torch.float32 and x.is_cpu and is_eager():
            found = run_conv_dynamic(x, self.packed, self.out_channels, output_size, channels_last)
            return self.refuse_gradient(x, found) if x.requires_grad else found
        op = torch.ops.intaglio.conv_dynamic
        y: Tensor = op(x, self.packed, self.out_channels, output_size, channels_last)
        return y

    def _describe(self, *more: str) -> str:
        """What `print` shows."""
        return ", ".join(
            [
                f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}",
                f"stride={self.stride}",
                *more,
                *([f"dilation={self.dilation}"] if set(self.dilation) != {1} else []),
                *([f"groups={self.groups}"] if self.groups != 1 else []),
                f"bias={self.has_bias}",
                "weight=int8 per channel, activations=uint8 per sample",
            ]
        )


@register_quantized
class DynamicConv(ConvModule):
    """A convolution with int8 weight and activations quantized dynamically, sample by sample.

    Takes `(N, in_channels, *size)` of any float dtype on the CPU, or one sample without N, contiguous or
    channels-last, and gives `(N, out_channels, *output_size)` of the same dtype, in the memory format that
    the float module would give. A sample that holds NaN or infinity comes out as NaN; other samples are not
    touched by it. `padding` holds what stands before and after each axis. Raises `InputError` for other
    inputs and in training mode.
    """

    kind = "dynamic_conv"

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Sequence[int],
        *,
        stride: Sequence[int],
        padding: Sequence[Sequence[int]],
        dilation: Sequence[int],
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        channels_last: bool = False,
        path: str = "",
    ) -> None:
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride=stride,
            dilation=dilation,
            groups=groups,
            bias=bias,
            channels_last=channels_last,
            path=path,
        )
        self.padding = tuple((before, after) for before, after in padding)
        self.padding_mode = padding_mode

    @classmethod
    def from_float(cls, module: nn.Module, qconfig: QConfig, path: str = "") -> DynamicConv:
        """Quantize an `nn.Conv1d`, `nn.Conv2d` or `nn.Conv3d`."""
        assert isinstance(module, FloatConv)
        quantized = cls(
            module.in_channels,
            module.out_channels,
            module.kernel_size,
            stride=module.stride,
            padding=_padding_pairs(module),
            dilation=module.dilation,
            groups=module.groups,
            bias=module.bias is not None,
            padding_mode=module.padding_mode,
            channels_last=lies_channels_last(module.weight),
            path=path,
        )
        quantized._fill(module.weight, module.bias, qconfig)
        return quantized

    def conv_spec(self) -> ConvSpec:
        """What the kernels need to know."""
        before = tuple(pair[0] for pair in self.padding)
        return ConvSpec(
            self.out_channels,
            self.in_channels,
            self.groups,
            self.kernel_size,
            self.stride,
            self.dilation,
            before,
            padding_mode=self.padding_mode,
        )

    def forward(self, x: Tensor) -> Tensor:
        """Convolve; see the class."""
        if isinstance(x, Proxy):
            return self.as_fx_node(x)
        return self._convolve(x, self._output_size)

    def _output_size(self, size: Sequence[int]) -> list[int]:
        self._check_padding(size)
        found = []
        for length, kernel, stride, dilation, (before, after) in zip(
            size, self.kernel_size, self.stride, self.dilation, self.padding, strict=True
        ):
            room = length + before + after - dilation * (kernel - 1) - 1
            if room < 0:
                raise InputError(
                    f"{self.where()}: input of size {tuple(size)} is smaller than the kernel, "
                    f"even padded by {self.padding}"
                )
            found.append(room // stride + 1)
        return found

    def _check_padding(self, size: Sequence[int]) -> None:
        """The modes that copy pixels cannot reach beyond them."""
        if self.padding_mode not in ("reflect", "circular"):
            return
        spare = 1 if self.padding_mode == "reflect" else 0
        if any(max(pair) > length - spare for pair, length in zip(self.padding, size, strict=True)):
            raise InputError(
                f"{self.where()}: input of size {tuple(size)} is too small for "
                f"{self.padding_mode} padding by {self.padding}"
            )

    def config(self) -> dict[str, Any]:
        """Arguments of the constructor."""
        padding = [list(pair) for pair in self.padding]
        return self._shared_config() | {"padding": padding, "padding_mode": self.padding_mode}

    def extra_repr(self) -> str:
        """What `print` shows."""
        padding = f"padding={self.padding}"
        return self._describe(
            *([padding] if any(map(any, self.padding)) else []),
            *([f"padding_mode={self.padding_mode}"] if self.padding_mode != "zeros" else []),
        )


def _padding_pairs(module: FloatConv) -> list[tuple[int, int]]:
    """What stands before and after each axis; `'same'` puts the odd one after, as torch does."""
    if module.padding == "valid":
        return [(0, 0)] * len(module.kernel_size)
    if module.padding == "same":
        totals = [d * (k - 1) for d, k in zip(module.dilation, module.kernel_size, strict=True)]
        return [(total // 2, total - total // 2) for total in totals]
    return [(size, size) for size in module.padding if isinstance(size, int)]


def lies_channels_last(weight: Tensor) -> bool:
    """Whether a float weight makes torch give results that lie so."""
    return weight.dim() > 3 and is_channels_last(weight)


def refuse_conv(module: nn.Module, qconfig: QConfig) -> str | None:
    """Why a convolution, ordinary or transposed, must stay float."""
    weight = module.weight
    assert isinstance(weight, Tensor)
    if weight.numel() == 0:
        return "its weight is empty"
    if weight.is_complex():
        return "its weight is complex"
    k = int(module.in_channels) // int(module.groups) * weight[0, 0].numel()  # type: ignore[arg-type]
    if k > MAX_K:
        return f"{k} products in each output exceed {MAX_K}, beyond which int32 sums could overflow"
    return None


def example_of(make: Callable[[], nn.Module], *shape: int) -> Callable[[], Example]:
    """An example of a rule: a float module and a random input."""
    return lambda: (make(), (torch.randn(*shape),))


CONV = register_rule(
    OpRule(
        name="Conv",
        float_types=(nn.Conv1d, nn.Conv2d, nn.Conv3d),
        lower_dynamic=DynamicConv.from_float,
        weight_dtypes=frozenset({"int8"}),
        default_for=frozenset({"int8"}),
        refuse=refuse_conv,
        examples=(
            example_of(lambda: nn.Conv1d(6, 8, 5, padding="same"), 2, 6, 20),
            example_of(lambda: nn.Conv2d(8, 20, 3, padding=1), 2, 8, 9, 10),
            example_of(lambda: nn.Conv2d(12, 12, 3, 2, 1, groups=12, bias=False), 2, 12, 9, 9),
            example_of(lambda: nn.Conv2d(8, 8, 3, padding=2, groups=2, padding_mode="reflect"), 2, 8, 7, 7),
            example_of(lambda: nn.Conv3d(3, 5, (1, 2, 3), dilation=(1, 2, 1)), 1, 3, 4, 6, 6),
        ),
    )
)
