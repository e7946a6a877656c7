"""Eager mode: modules are replaced one by one in the user's own module tree. May import nn and below."""

from intaglio.eager.dynamic_quantization import quantize_dynamic

__all__ = ["quantize_dynamic"]
