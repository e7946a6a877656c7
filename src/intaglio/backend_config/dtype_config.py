"""`DTypeConfig`: the types of activations, weight and bias that go together in one op.

Legacy names and dicts. May import qparams, spelling and errors.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from intaglio.errors import ConfigError
from intaglio.qparams import QuantizedType, parse_stored_dtype
from intaglio.spelling import check_keys

__all__ = ["AnyDType", "DTypeConfig", "DTypeWithConstraints"]

AnyDType = torch.dtype | str | QuantizedType
"""A type as users write it; legacy dtypes are known by their names."""

INPUT, OUTPUT, WEIGHT, BIAS, IS_DYNAMIC = (
    "input_dtype",
    "output_dtype",
    "weight_dtype",
    "bias_dtype",
    "is_dynamic",
)
KEYS = (INPUT, OUTPUT, WEIGHT, BIAS, IS_DYNAMIC)


@dataclass(init=False)
class DTypeWithConstraints:
    """A type, and what a qconfig's observer must keep to beside it; None is no limit.

    Parameters
    ----------
    dtype : the type; it is read as a `QuantizedType`
    quant_min_lower_bound, quant_max_upper_bound : between which the observer's integers must lie
    scale_min_lower_bound : below which the observer's smallest scale, its `eps`, must not be
    scale_max_upper_bound : accepted and, as in the legacy, not checked: no observer has a largest scale
    scale_exact_match, zero_point_exact_match : the parameters that an output of a fixed range has

    Raises `ConfigError` for a type that is not known, or limits that make no sense.

    >>> DTypeWithConstraints("uint8", quant_min_lower_bound=0, quant_max_upper_bound=127).dtype.name
    'uint8'
    """

    dtype: QuantizedType | None = None
    quant_min_lower_bound: int | float | None = None
    quant_max_upper_bound: int | float | None = None
    scale_min_lower_bound: int | float | None = None
    scale_max_upper_bound: int | float | None = None
    scale_exact_match: float | None = None
    zero_point_exact_match: int | None = None

    def __init__(
        self,
        dtype: AnyDType | None = None,
        quant_min_lower_bound: int | float | None = None,
        quant_max_upper_bound: int | float | None = None,
        scale_min_lower_bound: int | float | None = None,
        scale_max_upper_bound: int | float | None = None,
        scale_exact_match: float | None = None,
        zero_point_exact_match: int | None = None,
    ) -> None:
        self.dtype = None if dtype is None else parse_stored_dtype(dtype)
        self.quant_min_lower_bound = _number("quant_min_lower_bound", quant_min_lower_bound)
        self.quant_max_upper_bound = _number("quant_max_upper_bound", quant_max_upper_bound)
        self.scale_min_lower_bound = _number("scale_min_lower_bound", scale_min_lower_bound)
        self.scale_max_upper_bound = _number("scale_max_upper_bound", scale_max_upper_bound)
        self.scale_exact_match = _number("scale_exact_match", scale_exact_match)
        self.zero_point_exact_match = zero_point_exact_match
        _number("zero_point_exact_match", zero_point_exact_match)
        for low, high in (
            ("quant_min_lower_bound", "quant_max_upper_bound"),
            ("scale_min_lower_bound", "scale_max_upper_bound"),
        ):
            least, most = getattr(self, low), getattr(self, high)
            if least is not None and most is not None and least > most:
                raise ConfigError(f"DTypeWithConstraints: {low} {least} is above {high} {most}")


class DTypeConfig:
    """The types of one op's input, output, weight and bias that go together; None is any type.

    A qconfig is admitted whose activation observer has the input's type and, unless `is_dynamic`, the
    output's, and whose weight observer has the weight's. Raises `ConfigError` for a type that is not known.

    Parameters
    ----------
    input_dtype, output_dtype, weight_dtype : a torch dtype, legacy ones included, its name, or a
        `DTypeWithConstraints`
    bias_dtype : a torch dtype or its name
    is_dynamic : whether the input is quantized as it comes, and the output is float

    Examples
    --------
    >>> DTypeConfig("uint8", "uint8", DTypeWithConstraints("int8", -127, 127), torch.float).weight_dtype.name
    'int8'
    """

    def __init__(
        self,
        input_dtype: AnyDType | DTypeWithConstraints | None = None,
        output_dtype: AnyDType | DTypeWithConstraints | None = None,
        weight_dtype: AnyDType | DTypeWithConstraints | None = None,
        bias_dtype: AnyDType | None = None,
        is_dynamic: bool | None = None,
    ) -> None:
        self.input_dtype_with_constraints = _constrained(input_dtype)
        self.output_dtype_with_constraints = _constrained(output_dtype)
        self.weight_dtype_with_constraints = _constrained(weight_dtype)
        self.bias_dtype = None if bias_dtype is None else parse_stored_dtype(bias_dtype)
        if is_dynamic is not None and not isinstance(is_dynamic, bool):
            raise ConfigError(f"DTypeConfig: is_dynamic is {is_dynamic!r}: use True, False or None")
        self.is_dynamic = is_dynamic

    @property
    def input_dtype(self) -> QuantizedType | None:
        """The input's type alone."""
        return self.input_dtype_with_constraints.dtype

    @property
    def output_dtype(self) -> QuantizedType | None:
        """The output's type alone."""
        return self.output_dtype_with_constraints.dtype

    @property
    def weight_dtype(self) -> QuantizedType | None:
        """The weight's type alone."""
        return self.weight_dtype_with_constraints.dtype

    @classmethod
    def from_dict(cls, dtype_config_dict: Mapping[str, Any]) -> DTypeConfig:
        """The config that `to_dict` wrote: the constructor's arguments by name, each of which may be missing.

        >>> DTypeConfig.from_dict({"input_dtype": "uint8"}).input_dtype.name
        'uint8'
        """
        if not isinstance(dtype_config_dict, Mapping):
            raise ConfigError(f"DTypeConfig.from_dict takes a dict, not {type(dtype_config_dict).__name__}")
        check_keys("the dict of a DTypeConfig", dtype_config_dict, KEYS)
        return cls(*(dtype_config_dict.get(key) for key in KEYS))

    def to_dict(self) -> dict[str, Any]:
        """The arguments that are not None, by name; types as `DTypeWithConstraints`."""
        held = {key: getattr(self, key) for key in KEYS}
        constrained = {key: getattr(self, f"{key}_with_constraints") for key in (INPUT, OUTPUT, WEIGHT)}
        return {key: constrained.get(key, value) for key, value in held.items() if value is not None}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, DTypeConfig) and vars(self) == vars(other)

    __hash__ = None  # type: ignore[assignment]  # the constraints may be changed, as they could in the legacy

    def __repr__(self) -> str:
        return f"DTypeConfig({', '.join(f'{key}={getattr(self, key)}' for key in KEYS)})"


def _constrained(dtype: AnyDType | DTypeWithConstraints | None) -> DTypeWithConstraints:
    return dtype if isinstance(dtype, DTypeWithConstraints) else DTypeWithConstraints(dtype)


def _number(name: str, value: float | None) -> float | None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float))):
        raise ConfigError(f"DTypeWithConstraints: {name} is {value!r}: use a number or None")
    return value
