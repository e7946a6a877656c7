"""Files: one safetensors file that holds a quantized model, tensors and recipe; no pickle. See docs/files.md.

    save -> inventory -> known_layers | tracing -> recipe -> container
    load <- container -> recipe -> skeleton | matching -> tensors

May import eager, nn and below.
"""

from intaglio.serialization.description import FileDescription
from intaglio.serialization.loading import load, read_recipe
from intaglio.serialization.saving import save

__all__ = ["FileDescription", "load", "read_recipe", "save"]
