"""The arithmetic of quantization, against its definition and against torch's own where the two agree."""

import copy
import math
import pickle
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis.extra import numpy as hnp
from torch import Tensor

from intaglio import ConfigError, QParams
from intaglio.qparams import (
    FLOAT16,
    FLOAT32,
    INT8,
    SMALLEST_RANGE,
    UINT4,
    UINT8,
    QuantizedType,
    choose_qparams,
    dequantize,
    parse_dtype,
    parse_stored_dtype,
    quantize,
)

floats = st.floats(-1e6, 1e6, width=32)
arrays = hnp.arrays(np.float32, st.integers(1, 40), elements=floats)
types = st.sampled_from([INT8, UINT8, UINT4])


def per_tensor(scale: float, zero_point: int, dtype: QuantizedType = UINT8) -> QParams:
    return QParams(
        torch.tensor(scale, dtype=torch.float32), torch.tensor(zero_point, dtype=torch.int32), dtype
    )


# ---- Names of types -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spelling", "expected"),
    [
        (torch.qint8, INT8),
        (torch.int8, INT8),
        ("int8", INT8),
        ("torch.qint8", INT8),
        (torch.quint8, UINT8),
        (torch.uint8, UINT8),
        (torch.quint4x2, UINT4),
        ("uint4", UINT4),
        (torch.float16, FLOAT16),
        (torch.half, FLOAT16),
        (UINT4, UINT4),
    ],
)
def test_every_spelling_of_a_dtype_is_understood(spelling: object, expected: QuantizedType) -> None:
    assert parse_dtype(spelling) is expected


@pytest.mark.parametrize("wrong", [torch.float32, torch.qint32, "int7", None, 8])
def test_other_dtypes_are_refused_with_the_list_of_good_ones(wrong: object) -> None:
    with pytest.raises(ConfigError, match=r"use one of .*int8.*quint4x2"):
        parse_dtype(wrong)


# ---- quantize -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spelling", [torch.float, torch.float32, "float", "float32", FLOAT32])
def test_float32_is_a_type_that_is_stored_but_not_quantized_to(spelling: Any) -> None:
    assert parse_stored_dtype(spelling) is FLOAT32
    assert parse_stored_dtype("int8") is INT8
    with pytest.raises(ConfigError, match="not one that intaglio quantizes to"):
        parse_stored_dtype("int7")


@pytest.mark.parametrize("dtype", [INT8, UINT8, UINT4, FLOAT16, FLOAT32], ids=str)
def test_a_type_that_is_copied_is_itself(dtype: QuantizedType) -> None:
    assert copy.deepcopy(dtype) is dtype
    assert pickle.loads(pickle.dumps(dtype)) is dtype


def test_ties_go_to_the_even_step_and_the_zero_point_is_added_after_rounding() -> None:
    x = torch.tensor([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 3.5])
    assert quantize(x, per_tensor(1.0, 10)).tolist() == [8, 8, 10, 10, 12, 12, 14]
    # Rounding after adding an odd zero point would give the odd neighbours instead.
    assert quantize(x, per_tensor(1.0, 11)).tolist() == [9, 9, 11, 11, 13, 13, 15]


def test_extremes_saturate_and_nan_is_zero() -> None:
    x = torch.tensor([math.inf, -math.inf, 3e38, -3e38, 1e30, math.nan])
    assert quantize(x, per_tensor(1e-30, 7)).tolist() == [255, 0, 255, 0, 255, 0]
    assert quantize(x, per_tensor(1e-30, 0, INT8)).tolist() == [127, -128, 127, -128, 127, 0]


def test_narrower_limits_are_kept() -> None:
    qparams = QParams(torch.tensor(1.0), torch.tensor(0), INT8, quant_min=-127, quant_max=127)
    assert quantize(torch.tensor([-1000.0, 1000.0]), qparams).tolist() == [-127, 127]


