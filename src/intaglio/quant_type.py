"""`QuantType`: the kinds of quantization that the legacy's custom configs tell apart. May import errors."""

from __future__ import annotations

import enum

from intaglio.errors import ConfigError

__all__ = ["QuantType", "parse_quant_type"]


class QuantType(enum.IntEnum):
    """When values are quantized: as they come, by fixed parameters, in training, or weights alone."""

    DYNAMIC = 0
    STATIC = 1
    QAT = 2
    WEIGHT_ONLY = 3


def parse_quant_type(value: QuantType | str | int) -> QuantType:
    """The `QuantType` meant by itself or its name in lower case; `ConfigError` for anything else.

    >>> parse_quant_type("weight_only").name
    'WEIGHT_ONLY'
    """
    if isinstance(value, str) and value.upper() in QuantType.__members__:
        return QuantType[value.upper()]
    if isinstance(value, int) and not isinstance(value, bool) and value in list(QuantType):
        return QuantType(value)
    names = ", ".join(repr(kind.name.lower()) for kind in QuantType)
    raise ConfigError(f"{value!r} is no QuantType: use one of {names}")
