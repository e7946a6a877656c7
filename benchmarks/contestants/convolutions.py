"""Static convolutions: intaglio's, in the form it chooses and in the direct one, and the legacy engines'.

Each takes the image as uint8 with its channels innermost, with the parameters of its own range, and gives
uint8 with the parameters of the float output's range.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from benchmarks.contestants.contestant import Contestant, Program
from benchmarks.results import OUR_DIRECT_FORM, OUR_KERNEL, OURS
from benchmarks.workloads import Inputs, Network
from intaglio import _core
from intaglio.ops.conv import ConvSpec
from intaglio.ops.conv_static import pack_conv_static, run_conv_static
from intaglio.ops.requantization import choose_requantization

__all__ = ["IntaglioConv", "IntaglioConvKernel", "IntaglioDirectForm", "LegacyConvFbgemm", "LegacyConvOnednn"]


class StaticConv(Contestant):
    """The float layer's integers: a scale for each output channel, one for the image, one for the output."""

    def __init__(self, network: Network, threads: int) -> None:
        super().__init__(network, threads)
        module = network.module
        assert isinstance(module, nn.Conv2d)
        self.module = module
        self.weight_scale = module.weight.abs().amax((1, 2, 3)) / 127
        self.weight = torch.round(module.weight / self.weight_scale[:, None, None, None]).to(torch.int8)

    @staticmethod
    def choose_params(x: Tensor) -> tuple[float, int]:
        """Scale and zero point of the range of `x`."""
        low, high = min(float(x.min()), 0.0), max(float(x.max()), 0.0)
        scale = (high - low) / 255
        return scale, round(-low / scale)


class IntaglioConv(StaticConv):
    """What a static quantized module runs."""

    name = OURS
    configuration = "`run_conv_static`"
    winograd: ClassVar[bool] = True

    def bind(self, inputs: Inputs) -> Program:
        """Call the op."""
        call = self.make_call(inputs)
        scale, zero_point = self.choose_params(self.module(*inputs))
        return Program(call, lambda: (call().float() - zero_point) * scale)

    def make_call(self, inputs: Inputs) -> Callable[[], Tensor]:
        """The op with all of its arguments."""
        (x,) = inputs
        module, y = self.module, self.module(x)
        scale, zero_point = self.choose_params(x)
        spec = ConvSpec(
            module.out_channels,
            module.in_channels,
            module.groups,
            module.kernel_size,
            module.stride,
            module.dilation,
            module.padding,  # type: ignore[arg-type]
        )
        packed = pack_conv_static(spec, self.weight, winograd=self.winograd)
        requantization = choose_requantization(scale, self.weight_scale, module.bias, *self.choose_params(y))
        q = torch.clamp(torch.round(x / scale) + zero_point, 0, 255).to(torch.uint8)
        return partial(run_conv_static, q, zero_point, packed, requantization, tuple(y.shape[2:]))


class IntaglioConvKernel(IntaglioConv):
    """The same without the Python around it: one call of the C++ core."""

    name = OUR_KERNEL
    configuration = "the call of the core inside it, into memory that is there already"

    def make_call(self, inputs: Inputs) -> Callable[[], Tensor]:
        """The core's function with all of its arguments."""
        q, zero_point, packed, r, size = super().make_call(inputs).args  # type: ignore[attr-defined]
        y = torch.empty_like(self.module(*inputs), dtype=torch.uint8, memory_format=torch.channels_last)
        addresses = (r.multiplier.data_ptr(), r.offset.data_ptr())
        limits = (r.zero_point, r.lower, r.upper)
        source = (
            q.data_ptr(),
            1,
            q.shape[1],
            1,
            *q.shape[2:],
            zero_point,
            packed.data_ptr(),
            1,
            *size,
            y.shape[1],
        )
        run = partial(_core.conv_static, *source, *addresses, *limits, 0, 0, 0.0, y.data_ptr(), self.threads)
        alive = (q, packed, r)

        def call() -> Tensor:
            run()
            assert alive
            return y

        return call


class IntaglioDirectForm(IntaglioConvKernel):
    """The same, never in Winograd's form."""

    name = OUR_DIRECT_FORM
    configuration = "the same, packed without Winograd's form"
    winograd = False


class LegacyConv(StaticConv):
    """`torch.ao.nn.quantized.Conv2d`, weights per channel."""

    engine: ClassVar[str]

    def bind(self, inputs: Inputs) -> Program:
        """Call the quantized module with a quantized tensor."""
        (x,) = inputs
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecated: that is why intaglio exists
            torch.backends.quantized.engine = self.engine
            form, q = self._make_legacy(x)
            # The legacy engines know no other type of result than a quantized tensor.
            return Program(lambda: form(q), lambda: form(q).dequantize())

    def _make_legacy(self, x: Tensor) -> tuple[nn.Module, Tensor]:
        from torch.ao.nn import quantized

        module = self.module
        form: Any = quantized.Conv2d(
            module.in_channels,
            module.out_channels,
            module.kernel_size,
            module.stride,
            module.padding,
            module.dilation,
            module.groups,
        )
        zeros = torch.zeros(module.out_channels, dtype=torch.long)
        weight = torch.quantize_per_channel(
            module.weight.detach(), self.weight_scale.double(), zeros, 0, torch.qint8
        )
        form.set_weight_bias(weight, module.bias)
        form.scale, form.zero_point = self.choose_params(module(x))
        return form, torch.quantize_per_tensor(x, *self.choose_params(x), torch.quint8)


class LegacyConvFbgemm(LegacyConv):
    """The x86 default of PyTorch before 2.0."""

    name = "legacy fbgemm"
    configuration = "`torch.ao.nn.quantized.Conv2d`, weights per channel, engine fbgemm"
    engine = "fbgemm"


class LegacyConvOnednn(LegacyConv):
    """oneDNN's kernels behind the same module."""

    name = "legacy onednn"
    configuration = "the same, engine onednn"
    engine = "onednn"