def test_result_has_the_storage_dtype() -> None:
    for dtype, storage in ((INT8, torch.int8), (UINT8, torch.uint8), (UINT4, torch.uint8)):
        assert quantize(torch.ones(2), per_tensor(1.0, 0, dtype)).dtype is storage


@pytest.mark.filterwarnings("ignore")
@given(arrays, st.floats(2.0**-13, 1e3, width=32), st.integers(0, 255))
def test_quint8_is_what_torch_does(values: np.ndarray, scale: float, zero_point: int) -> None:
    x = torch.from_numpy(values)
    theirs = torch.quantize_per_tensor(x, scale, zero_point, torch.quint8)
    qparams = per_tensor(scale, zero_point)
    ours = quantize(x, qparams)
    # torch adds the zero point before it rounds: a tie goes the other way where the zero point is odd, and
    # what the float32 sum makes a tie was none.
    sums = x * (1.0 / qparams.scale) + zero_point
    differs = ours != theirs.int_repr()
    assert not bool((differs & ((sums - sums.floor()) != 0.5)).any())
    assert bool(((ours.int() - theirs.int_repr().int()).abs() <= 1).all())
    assert torch.equal(dequantize(ours, qparams)[~differs], theirs.dequantize()[~differs])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_per_channel_qint8_is_what_torch_does(axis: int) -> None:
    x = torch.randn(4, 5, 6) * 3
    scale, zero_point = torch.rand(x.shape[axis]) + 0.01, torch.randint(-20, 20, (x.shape[axis],))
    theirs = torch.quantize_per_channel(x, scale.double(), zero_point, axis, torch.qint8)
    qparams = QParams(scale, zero_point.int(), INT8, axis)
    ours = quantize(x, qparams)
    assert torch.equal(ours, theirs.int_repr())
    assert torch.equal(dequantize(ours, qparams), theirs.dequantize())


# ---- choose_qparams -------------------------------------------------------------------------------------


def ends(values: Tensor) -> tuple[Tensor, Tensor]:
    return values.min(), values.max()


@given(arrays, types, st.booleans())
def test_a_value_in_range_comes_back_within_half_a_step(
    values: np.ndarray, dtype: QuantizedType, symmetric: bool
) -> None:
    x = torch.from_numpy(values)
    qparams = choose_qparams(*ends(x), dtype, symmetric=symmetric)
    error = (dequantize(quantize(x, qparams), qparams).double() - x.double()).abs()
    # Half a step, a further half where the zero point was rounded, and what float32 cannot hold.
    steps = 0.5 if symmetric else 1.0
    slack = float(x.abs().max()) * 1e-6 + SMALLEST_RANGE
    assert float(error.max()) <= steps * float(qparams.scale) * (1 + 1e-5) + slack


@given(arrays, types, st.booleans())
def test_zero_is_exact_and_the_zero_point_is_an_integer_of_the_type(
    values: np.ndarray, dtype: QuantizedType, symmetric: bool
) -> None:
    x = torch.from_numpy(values)
    qparams = choose_qparams(*ends(x), dtype, symmetric=symmetric)
    assert dtype.quant_min <= int(qparams.zero_point) <= dtype.quant_max
    assert float(dequantize(quantize(torch.zeros(1), qparams), qparams)) == 0.0
    assert float(qparams.scale) > 0
    assert math.isfinite(1.0 / float(qparams.scale))


@pytest.mark.filterwarnings("ignore")
@given(arrays.filter(lambda a: float(np.ptp(np.append(a, 0))) > 1e-3))
def test_affine_parameters_are_the_legacy_observers(values: np.ndarray) -> None:
    from torch.ao.quantization import MinMaxObserver

    x = torch.from_numpy(values)
    theirs = MinMaxObserver(dtype=torch.quint8)
    theirs(x)
    scale, zero_point = theirs.calculate_qparams()
    ours = choose_qparams(*ends(x), UINT8)
    assert float(ours.scale) == float(scale)
    # The legacy divides by the rounded scale: on a tie its zero point is a neighbour of ours.
    assert abs(int(ours.zero_point) - int(zero_point)) <= 1


