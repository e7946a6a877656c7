"""FX graph mode's settings, where the legacy had them: `intaglio.fx.custom_config`.

May import backend_config, qconfig_mapping and below.
"""

from intaglio.fx.custom_config import (
    ConvertCustomConfig,
    FuseCustomConfig,
    PrepareCustomConfig,
    StandaloneModuleConfigEntry,
)

__all__ = [
    "ConvertCustomConfig",
    "FuseCustomConfig",
    "PrepareCustomConfig",
    "StandaloneModuleConfigEntry",
]
