"""`DynamicLinear` and `HalfLinear`: shapes, bad rows, bad input, and what stays of `nn.Linear`'s face."""

import math

import pytest
import torch
from torch import Tensor, nn

import intaglio
from intaglio import ConfigError, InputError, QTensor, quantize_dynamic
from intaglio.nn import DynamicLinear, HalfLinear
from intaglio.ops import reference
from intaglio.ops.half import pack_half_weight
from intaglio.ops.packing import MAX_K, pack_weight

from .kernel_cases.gemm import same


def layers(k: int, n: int, *, bias: bool = True) -> tuple[nn.Linear, DynamicLinear, HalfLinear]:
    float_layer = nn.Linear(k, n, bias=bias)
    model = nn.ModuleDict({"encoder": float_layer})
    dynamic = quantize_dynamic(model)["encoder"]
    half = quantize_dynamic(model, dtype=torch.float16)["encoder"]
    assert isinstance(dynamic, DynamicLinear)
    assert isinstance(half, HalfLinear)
    return float_layer, dynamic, half


def expected_of(layer: DynamicLinear | HalfLinear, x: Tensor) -> Tensor:
    rows = x.reshape(math.prod(x.shape[:-1]), x.shape[-1])
    bias = None if layer.bias is None else layer.bias.detach()
    if isinstance(layer, HalfLinear):
        y = reference.linear_half(rows, layer.weight, bias)
    else:
        weight = layer.weight
        y = reference.linear_dynamic(rows, weight.data, weight.qparams.scale, bias, per_row=layer.per_row)
    return y.reshape(*x.shape[:-1], layer.out_features)


# ---- Shapes -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(13,), (1, 13), (5, 13), (2, 3, 13), (2, 1, 3, 13), (1, 1, 1, 1, 13)])
def test_any_number_of_dimensions(shape: tuple[int, ...], bias: bool) -> None:
    float_layer, *quantized = layers(13, 7, bias=bias)
    x = torch.randn(shape)
    for layer in quantized:
        y = layer(x)
        assert y.shape == float_layer(x).shape
        assert torch.equal(y, expected_of(layer, x))


