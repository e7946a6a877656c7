"""The one-call API: a float model and data in, a quantized model out.

    data       what users calibrate with, as calls of a model
    progress   a bar where there is a terminal and a library to draw it
    quantizing auto_quantize

May import quantize_fx and below.
"""

from intaglio.auto.quantizing import auto_quantize

__all__ = ["auto_quantize"]