def test_symmetric_reaches_equally_far_both_ways() -> None:
    # pytorch/pytorch#180990: one formula, 127 steps each way, whichever side is larger.
    for low, high in ((-1.0, 0.5), (-0.5, 1.0)):
        qparams = choose_qparams(torch.tensor(low), torch.tensor(high), INT8, symmetric=True)
        assert float(qparams.scale) == float(torch.tensor(1.0) / 127)
        assert (int(qparams.zero_point), qparams.limits()) == (0, (-127, 127))
    unsigned = choose_qparams(torch.tensor(-1.0), torch.tensor(0.5), UINT8, symmetric=True)
    assert (int(unsigned.zero_point), unsigned.limits()) == (128, (1, 255))


@pytest.mark.parametrize("dtype", [INT8, UINT8, UINT4])
def test_one_sided_and_constant_ranges_hold_zero(dtype: QuantizedType) -> None:
    for low, high in ((2.0, 3.0), (-3.0, -2.0), (4.0, 4.0), (-4.0, -4.0)):
        qparams = choose_qparams(torch.tensor(low), torch.tensor(high), dtype)
        for value in (low, high):
            back = float(dequantize(quantize(torch.tensor(value), qparams), qparams))
            assert back == pytest.approx(value, abs=float(qparams.scale))
        assert int(qparams.zero_point) == (dtype.quant_min if low > 0 else dtype.quant_max)


@pytest.mark.parametrize("size", [0.0, 1e-45, 1e-42, 1e-38, 2.0**-119])
@pytest.mark.parametrize("symmetric", [False, True])
def test_tiny_and_subnormal_ranges_keep_a_usable_scale(size: float, symmetric: bool) -> None:
    # pytorch/pytorch#122659: a scale whose inverse overflows turns everything into infinity.
    limit = torch.tensor(size, dtype=torch.float32)
    qparams = choose_qparams(-limit, limit, INT8, symmetric=symmetric)
    assert math.isfinite(float(1.0 / qparams.scale))
    x = torch.tensor([-size, 0.0, size])
    back = dequantize(quantize(x, qparams), qparams)
    assert torch.isfinite(back).all()
    assert float((back - x).abs().max()) <= SMALLEST_RANGE


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
def test_a_range_that_is_not_finite_is_refused(wrong: float) -> None:
    # pytorch/pytorch#100051
    for low, high in ((wrong, 1.0), (-1.0, wrong)):
        with pytest.raises(ConfigError, match="NaN or infinity"):
            choose_qparams(torch.tensor(low), torch.tensor(high), UINT8)


def test_the_widest_ranges_are_represented_or_refused() -> None:
    limit = torch.tensor(3.4e38)
    qparams = choose_qparams(-limit, limit, INT8, symmetric=True)
    back = dequantize(quantize(torch.stack([-limit, limit]), qparams), qparams)
    assert back.tolist() == pytest.approx([-3.4e38, 3.4e38], rel=1e-6)
    with pytest.raises(ConfigError, match="wider than the largest float32"):
        choose_qparams(-limit, limit, UINT8)


def test_parameters_by_axis_stand_beside_any_number_of_dimensions() -> None:
    low, high = -torch.tensor([1.0, 2.0, 4.0]), torch.tensor([1.0, 2.0, 4.0])
    for shape, axis in (((3, 5), 0), ((5, 3), 1), ((2, 3, 4), 1), ((3,), 0)):
        qparams = choose_qparams(low, high, INT8, symmetric=True, axis=axis)
        scale, zero_point = qparams.broadcast(len(shape))
        assert scale.dim() == zero_point.dim() == len(shape)
        x = torch.ones(shape) * (low.view([-1 if i == axis else 1 for i in range(len(shape))]))
        assert bool((quantize(x, qparams) == -127).all())
