# ruff: noqa: E501 - a table of layers, as many to a line as fit
"""Layers that files know: described, rebuilt, and refused where a rebuilt one would differ."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import intaglio
from intaglio.errors import FileFormatError
from intaglio.nn import DeQuantStub, FusedModule, QuantStub, ResidualLayer
from intaglio.nn.padded_conv import PaddedConv1d, PaddedConv2d, PaddedConv3d
from intaglio.serialization.known_layers import _CLASSES, build_layer, describe_layer, qualified_name
from intaglio.serialization.values import UnstorableError
from tests.file_models import assert_loads, assert_same

LAYERS = [
    nn.AdaptiveAvgPool1d(3), nn.AdaptiveAvgPool2d((2, None)), nn.AdaptiveAvgPool3d(1), nn.AdaptiveMaxPool1d(2),
    nn.AdaptiveMaxPool2d(2, return_indices=True), nn.AdaptiveMaxPool3d(2), nn.AlphaDropout(0.2),
    nn.AvgPool1d(2, stride=1), nn.AvgPool2d((2, 3), ceil_mode=True), nn.AvgPool3d(2, divisor_override=3),
    nn.BatchNorm1d(4, momentum=None), nn.BatchNorm2d(4, affine=False), nn.BatchNorm3d(4, track_running_stats=False),
    nn.Bilinear(2, 3, 4, bias=False), nn.CELU(0.5), nn.ChannelShuffle(2), nn.CircularPad1d(2), nn.CircularPad2d((1, 2, 0, 1)),
    nn.CircularPad3d(1), nn.ConstantPad1d(2, 3.5), nn.ConstantPad2d(1, float("-inf")), nn.ConstantPad3d(1, 0),
    nn.Conv1d(4, 8, 3, padding="same", groups=2), nn.Conv2d(3, 4, (1, 3), padding_mode="circular", padding=1),
    nn.Conv3d(1, 2, 2, dilation=2, bias=False), nn.ConvTranspose1d(2, 4, 3, stride=2, output_padding=1),
    nn.ConvTranspose2d(2, 4, 3, groups=2), nn.ConvTranspose3d(1, 2, 2, dilation=2), nn.CosineSimilarity(0, 1e-4),
    nn.Dropout(0.3), nn.Dropout1d(), nn.Dropout2d(inplace=True), nn.Dropout3d(), nn.ELU(0.3, inplace=True),
    nn.Embedding(5, 4, padding_idx=-1), nn.EmbeddingBag(5, 4, mode="sum", include_last_offset=True),
    nn.FeatureAlphaDropout(), nn.Flatten(0, -2), nn.Fold((4, 5), 2), nn.GELU("tanh"), nn.GLU(0),
    nn.GRU(4, 3, 2, bidirectional=True, bias=False), nn.GRUCell(4, 3), nn.GroupNorm(2, 4, affine=False),
    nn.GroupNorm(2, 4, eps=1e-3), nn.Hardshrink(0.2), nn.Hardsigmoid(), nn.Hardswish(), nn.Hardtanh(-2, 3), nn.Identity(),
    nn.InstanceNorm1d(4, affine=True), nn.InstanceNorm2d(4), nn.InstanceNorm3d(4, track_running_stats=True),
    nn.LPPool1d(2, 3), nn.LPPool2d(1.5, 2), nn.LPPool3d(2, 2), nn.LSTM(4, 6, 2, proj_size=2, dropout=0.5), nn.LSTM(4, 3),
    nn.LSTMCell(4, 3, bias=False), nn.LayerNorm((3, 4), elementwise_affine=False), nn.LayerNorm(4, 1e-12, bias=False),
    nn.LeakyReLU(0.2), nn.Linear(3, 4, bias=False), nn.LocalResponseNorm(3, k=2.0), nn.LogSigmoid(), nn.LogSoftmax(-1),
    nn.MaxPool1d(2), nn.MaxPool2d(2, return_indices=True), nn.MaxPool3d((1, 2, 2), dilation=2), nn.MaxUnpool1d(2),
    nn.MaxUnpool2d(2, stride=1), nn.MaxUnpool3d(2), nn.Mish(), nn.ModuleDict(), nn.ModuleList(),
    nn.MultiheadAttention(8, 2, batch_first=True), nn.MultiheadAttention(8, 2, bias=False, kdim=3, vdim=5),
    nn.MultiheadAttention(8, 4, add_bias_kv=True, add_zero_attn=True, dropout=0.1),
    nn.modules.linear.NonDynamicallyQuantizableLinear(3, 4), nn.PReLU(4, 0.1), nn.PairwiseDistance(1.0, keepdim=True),
    nn.PixelShuffle(2), nn.PixelUnshuffle(2), nn.RMSNorm((4,), eps=1e-5), nn.RNN(4, 3, nonlinearity="relu"),
    nn.RNNCell(4, 3, nonlinearity="relu"), nn.RReLU(0.1, 0.2), nn.ReLU(True), nn.ReLU6(), nn.ReflectionPad1d(1),
    nn.ReflectionPad2d(1), nn.ReflectionPad3d(1), nn.ReplicationPad1d(1), nn.ReplicationPad2d((1, 0, 2, 0)),
    nn.ReplicationPad3d(1), nn.SELU(), nn.Sequential(), nn.SiLU(), nn.Sigmoid(), nn.Softmax(1), nn.Softmax2d(),
    nn.Softmin(0), nn.Softplus(2, 10), nn.Softshrink(0.2), nn.Softsign(), nn.Tanh(), nn.Tanhshrink(),
    nn.Threshold(0.1, 20), nn.Transformer(8, 2, 1, 1, 16, batch_first=True), nn.TransformerDecoderLayer(8, 2, 16, activation=F.silu),
    nn.TransformerDecoder(nn.TransformerDecoderLayer(8, 2, 16), 2, nn.LayerNorm(8)),
    nn.TransformerEncoderLayer(8, 2, 16, activation="gelu", norm_first=True),
    nn.TransformerEncoderLayer(8, 2, 16, activation=nn.GELU("tanh")),
    nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2, mask_check=False),
    nn.Unflatten(1, (2, 3)), nn.Unfold(2, padding=1), nn.Upsample(scale_factor=(2.0, 3.0), mode="bilinear"),
    nn.UpsamplingBilinear2d(scale_factor=2), nn.UpsamplingNearest2d(size=(3, 4)), nn.ZeroPad1d(1), nn.ZeroPad2d((1, 2, 3, 4)),
    nn.ZeroPad3d(1), nn.Module(), QuantStub(), DeQuantStub(), ResidualLayer(nn.Linear(4, 4)),
    ResidualLayer(nn.Conv2d(3, 3, 1), nn.ReLU()), FusedModule(nn.Linear(4, 3), nn.GELU()),
    PaddedConv1d(4, 6, 3, sides=(0, 2), bias=False), PaddedConv2d(3, 4, 3, sides=(0, 1, 0, 1), stride=2),
    PaddedConv3d(1, 2, 2, sides=(0, 1, 0, 1, 1, 1), dilation=2),
]  # fmt: skip


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: type(layer).__name__)
def test_rebuilt_alike(layer: nn.Module) -> None:
    rebuilt = build_layer(qualified_name(layer), describe_layer(layer))
    assert rebuilt.extra_repr() == layer.extra_repr()
    assert all(
        tensor.is_meta for tensor in (*rebuilt.parameters(recurse=False), *rebuilt.buffers(recurse=False))
    )
    assert describe_layer(rebuilt) == describe_layer(layer)


def test_every_known_class_has_an_example() -> None:
    assert {type(layer) for layer in LAYERS} == {*_CLASSES.values()}


def test_layers_in_a_file(tmp_path: Path) -> None:
    """All of them, with weights and children, through one file."""
    everything = nn.ModuleDict({f"layer{index}": layer for index, layer in enumerate(LAYERS)})
    model = nn.ModuleDict({"everything": everything, "linear": nn.Linear(4, 4)}).eval()
    quantized = intaglio.quantize_dynamic(model, {"linear"})
    assert intaglio.save(quantized, tmp_path / "model").recipe.structure.way == "modules"
    loaded = intaglio.load(tmp_path / "model")
    assert repr(loaded) == repr(quantized)
    assert_same(list(loaded.state_dict().values()), list(quantized.state_dict().values()))


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_float_recurrent_layers_compute_alike(kind, tmp_path: Path) -> None:
    """They keep a list of their weights besides the parameters."""
    model = nn.ModuleDict({"rnn": kind(4, 6, 2, bidirectional=True), "linear": nn.Linear(4, 4)}).eval()
    intaglio.save(intaglio.quantize_dynamic(model, {"linear"}), tmp_path / "model")
    x = torch.randn(5, 2, 4)
    assert_same(intaglio.load(tmp_path / "model")["rnn"](x), model["rnn"](x))


@pytest.mark.parametrize("activation", ["relu", "gelu", torch.sigmoid, nn.SiLU()], ids=str)
def test_transformer_layers_compute_alike(activation, tmp_path: Path) -> None:
    layer = nn.TransformerEncoderLayer(16, 2, 24, batch_first=True, activation=activation)
    model = nn.TransformerEncoder(layer, 2, nn.LayerNorm(16), enable_nested_tensor=False).eval()
    quantized = intaglio.quantize_dynamic(model, {"layers.0.linear1", "layers.1.linear2"})
    intaglio.save(quantized, tmp_path / "model")
    assert_loads(quantized, tmp_path / "model", (torch.randn(2, 5, 16),))
    padding = torch.tensor([[False, False, True, True, True]]).expand(2, -1)
    loaded = intaglio.load(tmp_path / "model")
    x = torch.randn(2, 5, 16)
    assert_same(loaded(x, src_key_padding_mask=padding), quantized(x, src_key_padding_mask=padding))


def bent_layers() -> list[tuple[str, nn.Module]]:
    hooked, replaced, extended, resized, renamed = (nn.Linear(3, 3) for _ in range(5))
    hooked.register_forward_hook(lambda *_: None)
    replaced.forward = lambda x: x
    extended.register_buffer("mask", torch.ones(3))
    resized.weight = nn.Parameter(torch.ones(2, 3))
    renamed.in_features = "three"  # type: ignore[assignment]
    layer = nn.TransformerEncoderLayer(8, 2, 16, activation=lambda x: x)
    softmax, custom = nn.Softmax(1), type("Mine", (nn.Linear,), {})(3, 3)
    softmax.dim = object()  # type: ignore[assignment]
    return [
        ("hooks", hooked),
        ("'forward' has been replaced", replaced),
        ("mask", extended),
        ("parameters are", resized),
        ("do not make another", renamed),
        ("activation", layer),
        ("a value of type object", softmax),
        ("Mine is not a layer of torch.nn", custom),
    ]


@pytest.mark.parametrize(
    ("reason", "layer"), bent_layers(), ids=lambda value: value if isinstance(value, str) else ""
)
def test_bent_layers_have_no_description(reason: str, layer: nn.Module) -> None:
    with pytest.raises(UnstorableError, match=reason):
        describe_layer(layer)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("os.system", {}),
        ("torch.nn.Module", {"forward": 1}),
        ("torch.fx.GraphModule", {}),
        ("intaglio.nn.PaddedConv2d", {"in_channels": 1, "out_channels": 1, "kernel_size": 1}),
        ("torch.nn.Linear", {"in_features": 10**15, "out_features": 10**15}),
        ("torch.nn.Linear", {"in_features": 8, "out_features": 8, "device": {"device": "cpu"}}),
        ("torch.nn.Embedding", {"num_embeddings": 2, "embedding_dim": 2, "_weight": [1]}),
        ("torch.nn.LSTM", {"input_size": 1, "hidden_size": 1, "num_layers": 10**9}),
        ("torch.nn.LSTM", {"input_size": -1, "hidden_size": 1}),
        ("torch.nn.ModuleList", {"modules": [1]}),
        ("torch.nn.TransformerEncoderLayer", {"norm_first": True, "activation": "os.system"}),
        ("torch.nn.TransformerEncoder", {"norm": False, "__class__": 3}),
        ("torch.nn.TransformerEncoder", {"norm": False, "_modules": 3}),
        ("torch.nn.Sequential", {"args": [1]}),
        ("torch.nn.ReLU", {"inplace": {"code": "x"}}),
    ],
)
def test_hostile_descriptions(name: str, arguments: dict[str, object]) -> None:
    with pytest.raises(FileFormatError):
        build_layer(name, arguments)