@pytest.mark.parametrize("shape", [(0, 13), (0, 5, 13), (5, 0, 13)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_batches_of_nothing(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    float_layer, *quantized = layers(13, 7)
    for layer in quantized:
        y = layer(torch.empty(shape, dtype=dtype))
        assert (y.shape, y.dtype) == (float_layer(torch.empty(shape)).shape, dtype)


@pytest.mark.parametrize(("k", "n"), [(1, 1), (1, 9), (9, 1), (3, 65), (67, 130)])
def test_odd_sizes(k: int, n: int) -> None:
    _, *quantized = layers(k, n)
    for m in (1, 2, 7, 33):
        x = torch.randn(m, k)
        for layer in quantized:
            assert torch.equal(layer(x), expected_of(layer, x))


def test_no_input_features_leave_the_bias() -> None:
    weight, scale, bias = torch.empty(5, 0, dtype=torch.int8), torch.ones(5), torch.randn(5)
    dynamic, half = DynamicLinear(0, 5), HalfLinear(0, 5)
    dynamic.load_plain_state({"weight": weight, "weight_scale": scale, "bias": bias})
    half.load_plain_state({"weight": weight.half(), "bias": bias})
    for layer in (dynamic, half):
        assert torch.equal(layer(torch.empty(3, 0)), bias.expand(3, 5))


def test_strides() -> None:
    _, *quantized = layers(16, 8)
    x = torch.randn(6, 16)
    wide = torch.randn(6, 32)
    views = [
        x.T.contiguous().T,
        wide[:, ::2],
        wide[:, 3:19],
        x[None].expand(4, 6, 16),
        x[::2],
        x.flip(1)[:, :16],
    ]
    for layer in quantized:
        for view in views:
            assert torch.equal(layer(view), layer(view.contiguous()))


# ---- Rows that are not finite -----------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", [torch.nan, torch.inf, -torch.inf])
def test_a_bad_row_poisons_only_itself(wrong: float) -> None:
    _, *quantized = layers(20, 9)
    x = torch.randn(2, 5, 20)
    for layer in quantized:
        good = layer(x)
        for row in range(5):
            for column in (0, 7, 19):
                bad = x.clone()
                bad[1, row, column] = wrong
                y = layer(bad)
                if isinstance(layer, DynamicLinear):
                    assert bool(y[1, row].isnan().all())
                else:  # as in float: infinity times a weight is infinite
                    assert same(y[1, row], expected_of(layer, bad)[1, row])
                    assert not bool(y[1, row].isfinite().any())
                y[1, row] = good[1, row]
                assert torch.equal(y, good)


def test_huge_and_tiny_rows() -> None:
    _, *quantized = layers(20, 9)
    x = torch.randn(6, 20) * torch.tensor([1e-44, 1e-38, 1e-20, 1e20, 1e37, 0.0])[:, None]
    for layer in quantized:
        assert same(layer(x), expected_of(layer, x))
        assert torch.equal(layer(x)[5], layer.bias)


# ---- One range for each row -------------------------------------------------------------------------------


def test_rows_do_not_depend_on_one_another_unless_asked() -> None:
    model = nn.Sequential(nn.Linear(32, 16))
    per_row = quantize_dynamic(model)
    per_tensor = quantize_dynamic(model, {nn.Linear: intaglio.per_tensor_dynamic_qconfig})
    assert (per_row[0].per_row, per_tensor[0].per_row) == (True, False)
    x = torch.randn(8, 32)
    x[0] *= 100
    assert torch.equal(per_row(x)[1:], per_row(x[1:]))
    assert not torch.equal(per_tensor(x)[1:], per_tensor(x[1:]))
    for model in (per_row, per_tensor):
        assert torch.equal(model(x), expected_of(model[0], x))


# ---- Bad input --------------------------------------------------------------------------------------------

BAD = {
    "width": (torch.randn(3, 12), r"has shape \(3, 12\), but its last dimension must be 13"),
    "no dimension": (torch.tensor(1.0), r"has shape \(\), but its last dimension must be 13"),
    "integers": (torch.ones(3, 13, dtype=torch.int64), r"has dtype torch.int64.*pass x.float\(\)"),
    "bytes": (torch.ones(3, 13, dtype=torch.uint8), r"has dtype torch.uint8"),
    "booleans": (torch.ones(3, 13, dtype=torch.bool), r"has dtype torch.bool"),
    "complex": (torch.ones(3, 13, dtype=torch.complex64), r"has dtype torch.complex64"),
    "a list": ([1.0] * 13, "must be a torch.Tensor, not list"),
    "None": (None, "must be a torch.Tensor, not NoneType"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_names_the_layer_and_the_remedy(name: str) -> None:
    x, text = BAD[name]
    for layer in layers(13, 7)[1:]:
        with pytest.raises(InputError, match=rf"^'encoder' \({type(layer).__name__}\): input {text}"):
            layer(x)


def test_another_device_names_the_remedy() -> None:
    class OnCuda(torch.Tensor):
        device = torch.device("cuda:0")
        is_cpu = False

    for layer in layers(13, 7)[1:]:
        with pytest.raises(InputError, match=r"^'encoder' .*input is on cuda:0.*pass x.cpu\(\)"):
            layer(torch.randn(3, 13).as_subclass(OnCuda))


def test_meta_tensors_give_shapes() -> None:
    for layer in layers(13, 7)[1:]:
        y = layer(torch.empty(3, 13, device="meta", dtype=torch.bfloat16))
        assert (y.shape, y.device.type, y.dtype) == ((3, 7), "meta", torch.bfloat16)


def test_training_mode_names_the_remedy() -> None:
    for layer in layers(13, 7)[1:]:
        with pytest.raises(InputError, match=r"^'encoder' .*in training mode: call model.eval\(\)"):
            layer.train()(torch.randn(3, 13))


def test_a_qtensor_is_not_dequantized_in_silence() -> None:
    _, dynamic, half = layers(13, 13)
    for layer in (dynamic, half):
        with pytest.raises(InputError, match="not QTensor"):
            layer(dynamic.weight)


# ---- The face of nn.Linear --------------------------------------------------------------------------------


def test_weight_and_bias_can_be_read() -> None:
    float_layer, dynamic, half = layers(13, 7)
    assert isinstance(dynamic.weight, QTensor)
    error = (dynamic.weight.dequantize() - float_layer.weight).abs()
    assert bool((error <= dynamic.weight.qparams.scale[:, None] * 0.50001).all())
    assert torch.equal(half.weight, float_layer.weight.half())
    for layer in (dynamic, half):
        assert (layer.weight.shape, layer.weight.device.type) == ((7, 13), "cpu")
        assert layer.weight.dtype.is_floating_point
        assert torch.equal(layer.bias, float_layer.bias)
        assert (layer.in_features, layer.out_features) == (13, 7)
    _, dynamic, half = layers(13, 7, bias=False)
    assert dynamic.bias is None
    assert half.bias is None
    assert "bias" not in {**dynamic.state_dict(), **half.state_dict()}


def test_it_is_small() -> None:
    _, dynamic, half = layers(1000, 1000)
    for layer, size in ((dynamic, 1), (half, 2)):
        assert sum(b.numel() * b.element_size() for b in layer.buffers()) < 1.05 * size * 1000 * 1000
        assert layer.float_bytes() / layer.plain_bytes() > 3.9 / size


def test_moving_to_another_dtype_does_not_touch_the_weights() -> None:
    # model.half() or model.double() on a whole model must not cast packed bytes.
    x = torch.randn(3, 13)
    for layer in layers(13, 7)[1:]:
        expected = layer(x)
        for moved in (layer.half(), layer.double(), layer.to(torch.bfloat16), layer.cpu(), layer.float()):
            assert torch.equal(moved(x), expected)


# ---- Packing ----------------------------------------------------------------------------------------------


def test_packing_refuses_what_it_cannot_hold() -> None:
    weight, scale = torch.zeros(4, 3, dtype=torch.int8), torch.ones(4)
    for wrong in (
        lambda: pack_weight(weight.float(), scale, None),
        lambda: pack_weight(weight, scale.double(), None),
        lambda: pack_weight(weight, scale[:3], None),
        lambda: pack_weight(weight, scale, torch.zeros(3)),
        lambda: pack_weight(weight, scale, torch.zeros(4).double()),
        lambda: pack_weight(torch.zeros(1, MAX_K + 1, dtype=torch.int8), torch.ones(1), None),
        lambda: pack_half_weight(weight, None),
        lambda: pack_half_weight(weight.half()[0], None),
        lambda: pack_half_weight(weight.half(), torch.zeros(3)),
        lambda: pack_half_weight(weight.half(), torch.zeros(4).half()),
    ):
        with pytest.raises(ConfigError, match=r"takes an|exceeds 65793"):
            wrong()


def test_packed_weights_are_not_mistaken_for_one_another() -> None:
    _, dynamic, half = layers(13, 7)
    dynamic.packed, half.packed = half.packed, dynamic.packed
    for layer in (dynamic, half):
        with pytest.raises(ValueError, match="not a packed"):
            layer(torch.randn(3, 13))


# ---- Compiled ---------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_inductor() -> None:
    model = nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 16)).eval()
    quantized = quantize_dynamic(model)
    compiled = torch.compile(quantized, fullgraph=True)
    x = torch.randn(5, 32)
    with torch.no_grad():
        assert torch.allclose(compiled(x), quantized(x), atol=1e-3)


def test_tracers_record_the_op_and_not_an_empty_tensor() -> None:
    from torch.fx.experimental.proxy_tensor import make_fx

    x, other = torch.randn(3, 13), torch.randn(3, 13)
    for layer in layers(13, 7)[1:]:
        traced = make_fx(layer)(x)
        assert torch.equal(traced(other), layer(other))


@pytest.mark.filterwarnings("ignore")
def test_jit_trace_records_the_op() -> None:
    x, other = torch.randn(3, 13), torch.randn(4, 13)
    for layer in layers(13, 7)[1:]:
        traced = torch.jit.trace(nn.Sequential(layer).eval(), x)
        assert torch.equal(traced(other), layer(other))


def test_hooks_of_all_modules_and_compiled_modules_are_obeyed() -> None:
    x, seen = torch.randn(3, 13), []
    for layer in layers(13, 7)[1:]:
        expected = layer(x)
        for register in (
            nn.modules.module.register_module_forward_hook,
            nn.modules.module.register_module_forward_pre_hook,
        ):
            handle = register(lambda module, *_: seen.append(module))
            assert torch.equal(layer(x=x), expected)
            handle.remove()
            assert seen.pop() is layer
        layer.compile(backend="aot_eager", fullgraph=True)
        with torch.no_grad():
            assert torch.equal(layer(x), expected)
        assert layer._compiled_call_impl is not None


def test_gradients_flow_around_but_never_through() -> None:
    _, *quantized = layers(8, 8)
    for layer in quantized:
        x = torch.randn(3, 8, requires_grad=True)
        with torch.no_grad():
            assert not layer(x).requires_grad
        with pytest.raises(InputError, match=r"^'encoder' .* has no gradient"):
            (x + layer(x)).sum().backward()
        x.detach_()
        head = nn.Linear(8, 1)
        head(layer(x)).sum().backward()
        assert head.weight.grad is not None
