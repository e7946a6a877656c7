"""Cases of the static family: GEMM, depthwise and Winograd convolution from uint8 to uint8."""

import itertools

import torch
from torch import Tensor

from intaglio import _core
from intaglio.ops.packing import pack_weight
from intaglio.ops.reference import matmul_exact
from intaglio.ops.reference_conv_static import requantize_sums

from .gemm import ROWS, WIDTHS

# multiplier, zero point, lower, upper: ordinary, saturating both ends, clamped, one value
FORMS = ((3e-4, 131, 0, 255), (3e-4, 0, 0, 255), (1e9, 0, 0, 255), (1e-3, 17, 17, 99), (0.5, 255, 7, 7))


def case_gemm_static(isa: str) -> None:
    for n, runs in itertools.product(WIDTHS, ((0, 4), (1, 1), (1, 5), (1, 64), (3, 21), (9, 8))):
        for vectors in (0, 1, 2, 3, 4):
            weight = torch.randint(-128, 128, (n, runs[0] * runs[1]), dtype=torch.int8)
            packed = pack_runs(weight, *runs, vectors)
            for m in ROWS if vectors == 0 else (13,):
                form = FORMS[(m + n) % len(FORMS)]
                check_gemm(isa, m, weight, packed, runs, form, table=(m + n) % 2 == 0)


def pack_runs(weight: Tensor, count: int, length: int, vectors: int) -> Tensor:
    """`weight` packed with each run of K padded to 4."""
    n = len(weight)
    padded = torch.nn.functional.pad(weight.view(n, count, length), (0, -length % 4))
    return pack_weight(padded.reshape(n, -1), torch.ones(n), None, panel_vectors=vectors)


def check_gemm(
    isa: str,
    m: int,
    weight: Tensor,
    packed: Tensor,
    runs: tuple[int, int],
    form: tuple[float, int, int, int],
    table: bool,
) -> None:
    n = len(weight)
    count, length = runs
    scale, zero_point, lower, upper = form
    image = torch.randint(0, 256, (4096,), dtype=torch.uint8)
    run = [(7 + 301 * r) % 997 for r in range(count)]
    start = [(i * 37) % 2003 for i in range(m)] if table else []
    place = [i * (n + 3) + 5 for i in range(m)][::-1] if table else []
    rows = torch.stack(
        [
            torch.cat([image[:0], *(image[at + r : at + r + length] for r in run)])
            for at in (start or range(0, 24 * m, 24))
        ]
    )
    multiplier = torch.rand(n) * scale
    offset = torch.randn(n) * 40
    for residual in (None, torch.randint(0, 256, (m * (n + 3) + 8,), dtype=torch.uint8)):
        y = torch.full((m * (n + 3) + 8,), 99, dtype=torch.uint8)
        _core.gemm_static(
            image.data_ptr(),
            start,
            24,
            m,
            run,
            length,
            113,
            packed.data_ptr(),
            multiplier.data_ptr(),
            offset.data_ptr(),
            zero_point,
            lower,
            upper,
            0 if residual is None else residual.data_ptr(),
            200,
            0.37,
            y.data_ptr(),
            place,
            n + 3,
        )
        at = torch.tensor(place or range(0, m * (n + 3), n + 3))[:, None] + torch.arange(n)
        expected = torch.full_like(y, 99)
        expected[at] = requantize_sums(
            matmul_exact(rows.to(torch.int32) - 113, weight),
            multiplier,
            offset,
            zero_point,
            lower,
            upper,
            residual=None if residual is None else residual[at],
            residual_zero_point=200,
            residual_multiplier=0.37,
        )
        assert torch.equal(y, expected), (isa, m, n, runs, form, table, residual is None)


def packed_block(weight: Tensor, stride: int, dilation: int) -> Tensor:
    """`(channels, tap_rows, taps)` int8 packed as one block."""
    size = _core.pack_depthwise(0, *weight.shape, stride, dilation, 0)
    packed = torch.full((size + 64,), 99, dtype=torch.uint8)
    packed = packed[-packed.data_ptr() % 64 :]
    written = _core.pack_depthwise(weight.data_ptr(), *weight.shape, stride, dilation, packed.data_ptr())
    assert written == size
    assert bool((packed[size:] == 99).all())
    return packed


def case_pack_depthwise(isa: str) -> None:
    # The layout is the kernel's own; that it holds each weight where the kernel looks is the next case.
    for taps, stride, dilation in ((3, 1, 1), (3, 2, 1), (5, 1, 1), (5, 2, 1), (4, 1, 2), (0, 1, 1)):
        weight = torch.randint(-128, 128, (4 * _core.vector_lanes() - 1, taps, taps), dtype=torch.int8)
        packed = packed_block(weight, stride, dilation)
        sums = packed[: len(weight) * 4].view(torch.int32)
        assert torch.equal(sums, weight.sum((1, 2), dtype=torch.int32)), (isa, taps, stride, dilation)


