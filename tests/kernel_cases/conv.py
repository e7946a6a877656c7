"""Cases of the convolution family: pixels, gathered rows, planes, and depthwise rows of taps."""

import torch
from torch import Tensor

from intaglio import _core
from intaglio.ops import reference
from intaglio.ops.packing import pack_weight
from intaglio.qparams import UINT8, QParams, quantize

from .gemm import random_weight, same

SLACK = 64  # bytes that gather_runs and whole stores may touch beyond what they need


def case_quantize_pixels(isa: str) -> None:
    for count in (1, 3, 15, 16, 17, 40):
        for channels in (1, 3, 4, 5, 15, 16, 17, 33):
            for repeat in (1, 3):
                check_pixels(isa, count, channels, repeat)


def check_pixels(isa: str, count: int, channels: int, repeat: int) -> None:
    begin = 2 * repeat
    sources = (begin + channels + repeat - 1) // repeat + 1
    x = torch.rand(sources, count)
    scale, zero_point = torch.tensor(1 / 255), 0
    if channels % 2:
        x, scale, zero_point = x * 2 - 1.5, torch.tensor(2 / 255), 191
    inverse = 1.0 / scale
    index = torch.tensor([(begin + c) // repeat for c in range(channels)])
    expected = quantize(x[index].T, QParams(scale, torch.tensor(zero_point), UINT8))
    for q_stride in (channels, channels + 5):
        for image, pixel_stride, channel_stride in ((x, 1, count), (x.T.contiguous(), sources, 1)):
            for used in (float(inverse), 0.0):
                q = torch.full((count * q_stride + SLACK,), 99, dtype=torch.uint8)
                _core.quantize_pixels(
                    image.data_ptr(),
                    pixel_stride,
                    channel_stride,
                    count,
                    begin,
                    channels,
                    repeat,
                    used,
                    zero_point,
                    q.data_ptr(),
                    q_stride,
                )
                pixels = q[: count * q_stride].view(count, q_stride)[:, :channels]
                where = (isa, count, channels, repeat, q_stride, pixel_stride, used)
                assert torch.equal(pixels, expected if used else torch.zeros_like(expected)), where
                # Neighbouring rows belong to other threads: nothing beyond the last channel is touched.
                assert bool((q[(count - 1) * q_stride + channels :] == 99).all()), where


def case_gather_runs(isa: str) -> None:
    image = torch.randint(0, 256, (4000,), dtype=torch.uint8)
    for run_bytes in (1, 3, 16, 63, 64, 65, 200):
        for runs in ([], [0], [7, 300, 611]):
            starts = [0, 5, 1000, 999]
            width = len(runs) * run_bytes
            a = torch.full((len(starts) * (width + 3) + SLACK,), 99, dtype=torch.uint8)
            _core.gather_runs(image.data_ptr(), starts, runs, run_bytes, a.data_ptr(), width + 3)
            rows = a[: len(starts) * (width + 3)].view(len(starts), width + 3)
            for row, start in zip(rows, starts, strict=True):
                parts = [image[start + run : start + run + run_bytes] for run in runs]
                assert torch.equal(row[:width], torch.cat([*parts, image[:0]])), (isa, run_bytes, runs)


def case_transpose_rows(isa: str) -> None:
    for rows in (1, 7, 16, 33, 128, 200):
        for cols in (1, 2, 3, 4, 5, 17, 64):
            x = torch.randn((rows + 15) // 16 * 16, cols + 7)
            y = torch.full((cols, rows + 2), -7.0)
            _core.transpose_rows(x.data_ptr(), x.stride(0), rows, cols, y.data_ptr(), y.stride(0))
            assert torch.equal(y[:, :rows], x[:rows, :cols].T), (isa, rows, cols)
            assert bool((y[:, rows:] == -7.0).all()), (isa, rows, cols)


def spread(image: Tensor, positions: int, step: int, dilation: int) -> Tensor:
    """Call spread_taps on `(rows, width, lanes)` uint8; `(rows, positions, lanes)` int32."""
    rows, width, lanes = image.shape
    out = torch.empty(rows, positions, lanes, dtype=torch.int32)
    _core.spread_taps(
        image.data_ptr(),
        rows,
        width * lanes,
        positions,
        step * lanes,
        dilation * lanes,
        out.data_ptr(),
        positions,
    )
    return out


def tap_group() -> int:
    """How many neighbouring taps the instruction set in force multiplies at once."""
    packed = pack_weight(*random_weight(1, 4))
    return _core.tap_group(packed.data_ptr())


def case_spread_taps(isa: str) -> None:
    lanes, group = _core.vector_lanes(), tap_group()
    for step, dilation in ((1, 1), (2, 1), (2, 2), (3, 2)):
        for positions in (1, 2, 9):
            width = (positions - 1) * step + group * dilation + 1
            image = torch.randint(0, 256, (3, width, lanes), dtype=torch.uint8)
            found = spread(image[:2].contiguous(), positions, step, dilation)
            for p in range(positions):
                taps = [image[:2, p * step + t * dilation].long() << (t * 32 // group) for t in range(group)]
                expected = torch.stack(taps).sum(0).to(torch.int32)
                assert torch.equal(found[:, p], expected), (isa, step, dilation, positions)


def case_conv_depthwise(isa: str) -> None:
    lanes, group = _core.vector_lanes(), tap_group()
    for kernel in (1, 3, 4, 5, 9):
        for columns in (1, 2, 5, 7, 8, 9, 17):
            for tap_rows in (0, 1, 3):
                check_depthwise(isa, lanes, group, kernel, columns, tap_rows)


def check_depthwise(isa: str, lanes: int, group: int, kernel: int, columns: int, tap_rows: int) -> None:
    channels, rows, panel = lanes + max(1, lanes // 2), 2, 1
    chunks, padded = (kernel + group - 1) // group, (kernel + 3) // 4 * 4
    weight = torch.zeros(channels, tap_rows, padded, dtype=torch.int8)
    weight[:, :, :kernel] = torch.randint(-127, 128, (channels, tap_rows, kernel))
    scale, bias = torch.rand(channels) * 0.01 + 1e-4, torch.randn(channels)
    packed = pack_weight(weight.flatten(1), scale, bias, panel_vectors=1)
    image = torch.randint(0, 256, (rows + 2, columns + chunks * group + group, lanes), dtype=torch.uint8)
    positions = columns + (chunks - 1) * group
    vectors = spread(image, positions, 1, 1)
    out = torch.full((rows, columns, channels), -7.0)
    x_scale, zero_point = 0.03, 17
    _core.conv_depthwise(
        vectors.data_ptr(),
        [r * positions for r in range(tap_rows)],
        chunks,
        group,
        rows,
        positions,
        columns,
        1,
        packed.data_ptr(),
        panel,
        x_scale,
        zero_point,
        out[:, :, lanes:].data_ptr(),
        columns * channels,
        channels,
    )
    held = slice(lanes * panel, channels)
    acc = torch.zeros(rows, columns, channels - lanes, dtype=torch.long)
    for r in range(tap_rows):
        for k in range(kernel):
            pixels = image[r : r + rows, k : k + columns, : channels - lanes].long() - zero_point
            acc += pixels * weight[held, r, k].long()
    flat = acc.view(-1, channels - lanes)
    row_scale = torch.full((len(flat),), x_scale)
    expected = reference.epilogue(flat, row_scale, scale[held], bias[held][None]).view(acc.shape)
    where = (isa, kernel, columns, tap_rows)
    assert same(out[:, :, lanes:].contiguous(), expected), where
    assert bool((out[:, :, :lanes] == -7.0).all()), where
