"""The exceptions that intaglio raises: one small hierarchy.

    IntaglioError
    +- ConfigError          what was asked for makes no sense          (also a ValueError)
    +- ConversionError      a model cannot be converted                (also a ValueError)
    |  +- NothingQuantizedError    no module matched
    +- InputError           a quantized module got what it cannot take (also a ValueError)
    +- TrainingError        training went wrong, and going on is no use (also a ValueError)
    +- FileFormatError      a saved file is damaged, hostile or newer  (also a ValueError)

Every message names the module's path in the user's model, what was found, and what to do.
May import nothing from the package.
"""

from __future__ import annotations

__all__ = [
    "ConfigError",
    "ConversionError",
    "FileFormatError",
    "InputError",
    "IntaglioError",
    "NothingQuantizedError",
    "TrainingError",
]


class IntaglioError(Exception):
    """Base class of every exception that intaglio raises on purpose."""


class ConfigError(IntaglioError, ValueError):
    """An argument or a configuration makes no sense."""


class ConversionError(IntaglioError, ValueError):
    """A model cannot be converted; the model that was passed is unchanged."""


class NothingQuantizedError(ConversionError):
    """No module matched what was asked for: a silent copy would be a lie."""


class InputError(IntaglioError, ValueError):
    """A quantized module was called with something it cannot take."""


class FileFormatError(IntaglioError, ValueError):
    """A saved file is damaged, truncated, hostile, or of a newer version."""


class TrainingError(IntaglioError, ValueError):
    """A training run went wrong: a weight or a gradient is not finite, or an optimizer lacks parameters."""
