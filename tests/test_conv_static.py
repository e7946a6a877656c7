"""Static convolutions and Linear, uint8 to uint8, equal the reference bit for bit at any geometry."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from intaglio import ConfigError, InputError, _core
from intaglio.ops import reference_conv_static as reference
from intaglio.ops.conv import PADDING_MODES, ConvSpec
from intaglio.ops.conv_static import (
    pack_conv_static,
    pack_linear_static,
    run_conv_static,
    run_linear_static,
    unpack_conv_static,
    unpack_linear_static,
)
from intaglio.ops.layout import quantize_image, with_channels_innermost
from intaglio.ops.requantization import Requantization, choose_requantization

# groups, inputs and outputs of a group: one GEMM, one a group, several groups in one, depthwise.
CHANNELS = (
    *((1, 3, 5), (1, 1, 2), (1, 20, 33), (1, 64, 130), (2, 16, 70), (3, 5, 2), (8, 2, 2), (4, 4, 4)),
    *((3, 1, 9), (19, 1, 1), (5, 1, 3), (40, 1, 1), (64, 1, 1), (144, 1, 1)),
)
LIMITS = ((0, 255), (0, 255), (1, 255), (128, 200), (77, 77))


@dataclass(frozen=True)
class Case:
    """A static convolution and its operands."""

    spec: ConvSpec
    x: Tensor
    weight: Tensor
    requantization: Requantization
    zero_point: int
    output_size: tuple[int, ...]
    options: dict[str, Any]  # of the reference
    residual: dict[str, Any]  # of both

    def run(self) -> Tensor:
        packed = pack_conv_static(self.spec, self.weight)
        return run_conv_static(
            self.x, self.zero_point, packed, self.requantization, self.output_size, **self.residual
        )

    def expected(self) -> Tensor:
        r, spec, weight = self.requantization, self.spec, self.weight
        if spec.transposed:
            grouped = weight.view(spec.groups, -1, *weight.shape[1:])
            weight = grouped.transpose(1, 2).flatten(0, 1)
        return reference.conv_static(
            self.x,
            self.zero_point,
            weight,
            r.multiplier,
            r.offset,
            r.zero_point,
            r.lower,
            r.upper,
            stride=spec.stride,
            dilation=spec.dilation,
            groups=spec.groups,
            padding_mode=spec.padding_mode,
            transposed=spec.transposed,
            **self.options,
            **self.residual,
        )


def make_case(
    spec: ConvSpec,
    batch: int,
    size: tuple[int, ...],
    *,
    after: tuple[int, ...] | None = None,
    limits: tuple[int, int] = (0, 255),
    residual: bool = False,
    innermost: bool = True,
) -> Case:
    """Random operands; `after` is the padding behind each axis, or a transposed one's output padding."""
    reach = [d * (k - 1) for d, k in zip(spec.dilation, spec.kernel, strict=True)]
    after = after or (tuple(0 for _ in size) if spec.transposed else spec.padding)
    geometry = list(zip(size, reach, spec.stride, spec.padding, after, strict=True))
    options: dict[str, Any]
    if spec.transposed:
        output = tuple((n - 1) * s - 2 * p + r + e + 1 for n, r, s, p, e in geometry)
        options = {"padding": [(p, p) for p in spec.padding], "output_padding": after}
    else:
        output = tuple((n + p + e - r - 1) // s + 1 for n, r, s, p, e in geometry)
        options = {"padding": list(zip(spec.padding, after, strict=True))}
    x = torch.randint(0, 256, (batch, spec.in_channels, *size), dtype=torch.uint8)
    if innermost:
        x = x.movedim(1, -1).contiguous().movedim(-1, 1)
    weight = torch.randint(-128, 128, spec.weight_shape, dtype=torch.int8)
    spread = (weight[0].numel() * 74.0**4) ** 0.5
    n = spec.out_channels
    out = int(torch.randint(0, 256, ())) * int(torch.randint(0, 2, ()))  # often 0: as behind a ReLU
    requantization = Requantization(torch.rand(n) * 60 / spread, torch.randn(n) * 30, out, *limits)
    extra: dict[str, Any] = {}
    if residual:
        other = torch.randint(0, 256, (batch, n, *output), dtype=torch.uint8)
        extra = {"residual": other, "residual_zero_point": 131, "residual_multiplier": 0.71}
    zero_point = int(torch.randint(0, 256, ()))
    return Case(spec, x, weight, requantization, zero_point, output, options, extra)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    dims = draw(st.sampled_from((1, 2, 2, 3)))
    groups, inputs, outputs = draw(st.sampled_from(CHANNELS))
    axis = st.tuples(*[st.integers(1, 5 if dims < 3 else 3)] * dims)
    step = st.tuples(*[st.integers(1, 3)] * dims)
    kernel, stride, dilation = draw(axis), draw(step), draw(step)
    reach = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
    transposed = draw(st.booleans())
    mode = "zeros"
    if transposed:
        size = tuple(draw(st.integers(1, 7)) for _ in reach)
        padding = tuple(draw(st.integers(0, r // 2)) for r in reach)
        most = [max(s, d) - 1 for s, d in zip(stride, dilation, strict=True)]
        after = tuple(draw(st.integers(0, bound)) for bound in most)
    else:
        size = tuple(draw(st.integers(r + 1, r + 9)) for r in reach)
        mode = draw(st.sampled_from(PADDING_MODES))
        most = [3 if mode == "zeros" else min(3, length - 1) for length in size]
        padding = tuple(draw(st.integers(0, bound)) for bound in most)
        after = tuple(draw(st.integers(0, bound)) for bound in most)
    spec = ConvSpec(
        groups * outputs, groups * inputs, groups, kernel, stride, dilation, padding, transposed, mode
    )
    return make_case(
        spec,
        draw(st.integers(1, 4)),
        size,
        after=after,
        limits=draw(st.sampled_from(LIMITS)),
        residual=draw(st.booleans()),
        innermost=draw(st.booleans()),
    )


@settings(max_examples=300, deadline=None)
@given(cases(), st.sampled_from(_core.available_isas()), st.integers(1, 3))
def test_equals_reference_at_any_geometry(case: Case, isa: str, threads: int) -> None:
    _core.force_isa(isa)
    torch.set_num_threads(threads)
    found = case.run()
    assert found.movedim(1, -1).is_contiguous()
    assert torch.equal(found, case.expected())


def square(n: int, c: int, groups: int, kernel: int, stride: int = 1, padding: int = 0) -> ConvSpec:
    return ConvSpec(n, c, groups, (kernel,) * 2, (stride,) * 2, (1, 1), (padding,) * 2)


@pytest.mark.parametrize("isa", _core.available_isas())
@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize(
    ("spec", "shape"),
    [
        (square(72, 64, 1, 3, 1, 1), (1, 40, 40)),  # several blocks of rows
        (square(200, 64, 1, 3, 1, 1), (1, 6, 6)),  # threads take columns
        (square(160, 96, 1, 1), (1, 7, 9)),  # and share the rows of a panel between them
        (square(48, 32, 1, 1), (5, 14, 14)),  # rows evenly spaced in x itself
        (square(48, 32, 1, 1, 2), (2, 15, 15)),
        (square(64, 3, 1, 7, 2, 3), (2, 40, 40)),  # a stem
        (square(64, 64, 16, 3, 1, 1), (2, 20, 20)),
        (square(16, 16, 1, 3, 1, 1), (40, 40, 40)),  # more than one group of samples
        (square(24, 40, 1, 1, 1, 1), (1, 5, 7)),  # a border around a kernel of one tap
        (ConvSpec(24, 32, 1, (4, 4), (2, 2), (1, 1), (1, 1), True), (2, 30, 30)),
        (square(96, 96, 96, 3, 1, 1), (2, 30, 33)),
        (square(64, 64, 1, 3, 1, 1), (1, 56, 55)),  # Winograd's form, from here on
        (square(96, 128, 1, 3, 1, 0), (3, 18, 30)),
        (square(256, 64, 1, 3, 1, 1), (1, 14, 14)),  # threads take panels
        (square(64, 64, 1, 3, 1, 1), (40, 16, 16)),
        (square(144, 144, 144, 3, 2, 1), (1, 70, 80)),  # strips of rows
        (square(240, 240, 240, 5, 1, 2), (1, 14, 14)),
        (square(32, 32, 32, 5, 2, 2), (3, 40, 300)),
        (square(16, 16, 16, 3, 1, 1), (1, 113, 60)),  # folded blocks, whose parts do not divide the rows
        (square(80, 80, 80, 5, 2, 2), (2, 21, 30)),
        (ConvSpec(144, 144, 144, (1, 2), (3, 3), (1, 1), (0, 0), True), (2, 40, 30)),  # outputs without taps
    ],
    ids=str,
)
def test_threads_and_blocks_do_not_change_bits(
    spec: ConvSpec, shape: tuple[int, int, int], threads: int, isa: str
) -> None:
    _core.force_isa(isa)
    torch.set_num_threads(threads)
    batch, *size = shape
    case = make_case(spec, batch, tuple(size), residual=threads > 1)
    assert torch.equal(case.run(), case.expected())


@pytest.mark.parametrize("isa", _core.available_isas())
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("innermost", [False, True])
@pytest.mark.parametrize(
    ("spec", "shape"),
    [
        (square(64, 3, 1, 7, 2, 3), (2, 61, 40)),  # a stem: quantized into the bordered copy
        (square(16, 5, 1, 3, 1, 1), (3, 40, 33)),
        (ConvSpec(8, 4, 1, (3, 3), (1, 1), (1, 1), (1, 1), False, "reflect"), (1, 9, 9)),
        (square(48, 32, 1, 1), (2, 14, 15)),  # read where it lies: quantized before
        (square(40, 40, 40, 3, 1, 1), (2, 13, 12)),
        (square(64, 64, 1, 3, 1, 1), (1, 40, 41)),
    ],
    ids=str,
)
def test_a_float_input_is_quantized_on_the_way(
    spec: ConvSpec, shape: tuple[int, int, int], innermost: bool, threads: int, isa: str
) -> None:
    _core.force_isa(isa)
    torch.set_num_threads(threads)
    batch, *size = shape
    case = make_case(spec, batch, tuple(size))
    x = torch.randn(batch, spec.in_channels, *size) * 3
    x.view(-1)[5] = torch.nan
    x = with_channels_innermost(x) if innermost else x
    scale, lower, upper = 0.031, 2, 250
    q = quantize_image(x, scale, case.zero_point, lower, upper)
    r, packed = case.requantization, pack_conv_static(spec, case.weight)
    expected = run_conv_static(q, case.zero_point, packed, r, case.output_size)
    found = torch.empty_like(expected)
    arguments = (r.multiplier.data_ptr(), r.offset.data_ptr(), r.zero_point, r.lower, r.upper)
    _core.conv_static(
        *(0, batch, spec.in_channels, 1, *size, case.zero_point, packed.data_ptr(), 1, *case.output_size),
        *(spec.out_channels, *arguments, 0, 0, 0.0, found.data_ptr(), threads),
        *(x.data_ptr(), not innermost, scale, lower, upper),
    )
    assert torch.equal(found, expected)


@pytest.mark.parametrize("isa", _core.available_isas())
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_linear_equals_reference(isa: str, threads: int) -> None:
    _core.force_isa(isa)
    torch.set_num_threads(threads)
    for m, k, n in (
        (1, 1, 1),
        (1, 512, 1000),
        (3, 7, 5),
        (130, 900, 130),
        (45, 300, 150),
        (700, 30, 48),
        (2, 4, 17),
        (0, 4, 4),
    ):
        x = torch.randint(0, 256, (m, k), dtype=torch.uint8)
        weight = torch.randint(-128, 128, (n, k), dtype=torch.int8)
        r = Requantization(torch.rand(n) * 60 / (k * 74.0**4) ** 0.5, torch.randn(n) * 30, 99, 3, 250)
        packed = pack_linear_static(weight)
        assert torch.equal(unpack_linear_static(packed), weight)
        for residual in (None, torch.randint(0, 256, (m, n), dtype=torch.uint8)):
            more: dict[str, Any] = {
                "residual": residual,
                "residual_zero_point": 4,
                "residual_multiplier": 0.3,
            }
            expected = reference.linear_static(
                x, 200, weight, r.multiplier, r.offset, r.zero_point, r.lower, r.upper, **more
            )
            assert torch.equal(run_linear_static(x, 200, packed, r, **more), expected), (m, k, n)


@pytest.mark.parametrize("isa", _core.available_isas())
def test_weights_that_winograd_cannot_sum_are_exact(isa: str) -> None:
    # Sums of 64 inputs of 127 stay below 2^25, where Winograd's form is exact; those of 128 do not.
    _core.force_isa(isa)
    for inputs, value in ((64, 127), (64, -128), (128, 127), (256, -128), (256, 127)):
        case = make_case(square(64, inputs, 1, 3, 1, 1), 1, (16, 16))
        case.weight.fill_(value)
        case.x.fill_(255)
        case.requantization.multiplier.fill_(1e-5)
        assert torch.equal(case.run(), case.expected()), (inputs, value)


@pytest.mark.parametrize("isa", _core.available_isas())
def test_sums_beyond_every_range_saturate(isa: str) -> None:
    # The largest int32 sums, times the largest multipliers: no conversion may wrap.
    _core.force_isa(isa)
    k = 65_793
    weight = torch.full((40, k), 127, dtype=torch.int8)
    weight[::2] = -128
    x = torch.full((3, k), 255, dtype=torch.uint8)
    packed = pack_linear_static(weight)
    for multiplier in (1e-9, 1e-3, 1.0, 1e20, 3e38):
        for sign in (1, -1):
            r = Requantization(torch.full((40,), sign * multiplier), torch.full((40,), 7.0), 100)
            expected = reference.linear_static(x, 0, weight, r.multiplier, r.offset, 100)
            assert torch.equal(run_linear_static(x, 0, packed, r), expected), multiplier


@pytest.mark.parametrize("from_isa", _core.available_isas())
def test_weights_unpack_and_move_between_isas(from_isa: str) -> None:
    for spec in (
        square(40, 12, 4, 3),
        ConvSpec(5, 6, 1, (4, 2), (3, 2), (1, 2), (1, 1), True),
        square(9, 9, 9, 5),
    ):
        _core.force_isa(from_isa)
        case = make_case(spec, 1, (9, 9))
        packed = pack_conv_static(spec, case.weight)
        assert torch.equal(unpack_conv_static(packed)[:, :, 0], case.weight)
        r = case.requantization
        plain = (r.multiplier, r.offset, r.zero_point, r.lower, r.upper, case.output_size, None, 0, 0.0)
        for isa in _core.available_isas():
            _core.force_isa(isa)
            assert torch.equal(unpack_conv_static(packed)[:, :, 0], case.weight)
            found = torch.ops.intaglio.conv_static(case.x, case.zero_point, packed, *plain)
            assert torch.equal(found, case.expected())
            if isa != from_isa:
                with pytest.raises(ValueError, match="pack it again"):
                    run_conv_static(case.x, 0, packed, r, case.output_size)


def test_ops_pass_opcheck() -> None:
    case = make_case(square(24, 16, 1, 3, 1, 1), 2, (9, 7), residual=True)
    r = case.requantization
    plain = (r.multiplier, r.offset, r.zero_point, r.lower, r.upper)
    packed = pack_conv_static(case.spec, case.weight)
    for residual in ((None, 0, 0.0), tuple(case.residual.values())):
        torch.library.opcheck(
            torch.ops.intaglio.conv_static.default,
            (case.x, case.zero_point, packed, *plain, case.output_size, *residual),
        )
    packed = pack_linear_static(torch.randint(-127, 128, (24, 10), dtype=torch.int8))
    x = torch.randint(0, 256, (2, 3, 10), dtype=torch.uint8)
    torch.library.opcheck(torch.ops.intaglio.linear_static.default, (x, 3, packed, *plain, None, 0, 0.0))


def test_requantization_follows_the_formula() -> None:
    scale, bias = torch.tensor([0.1, 1e-38, 3e38]), torch.tensor([1.0, -1e-38, 3e38])
    r = choose_requantization(0.3, scale, bias, 1e-3, 5, 5, 200)
    exact = [(0.3 * float(s) / 1e-3, float(b) / 1e-3) for s, b in zip(scale, bias, strict=True)]
    largest = torch.finfo(torch.float32).max
    assert r.multiplier.tolist() == torch.tensor([m for m, _ in exact]).clamp(max=largest).tolist()
    assert r.offset.tolist() == torch.tensor([o for _, o in exact]).clamp(max=largest).tolist()
    assert (r.zero_point, r.lower, r.upper) == (5, 5, 200)
    assert choose_requantization(0.3, scale, None, 1.0, 0).offset.tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("zero_point", "lower", "upper"), [(256, 0, 255), (-1, 0, 255), (0, 9, 8), (0, -1, 4), (0, 0, 256)]
)
def test_integers_beyond_uint8_raise(zero_point: int, lower: int, upper: int) -> None:
    with pytest.raises(ConfigError, match="from 0 to 255"):
        choose_requantization(1.0, torch.ones(1), None, 1.0, zero_point, lower, upper)


def test_parameters_of_other_shapes_raise() -> None:
    for multiplier, offset in (
        (torch.ones(3), torch.ones(2)),
        (torch.ones(()), torch.ones(())),
        (torch.ones(3).double(), torch.ones(3)),
    ):
        with pytest.raises(ConfigError, match="multipliers and offsets"):
            Requantization(multiplier, offset, 0)


def test_wrong_operands_raise() -> None:
    spec = square(8, 4, 1, 3)
    weight = torch.zeros(spec.weight_shape, dtype=torch.int8)
    with pytest.raises(ConfigError, match="pack_conv_static takes"):
        pack_conv_static(spec, weight.float())
    with pytest.raises(ConfigError, match="pack_conv_static takes"):
        pack_conv_static(spec, weight[:, :, :2])
    with pytest.raises(ConfigError, match="exceeds 65793"):
        pack_conv_static(
            ConvSpec(1, 65_794, 1, (1,), (1,), (1,), (0,)), torch.zeros(1, 65_794, 1, dtype=torch.int8)
        )
    packed = pack_conv_static(spec, weight)
    r = Requantization(torch.ones(8), torch.zeros(8), 0)
    with pytest.raises(ValueError, match="number of input channels"):
        run_conv_static(torch.zeros(1, 5, 4, 4, dtype=torch.uint8), 0, packed, r, (2, 2))
    with pytest.raises(ValueError, match="at least one pixel"):
        run_conv_static(torch.zeros(1, 4, 0, 4, dtype=torch.uint8), 0, packed, r, (2, 2))
    x = torch.zeros(1, 4, 4, 4, dtype=torch.uint8)
    short = Requantization(torch.ones(7), torch.zeros(7), 0)
    with pytest.raises(ValueError, match="number of output channels"):
        run_conv_static(x, 0, packed, short, (2, 2))
    with pytest.raises(ValueError, match="number of output features"):
        run_linear_static(x[:, 0, 0], 0, pack_linear_static(weight[:, :, 0, 0].contiguous()), short)
    for residual in (torch.zeros(1, 8, 2, 1, dtype=torch.uint8), torch.zeros(1, 8, 2, 2)):
        with pytest.raises(InputError, match="the residual is added to a uint8 output"):
            run_conv_static(x, 0, packed, r, (2, 2), residual)
    with pytest.raises(ValueError, match="not a packed"):
        run_linear_static(torch.zeros(1, 36, dtype=torch.uint8), 0, packed, r)
    with pytest.raises(ValueError, match="number of input features"):
        run_linear_static(torch.zeros(1, 5, dtype=torch.uint8), 0, pack_linear_static(weight.flatten(1)), r)
    assert run_conv_static(torch.zeros(0, 4, 4, 4, dtype=torch.uint8), 0, packed, r, (2, 2)).shape == (
        0,
        8,
        2,
        2,
    )