def case_depthwise_static(isa: str) -> None:
    block = 4 * _core.vector_lanes()
    shapes = (
        (3, 3, 1, 1),
        (3, 3, 2, 1),
        (5, 5, 1, 1),
        (5, 5, 2, 1),
        (1, 7, 1, 1),
        (2, 3, 3, 2),
        (0, 0, 1, 1),
    )
    for shape, columns in itertools.product(shapes, (1, 2, 3, 4, 5, 7, 10)):
        for channels in {block, max(block // 2, 1), max(block - 3, 1)}:
            form = FORMS[(columns + channels) % len(FORMS)]
            check_depthwise(isa, channels, shape, columns, form, repeat=1)
        check_depthwise(isa, block, shape, columns, FORMS[0], repeat=3)


def check_depthwise(
    isa: str,
    channels: int,
    shape: tuple[int, int, int, int],
    columns: int,
    form: tuple[float, int, int, int],
    repeat: int,
) -> None:
    tap_rows, taps, stride, dilation = shape
    scale, zero_point, lower, upper = form
    rows, low, width, first, zero = 3, 1, 4, 1 % repeat, 113
    inputs = (first + channels - 1) // repeat + 1
    image = torch.randint(0, 256, (2 * (rows - 1) + max(tap_rows, 1), width, inputs + 2), dtype=torch.uint8)
    used = (columns - 1) * stride + max(taps - 1, 0) * dilation + 1
    bordered = torch.full((len(image), max(used, low + width), inputs), zero, dtype=torch.uint8)
    bordered[:, low : low + width] = image[:, :, :inputs]
    bordered[1] = zero
    source = [image[i].data_ptr() if i != 1 else 0 for i in range(len(image))]
    weight = torch.randint(-128, 128, (channels, tap_rows, taps), dtype=torch.int8)
    packed = packed_block(weight, stride, dilation)
    multiplier, offset = torch.rand(channels) * scale, torch.randn(channels) * 40
    acc = torch.zeros(rows, columns, channels, dtype=torch.long)
    index = [(first + c) // repeat for c in range(channels)]
    for r, t, k in itertools.product(range(rows), range(tap_rows), range(taps)):
        pixels = bordered[2 * r + t, k * dilation : k * dilation + (columns - 1) * stride + 1 : stride]
        acc[r] += (pixels[:, index].long() - zero) * weight[:, t, k].long()
    for residual in (None, torch.randint(0, 256, (rows, columns, channels + 5), dtype=torch.uint8)):
        y = torch.full((rows, columns, channels + 5), 99, dtype=torch.uint8)
        _core.depthwise_static(
            channels,
            tap_rows,
            taps,
            stride,
            dilation,
            packed.data_ptr(),
            source,
            list(range(tap_rows)),
            2,
            inputs + 2,
            repeat,
            first,
            low,
            width,
            zero,
            rows,
            columns,
            multiplier.data_ptr(),
            offset.data_ptr(),
            zero_point,
            lower,
            upper,
            0 if residual is None else residual.data_ptr(),
            200,
            0.37,
            y.data_ptr(),
            columns * (channels + 5),
            channels + 5,
        )
        expected = torch.full_like(y, 99)
        expected[:, :, :channels] = requantize_sums(
            acc,
            multiplier,
            offset,
            zero_point,
            lower,
            upper,
            residual=None if residual is None else residual[:, :, :channels],
            residual_zero_point=200,
            residual_multiplier=0.37,
        )
        assert torch.equal(y, expected), (isa, channels, shape, columns, form, repeat, residual is None)


# G and B^T of F(4x4, 3x3), in integers.
WEIGHT_TRANSFORM = torch.tensor([[1, 0, 0], [1, 1, 1], [1, -1, 1], [1, 2, 4], [1, -2, 4], [0, 0, 1]])
INPUT_TRANSFORM = torch.tensor(
    [
        [4, 0, -5, 0, 1, 0],
        [0, -4, -4, 1, 1, 0],
        [0, 4, -4, -1, 1, 0],
        [0, -2, -1, 2, 1, 0],
        [0, 2, -1, -2, 1, 0],
        [0, 4, 0, -5, 0, 1],
    ]
)


def packed_winograd(weight: Tensor) -> Tensor:
    """`(outputs, inputs, 3, 3)` int8 in the form of the kernels."""
    size = _core.pack_winograd(0, *weight.shape[:2], 0)
    packed = torch.full((size + 64,), 99, dtype=torch.uint8)
    packed = packed[-packed.data_ptr() % 64 :]
    assert _core.pack_winograd(weight.data_ptr(), *weight.shape[:2], packed.data_ptr()) == size
    assert bool((packed[size:] == 99).all())
    return packed


def transform_tiles(image: Tensor, start: list[int]) -> tuple[Tensor, int]:
    """`(36, tiles, channels)` int16 of an `(H, W, channels)` image, and the step between planes."""
    channels = image.shape[2]
    step = (len(start) * channels + 31) // 32 * 32 + 32
    v = torch.full((36 * step + 32,), 99, dtype=torch.int16)
    v = v[-v.data_ptr() % 64 // 2 :]
    _core.winograd_input(image.data_ptr(), start, image.stride(0), channels, v.data_ptr(), step)
    return v, step


def case_pack_winograd(isa: str) -> None:
    words = 2 * _core.vector_lanes()
    weight = torch.randint(-128, 128, (3 * words, 2 * words, 3, 3), dtype=torch.int8)
    packed = packed_winograd(weight)
    sums = packed[: len(weight) * 4].view(torch.int32)
    assert torch.equal(sums, weight.sum((1, 2, 3), dtype=torch.int32)), isa
    g = WEIGHT_TRANSFORM
    planes = (g @ weight.long() @ g.T).flatten(2)  # outputs, inputs, planes
    begin = (len(weight) * 4 + 63) // 64 * 64
    held = packed[begin : begin + planes.numel() * 2].view(torch.int16)
    # panel, plane, pair of inputs, output of the panel, input of the pair
    expected = planes.view(3, words, words, 2, 36).permute(0, 4, 2, 1, 3)
    assert torch.equal(held.long(), expected.flatten()), isa


def case_winograd_input(isa: str) -> None:
    channels = 4 * _core.vector_lanes()
    image = torch.randint(0, 256, (9, 11, channels), dtype=torch.uint8)
    image[:6, :6] = torch.tensor([0, 255], dtype=torch.uint8)[torch.randint(0, 2, (6, 6, channels))]
    at = [(0, 0), (3, 5), (1, 2)]
    v, step = transform_tiles(image, [(y * 11 + x) * channels for y, x in at])
    b = INPUT_TRANSFORM
    for i, (y, x) in enumerate(at):
        tile = image[y : y + 6, x : x + 6].permute(2, 0, 1).long()
        expected = (b @ tile @ b.T).flatten(1).T
        found = torch.stack([v[p * step + i * channels :][:channels] for p in range(36)])
        assert torch.equal(found.long(), expected), (isa, i)


def case_winograd_multiply(isa: str) -> None:
    words = 2 * _core.vector_lanes()
    for count, panels, form in itertools.product((1, 2, 5, 6, 7, 8, 13, 14, 15), ((0, 2), (1, 2)), FORMS):
        check_winograd(isa, count, panels, 2 * words, words, form)


def check_winograd(
    isa: str,
    count: int,
    panels: tuple[int, int],
    outputs: int,
    inputs: int,
    form: tuple[float, int, int, int],
) -> None:
    scale, zero_point, lower, upper = form
    weight = torch.randint(-128, 128, (outputs, inputs, 3, 3), dtype=torch.int8)
    packed = packed_winograd(weight)
    image = torch.randint(0, 256, (6, 4 * count + 2, inputs), dtype=torch.uint8)
    v, step = transform_tiles(image, [4 * i * inputs for i in range(count)])
    place = [(4 * i * outputs, 4 - i % 4 // 3, 4 - i % 3 // 2) for i in range(count)]
    multiplier, offset = torch.rand(outputs) * scale, torch.randn(outputs) * 40
    centred = (image.double() - 113).permute(2, 0, 1)[None]
    acc = torch.nn.functional.conv2d(centred, weight.double())[0].permute(1, 2, 0)
    for residual in (None, torch.randint(0, 256, acc.shape, dtype=torch.uint8)):
        y = torch.full(acc.shape, 99, dtype=torch.uint8)
        _core.winograd_multiply(
            v.data_ptr(),
            step,
            packed.data_ptr(),
            outputs,
            inputs,
            *panels,
            113,
            multiplier.data_ptr(),
            offset.data_ptr(),
            zero_point,
            lower,
            upper,
            0 if residual is None else residual.data_ptr(),
            200,
            0.37,
            y.data_ptr(),
            place,
            y.stride(0),
            outputs,
        )
        whole = requantize_sums(
            acc,
            multiplier,
            offset,
            zero_point,
            lower,
            upper,
            residual=residual,
            residual_zero_point=200,
            residual_multiplier=0.37,
        )
        expected = torch.full_like(y, 99)
        channels = slice(panels[0] * inputs, panels[1] * inputs)
        for i, (_, rows, columns) in enumerate(place):
            part = (slice(rows), slice(4 * i, 4 * i + columns), channels)
            expected[part] = whole[part]
        assert torch.equal(y, expected), (isa, count, panels, form, residual is None)
