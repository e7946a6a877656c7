"""Quantized convolutions equal the reference bit for bit, and behave as torch's."""

import copy
import math
import pickle
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import intaglio
from intaglio import ConfigError, InputError, _core
from intaglio.nn import DynamicConv, DynamicConvTranspose
from intaglio.nn.conv import DynamicConvolution as ConvModule
from intaglio.ops import reference_conv
from intaglio.ops.conv import PADDING_MODES, ConvSpec, pack_conv, run_conv_dynamic, unpack_conv
from intaglio.ops.packing import MAX_K

from .kernel_cases.gemm import same

CONV = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
CONV_TRANSPOSE = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
# groups, inputs and outputs of a group: one GEMM, one a group, several groups in one, depthwise.
CHANNELS = (
    *((1, 3, 5), (1, 1, 2), (1, 20, 33), (2, 16, 70), (3, 5, 2), (8, 2, 2), (4, 4, 4), (3, 1, 9)),
    *((19, 1, 1), (5, 1, 3), (40, 1, 1)),
)


def quantized(module: nn.Module) -> ConvModule:
    form = intaglio.quantize_dynamic(nn.Sequential(module.eval()))[0]
    assert isinstance(form, ConvModule)
    return form


def sqnr(expected: Tensor, found: Tensor) -> float:
    error = (expected - found).square().mean()
    return 10 * math.log10(float(expected.square().mean() / error))


