"""Which weights of a recurrent layer become int8, and which float16. May import linear_half."""

from __future__ import annotations

from torch import nn

from intaglio.nn.linear_half import LARGEST_HALF

__all__ = ["READS_INPUT", "choose_weights"]

NARROW_INPUT = 128
"""Widest input that is taken for raw features: mel bands, cepstra, sensors; word embeddings are wider."""

READS_INPUT = {"weight_ih", "weight_ih_l0", "weight_ih_l0_reverse"}


def choose_weights(weight_dtype: str, module: nn.Module) -> str:
    """`mixed` in place of int8 for a layer or cell that reads a narrow input.

    What a network reads, unlike the states that its layers pass on, need not be of one scale: the bands of
    a power spectrum span seven orders of magnitude, and 8 bits for a row of it, or of its weight, lose all
    but the loudest. (The demo's voice encoder, all in int8: SQNR 4.6 dB and 94 % of utterances recognized;
    mixed: 26.8 dB and the 98 % of float32.) Raw features are narrow, so 16 bits for them cost little.
    """
    width, hidden = int(module.input_size), int(module.hidden_size)  # type: ignore[arg-type]
    is_narrow = width <= NARROW_INPUT and 2 * width <= hidden
    weights = [weight for name, weight in module.named_parameters() if name in READS_INPUT]
    fits = all(bool((weight.detach().abs() <= LARGEST_HALF).all()) for weight in weights)
    return "mixed" if weight_dtype == "int8" and is_narrow and fits else weight_dtype
