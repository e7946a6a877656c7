"""Networks as people write them today, to prove quantization on: nothing here knows of it.

Each family's file is plain `torch.nn` in the style of its field and says what makes it hard to trace. The
weights are random and leave activations of ordinary size: good for telling whether a network is quantized
right and how fast it is, and no measure of accuracy. Imports: torch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.architectures import (
    branches,
    control_flow,
    convnext,
    detector,
    efficient,
    encoder_decoder,
    language,
    mixer,
    mobile,
    resnets,
    swin,
    text,
    unet,
    vision_transformer,
)

__all__ = ["ARCHITECTURES", "Architecture", "MakeInputs"]

MakeInputs = Callable[[int], tuple[tuple[Any, ...], dict[str, Any]]]
"""Given a seed, the positional and the keyword arguments of one forward pass."""


@dataclass(frozen=True)
class Architecture:
    """A float network in eval mode and inputs for it; `other_inputs` are of other sizes and kinds."""

    name: str
    make: Callable[[], nn.Module]
    inputs: MakeInputs
    other_inputs: tuple[MakeInputs, ...]


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _numbers(*shapes: tuple[int, ...], shift: float = 0.0, **keywords: Any) -> MakeInputs:
    """Normal numbers of the shapes given, about `shift`."""

    def make(seed: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
        generator = _generator(seed)
        return tuple(torch.randn(shape, generator=generator) + shift for shape in shapes), dict(keywords)

    return make


def _image(height: int, width: int | None = None, batch: int = 1) -> MakeInputs:
    return _numbers((batch, 3, height, width or height))


def _tokens(batch: int, *lengths: int, vocabulary: int = 4000, **keywords: Any) -> MakeInputs:
    """Sequences of token ids, none of them 0; keywords that are functions are called."""

    def make(seed: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
        generator = _generator(seed)
        ids = tuple(torch.randint(1, vocabulary, (batch, length), generator=generator) for length in lengths)
        return ids, {name: value() if callable(value) else value for name, value in keywords.items()}

    return make


def _padded(make: MakeInputs, lengths: tuple[int, ...]) -> MakeInputs:
    """The same with the lengths of its sequences as a second argument."""

    def padded(seed: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
        args, keywords = make(seed)
        return (*args, torch.tensor(lengths)), keywords

    return padded


def _continued(past: int, length: int) -> MakeInputs:
    """One sequence of tokens, and keys and values of before for four layers."""

    def make(seed: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
        generator = _generator(seed)
        ids = torch.randint(1, 4000, (1, length), generator=generator)
        states = [tuple(torch.randn(1, 2, past, 32, generator=generator) for _ in range(2)) for _ in range(4)]
        return (ids,), {"past_key_values": tuple(states)}

    return make


def _paired(batch: int, size: int, length: int, **keywords: Any) -> MakeInputs:
    def make(seed: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
        (images,), _ = _image(size, batch=batch)(seed)
        (ids,), _ = _tokens(batch, length)(seed)
        return (images, ids), dict(keywords)

    return make


def _hides_last(length: int, hidden: int) -> Callable[[], Tensor]:
    """A mask to add to scores, `(length, length)`, that hides the last keys."""

    def make() -> Tensor:
        mask = torch.zeros(length, length)
        mask[:, length - hidden :] = float("-inf")
        return mask

    return make


def _sized(name: str, make: Callable[[], nn.Module], size: int, *others: tuple[int, int]) -> Architecture:
    """A network of square images; others are two of these, and single ones of other sizes."""
    more = tuple(_image(height, width) for height, width in others)
    return Architecture(name, make, _image(size), (_image(size, batch=2), *more))


_SEQ2SEQ_OTHERS = (
    _tokens(2, 20, 9),
    _tokens(1, 24, 16, src_mask=_hides_last(24, 5)),
    _tokens(1, 24, 16, tgt_mask=_hides_last(16, 3), offset=4),
)

ARCHITECTURES: tuple[Architecture, ...] = (
    _sized("ResNet-18", resnets.make_resnet18, 128, (96, 160)),
    _sized("ResNet-50", resnets.make_resnet50, 128, (160, 96)),
    _sized("ResNeXt", resnets.make_resnext, 128, (96, 128)),
    _sized("ResNet by functions", resnets.make_functional_resnet, 64, (48, 80)),
    _sized("ResNet, preactivated", resnets.make_preactivation_resnet, 64, (48, 80)),
    _sized("ResNet, gated", resnets.make_squeeze_excite_resnet, 128, (96, 160)),
    _sized("ResNet, standardised", resnets.make_standardised_resnet, 128, (96, 100)),
    _sized("MobileNetV2", mobile.make_mobilenet_v2, 160, (128, 192)),
    _sized("MobileNetV2 by functions", mobile.make_functional_mobilenet, 160, (128, 192)),
    _sized("MobileNetV3", mobile.make_mobilenet_v3, 160, (128, 150)),
    _sized("ShuffleNet", mobile.make_shufflenet, 160, (128, 192)),
    _sized("GhostNet", mobile.make_ghostnet, 160, (128, 192)),
    _sized("RepVGG", mobile.make_repvgg, 160, (128, 130)),
    _sized("EfficientNet", efficient.make_efficientnet, 128, (128, 101), (96, 96)),
    _sized("DenseNet", branches.make_densenet, 128, (96, 160)),
    _sized("Inception", branches.make_inception, 64, (80, 65)),
    _sized("VGG", branches.make_vgg, 96, (64, 100)),
    _sized("ConvNeXt", convnext.make_convnext, 96, (128, 64), (100, 100)),
    _sized("Vision transformer", vision_transformer.make_vision_transformer, 96, (96, 64), (128, 128)),
    _sized(
        "Vision transformer by hand",
        vision_transformer.make_vision_transformer_by_hand,
        64,
        (64, 96),
        (48, 48),
    ),
    _sized("Swin", swin.make_swin, 96, (96, 64), (112, 112)),
    _sized("MLP-Mixer", mixer.make_mixer, 64),
    _sized("MLP-Mixer of transposes", mixer.make_mixer_of_transposes, 96),
    _sized("U-Net", unet.make_unet, 64, (48, 80), (60, 60)),
    _sized("U-Net, bilinear", unet.make_unet_bilinear, 64, (48, 80), (60, 60)),
    _sized("Detector", detector.make_detector, 128, (128, 160), (160, 128)),
    Architecture(
        "Encoder-decoder", encoder_decoder.make_encoder_decoder, _tokens(1, 48, 32), _SEQ2SEQ_OTHERS
    ),
    Architecture(
        "Encoder-decoder of nn.MultiheadAttention",
        encoder_decoder.make_encoder_decoder_of_torch,
        _tokens(1, 48, 32),
        _SEQ2SEQ_OTHERS,
    ),
    Architecture(
        "GPT",
        language.make_gpt,
        _tokens(1, 64),
        (_tokens(2, 64), _tokens(1, 33), lambda seed: (_tokens(1, 20, 20)(seed)[0], {})),
    ),
    Architecture(
        "LLaMA",
        language.make_llama,
        _tokens(1, 64),
        (_tokens(2, 33), _tokens(1, 33, use_cache=False), _continued(12, 1)),
    ),
    Architecture(
        "Text CNN",
        text.make_text_cnn,
        _tokens(1, 256, vocabulary=8000),
        (_tokens(3, 200, vocabulary=8000), _tokens(1, 77, vocabulary=8000)),
    ),
    Architecture(
        "GRU classifier",
        text.make_gru_classifier,
        _padded(_tokens(1, 30, vocabulary=8000), (30,)),
        (
            _padded(_tokens(3, 30, vocabulary=8000), (30, 12, 21)),
            _padded(_tokens(2, 17, vocabulary=8000), (9, 17)),
        ),
    ),
    Architecture(
        "LSTM tagger",
        text.make_lstm_tagger,
        _tokens(1, 40, vocabulary=8000),
        (
            _tokens(2, 25, vocabulary=8000),
            _padded(_tokens(3, 40, vocabulary=8000), (40, 12, 21)),
        ),
    ),
    Architecture(
        "Conformer",
        text.make_conformer,
        _numbers((1, 160, 40)),
        (_numbers((2, 160, 40)), _numbers((1, 97, 40)), _padded(_numbers((2, 120, 40)), (120, 64))),
    ),
    Architecture(
        "Decides by values",
        control_flow.make_branching,
        _numbers((1, 3, 96, 96), shift=0.3),
        (_numbers((1, 3, 96, 96), shift=-0.3), _numbers((2, 3, 64, 80), shift=0.3)),
    ),
    Architecture(
        "Loops over steps",
        control_flow.make_looping,
        _numbers((1, 24, 96)),
        (_numbers((4, 12, 96)), _numbers((1, 7, 96))),
    ),
    _sized("Shares modules", control_flow.make_shared, 96, (64, 80)),
    Architecture(
        "Answers in a named tuple",
        control_flow.make_multi_task,
        _image(96),
        (_image(64, 80), _numbers((2, 3, 96, 96), return_features=False)),
    ),
    Architecture(
        "Answers in a dataclass",
        control_flow.make_paired,
        _paired(2, 64, 12),
        (_paired(1, 96, 12), _paired(3, 64, 5, return_loss=True)),
    ),
    Architecture(
        "Takes any number of inputs",
        control_flow.make_many_inputs,
        _numbers((1, 3, 64, 64), (1, 3, 64, 64)),
        (
            _numbers((2, 3, 64, 64), (2, 3, 64, 64)),
            _numbers((1, 3, 64, 64), (1, 3, 80, 48), (1, 3, 64, 64)),
            _numbers((1, 3, 64, 64), (1, 3, 64, 64), weights=(0.5, 1.5)),
        ),
    ),
)