def expected_of(module: nn.Module, form: ConvModule, x: Tensor) -> Tensor:
    """What the reference makes of `form`'s own integers; `x` is a batch."""
    state = form.plain_state()
    weight = state["weight"]
    options: dict[str, Any] = {}
    if isinstance(form, DynamicConvTranspose):
        outputs = form.out_channels // form.groups
        grouped = weight.view(form.groups, outputs, form.in_channels // form.groups, *form.kernel_size)
        weight = grouped.transpose(1, 2).reshape(module.weight.shape)
        options = {"transposed": True, "output_padding": form.output_padding}
        padding = tuple((cut, cut) for cut in form.padding)
    else:
        assert isinstance(form, DynamicConv)
        options = {"padding_mode": form.padding_mode}
        padding = form.padding
    return reference_conv.conv_dynamic(
        x,
        weight,
        state["weight_scale"],
        state.get("bias"),
        stride=form.stride,
        padding=padding,
        dilation=form.dilation,
        groups=form.groups,
        **options,
    )


@st.composite
def geometries(draw: st.DrawFn) -> tuple[nn.Module, Tensor]:
    """A float convolution of any kind, and a batch that fits it."""
    dims = draw(st.sampled_from((1, 2, 2, 3)))
    transposed = draw(st.booleans())
    groups, inputs, outputs = draw(st.sampled_from(CHANNELS))
    axis = st.tuples(*[st.integers(1, 5 if dims < 3 else 3)] * dims)
    step = st.tuples(*[st.integers(1, 3)] * dims)
    kernel, stride, dilation = draw(axis), draw(step), draw(step)
    options: dict[str, Any] = {"stride": stride, "dilation": dilation, "groups": groups}
    options["bias"] = draw(st.booleans())
    reach = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
    size = [draw(st.integers(r + 1, r + 9)) for r in reach]
    if transposed:
        options["padding"] = tuple(draw(st.integers(0, r // 2)) for r in reach)
        bounds = [max(s, d) - 1 for s, d in zip(stride, dilation, strict=True)]
        options["output_padding"] = tuple(draw(st.integers(0, bound)) for bound in bounds)
        size = [draw(st.integers(1, 7)) for _ in reach]
        kinds: dict[int, Any] = CONV_TRANSPOSE
    else:
        options["padding_mode"] = draw(st.sampled_from(PADDING_MODES))
        most = [3 if options["padding_mode"] == "zeros" else min(3, length - 1) for length in size]
        options["padding"] = tuple(draw(st.integers(0, bound)) for bound in most)
        if set(stride) == {1} and options["padding_mode"] == "zeros" and draw(st.booleans()):
            options["padding"] = "same"
        kinds = CONV
    module = kinds[dims](groups * inputs, groups * outputs, kernel, **options)
    x = torch.randn(draw(st.integers(1, 4)), groups * inputs, *size)
    if draw(st.booleans()):
        x = x.movedim(1, -1).contiguous().movedim(-1, 1)
    return module, x


@pytest.mark.filterwarnings("ignore:Using padding='same'")  # torch's, about its own speed
@settings(max_examples=300, deadline=None)
@given(geometries(), st.sampled_from(_core.available_isas()), st.integers(1, 3))
def test_equals_reference_at_any_geometry(case: tuple[nn.Module, Tensor], isa: str, threads: int) -> None:
    module, x = case
    _core.force_isa(isa)
    torch.set_num_threads(threads)
    form = quantized(module)
    with torch.no_grad():
        shape = module(x).shape
    if len(x) > 1:
        x[-1, -1] = math.nan
    found = form(x)
    assert found.shape == shape
    assert same(found.contiguous(), expected_of(module, form, x))


@pytest.mark.parametrize("groups", [1, 6])
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_outputs_smaller_than_the_stride(dims: int, groups: int) -> None:
    # Some residues of the stride have no output at all, and some have no tap.
    for kernel, stride, padding in ((3, 3, 1), (1, 3, 0), (2, 4, 0), (4, 5, 1)):
        module = CONV_TRANSPOSE[dims](6, 6, kernel, stride, padding, groups=groups)
        x = torch.randn(2, 6, *[1] * dims)
        form = quantized(module)
        assert torch.equal(form(x), expected_of(module, form, x))


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize(
    ("module", "shape"),
    [
        (nn.Conv2d(64, 72, 3, padding=1), (1, 64, 40, 40)),  # several blocks of rows
        (nn.Conv2d(64, 200, 3, padding=1), (1, 64, 6, 6)),  # threads take columns
        (nn.Conv2d(32, 48, 1), (5, 32, 14, 14)),  # the image itself is the matrix
        (nn.Conv1d(40, 48, 9, stride=2), (3, 40, 500)),
        (nn.Conv2d(64, 64, 3, padding=1, groups=16), (2, 64, 20, 20)),
        (nn.Conv2d(48, 48, 5, padding=2, groups=48), (2, 48, 90, 70)),  # rings of rows
        (nn.ConvTranspose2d(32, 24, 4, 2, 1), (2, 32, 30, 30)),
        (nn.ConvTranspose2d(40, 40, 3, 2, 1, 1, groups=40), (2, 40, 33, 60)),
        (nn.Conv2d(16, 16, 3, padding=1), (40, 16, 40, 40)),  # more than one group of samples
    ],
    ids=str,
)
def test_threads_and_blocks_do_not_change_bits(
    module: nn.Module, shape: tuple[int, ...], threads: int
) -> None:
    torch.set_num_threads(threads)
    form, x = quantized(module), torch.randn(shape)
    expected = expected_of(module, form, x)
    assert torch.equal(form(x), expected)
    if x.dim() == 4:
        last = form(x.to(memory_format=torch.channels_last))
        assert last.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(last.contiguous(), expected)


RESNET18_CONVS = [
    nn.Conv2d(3, 64, 7, 2, 3, bias=False),
    nn.Conv2d(64, 64, 3, 1, 1, bias=False),
    nn.Conv2d(64, 128, 3, 2, 1, bias=False),
    nn.Conv2d(64, 128, 1, 2, bias=False),
    nn.Conv2d(128, 128, 3, 1, 1, bias=False),
    nn.Conv2d(128, 256, 3, 2, 1, bias=False),
    nn.Conv2d(256, 256, 3, 1, 1, bias=False),
    nn.Conv2d(256, 512, 3, 2, 1, bias=False),
    nn.Conv2d(512, 512, 3, 1, 1, bias=False),
]


@pytest.mark.parametrize("conv", RESNET18_CONVS, ids=str)
def test_resnet18_layers_keep_their_accuracy(conv: nn.Conv2d) -> None:
    # pytorch/pytorch#70480: ResNet18 fell to 0 % under dynamic quantization: one weight scale for all
    # channels, one activation range for the whole batch, borders that were not the zero point.
    with torch.no_grad():
        nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
        conv.weight *= torch.logspace(-1.5, 0.5, conv.out_channels)[:, None, None, None]  # folded BatchNorms
        x = torch.randn(3, conv.in_channels, 28, 28) * torch.tensor([0.1, 1.0, 30.0])[:, None, None, None]
        x = x.relu() if conv.in_channels > 3 else x + 0.5  # zero points of 0 and in the middle
        expected, found = conv(x), quantized(conv)(x)
    for whole, part in zip(expected, found, strict=True):
        assert sqnr(whole, part) > 30
        for edge in ((slice(None), 0), (slice(None), slice(None), -1)):
            assert sqnr(whole[edge], part[edge]) > 30
    wrong = (expected - found).square().mean((0, 2, 3)) / expected.square().mean((0, 2, 3))
    assert float(wrong.max()) < 10 ** (-30 / 10)


def test_padding_is_exactly_zero() -> None:
    # Values that uint8 holds exactly, none of them zero: any border but 0 would show.
    x = (torch.randint(0, 2, (2, 4, 6, 6)) * 255 - 100).float()
    x[0] += 3
    module = nn.Conv2d(4, 3, 3, padding=2, bias=False)
    with torch.no_grad():
        module.weight.copy_(torch.randint(-127, 128, module.weight.shape))
        module.weight[:, 0, 0, 0] = 127
        assert (quantized(module)(x) - module(x)).abs().max() < 1e-3 * module(x).abs().max()


def test_each_sample_has_its_own_range() -> None:
    form, x = quantized(nn.Conv2d(3, 8, 3, padding=1)), torch.randn(4, 3, 8, 8)
    whole = form(x)
    for bad in (math.nan, math.inf, -math.inf):
        poisoned = x.clone()
        poisoned[2, 1, 3, 3] = bad
        found = form(poisoned)
        assert found[2].isnan().all()
        assert torch.equal(found[[0, 1, 3]], whole[[0, 1, 3]])
    assert torch.equal(form(x[1]), whole[1])
    loud = x.clone()
    loud[0] *= 1e4
    assert torch.equal(form(loud)[1:], whole[1:])


@pytest.mark.parametrize("transposed", [False, True])
def test_formats_dtypes_and_empty_batches(transposed: bool) -> None:
    module = (nn.ConvTranspose2d if transposed else nn.Conv2d)(6, 4, 3, stride=2, padding=1)
    form, x = quantized(module), torch.randn(2, 6, 9, 7)
    y = form(x)
    assert y.is_contiguous()
    last = form(x.to(memory_format=torch.channels_last))
    assert last.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(last, y)
    assert torch.equal(form(x.transpose(2, 3).contiguous().transpose(2, 3)), y)
    assert torch.equal(form(torch.cat([x, x], 3)[..., :7]), y)
    half = form(x.bfloat16())
    assert half.dtype == torch.bfloat16
    assert torch.equal(half, form(x.bfloat16().float()).bfloat16())
    assert form(x.double()).dtype == torch.float64
    assert form(x[:0]).shape == (0, *y.shape[1:])
    assert torch.equal(form(x[0]), y[0])
    follows = quantized(module.to(memory_format=torch.channels_last))(x)
    assert follows.is_contiguous(memory_format=torch.channels_last)
    assert module(x).stride() == follows.stride()


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_output_size_chooses_as_torch_does(dims: int) -> None:
    module = CONV_TRANSPOSE[dims](3, 2, 3, stride=3, padding=1)
    form, x = quantized(module), torch.randn(2, 3, *[4] * dims)
    with torch.no_grad():
        for extra in (0, 1, 2):
            size = [10 + extra] * dims
            for asked in (size, [2, *size], [2, 2, *size]):
                if len(asked) == dims + 1:
                    continue  # torch takes it for unbatched inputs only
                found, expected = form(x, output_size=asked), module(x, output_size=asked)
                assert found.shape == expected.shape
                assert sqnr(expected, found) > 30
    with pytest.raises(InputError, match=r"'0'.*output_size=.*choose from \(10"):
        form(x, output_size=[13] * dims)


@pytest.mark.parametrize(
    ("module", "x", "words"),
    [
        (
            nn.Conv2d(3, 4, 3),
            torch.randn(2, 4, 8, 8),
            r"'0' \(DynamicConv\).*\(2, 4, 8, 8\).*\(batch, 3, height",
        ),
        (nn.Conv2d(3, 4, 3), torch.randn(2, 3, 8), r"\(3, height, width\) is needed"),
        (nn.Conv2d(3, 4, 3), torch.randn(2, 3, 2, 8), "smaller than the kernel"),
        (nn.Conv2d(3, 4, 3), torch.randn(2, 3, 0, 8), "no pixels"),
        (nn.Conv1d(3, 4, 3), torch.ones(2, 3, 8, dtype=torch.int32), "pass x.float"),
        (nn.Conv1d(3, 4, 3), torch.ones(2, 3, 8, 8), r"\(batch, 3, length\)"),
        (nn.Conv3d(3, 4, 3), torch.ones(1), r"depth, height, width"),
        (nn.Conv1d(3, 4, 7, padding=3, padding_mode="reflect"), torch.ones(2, 3, 3), "too small for reflect"),
        (
            nn.Conv1d(3, 4, 7, padding=4, padding_mode="circular"),
            torch.ones(2, 3, 3),
            "too small for circular",
        ),
        (nn.ConvTranspose1d(3, 4, 3, padding=4), torch.ones(2, 3, 3), "cuts off everything"),
    ],
)
def test_bad_inputs_are_named(module: nn.Module, x: Tensor, words: str) -> None:
    with pytest.raises(InputError, match=words):
        quantized(module)(x)


def test_training_mode_is_refused() -> None:
    with pytest.raises(InputError, match=r"call model.eval\(\)"):
        quantized(nn.Conv1d(3, 4, 3)).train()(torch.randn(1, 3, 9))


def test_layers_that_could_overflow_stay_float() -> None:
    module = nn.Sequential(nn.Conv1d(MAX_K // 3 + 1, 1, 3), nn.Conv1d(1, 2, 3))
    report = intaglio.summary(intaglio.quantize_dynamic(module))
    assert [layer.quantized for layer in report.layers] == [False, True]
    assert f"exceed {MAX_K}" in report.layers[0].note
    spec = ConvSpec(1, MAX_K + 1, 1, (1,), (1,), (1,), (0,))
    with pytest.raises(ConfigError, match="int32 sums could overflow"):
        pack_conv(spec, torch.ones(1, MAX_K + 1, 1, dtype=torch.int8), torch.ones(1), None)


def test_widest_sums_do_not_overflow() -> None:
    spec = ConvSpec(2, MAX_K, 1, (1,), (1,), (1,), (0,))
    weight = torch.full((2, MAX_K, 1), 127, dtype=torch.int8)
    weight[1] = -128
    x = torch.ones(1, MAX_K, 1)
    found = run_conv_dynamic(x, pack_conv(spec, weight, torch.ones(2), None), 2, (1,), False)
    options = {"stride": (1,), "padding": ((0, 0),), "dilation": (1,)}
    assert torch.equal(found, reference_conv.conv_dynamic(x, weight, torch.ones(2), None, **options))


@pytest.mark.parametrize(
    "module",
    [
        nn.Conv1d(6, 8, 5, padding="same"),
        nn.Conv2d(6, 9, (3, 2), padding="same", groups=3, padding_mode="circular"),
        nn.Conv2d(8, 8, 3, padding="valid", groups=8, bias=False),
        nn.ConvTranspose2d(6, 4, 3, 2, 1, 1, groups=2),
        nn.ConvTranspose3d(4, 2, 2, 2, bias=False),
    ],
    ids=str,
)
def test_copies_state_and_description(module: nn.Module) -> None:
    form = quantized(module)
    x = torch.randn(2, form.in_channels, *[7] * form.dims)
    y = form(x)
    for twin in (copy.deepcopy(form), pickle.loads(pickle.dumps(form)), form.twin("elsewhere")):
        assert torch.equal(twin(x), y)
    fresh = type(form).from_config(form.config())
    fresh.load_state_dict(form.state_dict())
    assert torch.equal(fresh(x), y)
    for name, (shape, dtype) in form.state_spec().items():
        assert (tuple(form.plain_state()[name].shape), form.plain_state()[name].dtype) == (shape, dtype)
    assert form.float_bytes() == sum(p.numel() * 4 for p in module.parameters())
    assert form.weight.shape == form.state_spec()["weight"][0]
    assert (form.bias is None) == (module.bias is None)
    assert f"kernel_size={form.kernel_size}" in repr(form)


@pytest.mark.parametrize("isa", _core.available_isas())
def test_pack_and_unpack_are_inverse(isa: str) -> None:
    _core.force_isa(isa)
    for groups, inputs, outputs in ((1, 3, 40), (6, 2, 3), (18, 1, 1), (4, 1, 3), (2, 20, 30)):
        for transposed in (False, True):
            channels = (groups * outputs, groups * inputs, groups)
            spec = ConvSpec(*channels, (3, 2, 5), (2, 1, 3), (1, 2, 2), (1, 0, 1), transposed)
            weight = torch.randint(-128, 128, spec.weight_shape, dtype=torch.int8)
            scale, bias = torch.rand(groups * outputs), torch.randn(groups * outputs)
            for found, expected in zip(
                unpack_conv(pack_conv(spec, weight, scale, bias)), (weight, scale, bias), strict=True
            ):
                assert torch.equal(found, expected)


def test_weights_of_another_isa_are_refused_or_packed_again() -> None:
    form, x = quantized(nn.Conv2d(4, 4, 3)), torch.randn(1, 4, 5, 5)
    y = form(x)
    other = next(isa for isa in _core.available_isas() if isa != _core.active_isa())
    _core.force_isa(other)
    with pytest.raises(ValueError, match="pack it again"):
        form(x)
    assert torch.equal(torch.ops.intaglio.conv_dynamic(x, form.packed, 4, [3, 3], False), y)


def test_op_passes_opcheck_and_checks_its_arguments() -> None:
    op = torch.ops.intaglio.conv_dynamic.default
    form = quantized(nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect"))
    for channels_last in (False, True):
        x = torch.randn(2, 4, 5, 7)
        torch.library.opcheck(op, (x, form.packed, 6, [5, 7], channels_last))
        torch.library.opcheck(op, (x.bfloat16(), form.packed, 6, [5, 7], channels_last))
    with pytest.raises(ValueError, match="number of input channels"):
        op(torch.randn(2, 3, 5, 7), form.packed, 6, [5, 7], False)
    with pytest.raises(ValueError, match="beyond the pixels"):
        op(torch.randn(2, 4, 5, 7), form.packed, 6, [50, 7], False)


def test_compile_and_export() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding="same"),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, 2, 1, groups=8),
        nn.ConvTranspose2d(8, 2, 2, 2),
    )
    model = intaglio.quantize_dynamic(model)
    x = torch.randn(2, 3, 8, 10)
    expected = model(x)
    sizes = {0: torch.export.Dim("batch"), 2: 2 * torch.export.Dim("height", min=2, max=64)}
    exported = torch.export.export(model, (x,), dynamic_shapes=({**sizes},)).module()
    assert torch.equal(exported(x), expected)
    larger = torch.randn(3, 3, 16, 10)
    assert torch.equal(exported(larger), model(larger))
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    assert torch.equal(compiled(x), expected)
    last = x.to(memory_format=torch.channels_last)
    assert compiled(last).stride() == model(last).stride()


def test_two_threads_at_once() -> None:
    model = intaglio.quantize_dynamic(
        nn.Sequential(
            nn.Conv2d(8, 48, 3, padding=1), nn.Conv2d(48, 48, 3, groups=48), nn.ConvTranspose2d(48, 8, 2, 2)
        )
    )
    inputs = [torch.randn(2, 8, 24, 24) for _ in range(16)]
    expected = [model(x) for x in inputs]
    with ThreadPoolExecutor(2) as pool:
        for _ in range(4):
            assert all(map(torch.equal, pool.map(model, inputs), expected))


def test_default_spec_takes_convolutions() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4, 2), nn.ConvTranspose1d(1, 1, 2))
    kinds = [type(m) for m in intaglio.quantize_dynamic(model)]
    assert kinds[0] is DynamicConv
    assert kinds[3] is DynamicConvTranspose
    kept = intaglio.quantize_dynamic(model, {nn.Linear})
    assert type(kept[0]) is nn.Conv2d
