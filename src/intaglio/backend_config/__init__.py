"""What a backend can quantize, under the legacy's names: a config that narrows what the rules can do.

    dtype_config    the types that go together in one op
    pattern_config  what holds for one op, or for ops in a row
    admission       whether a qconfig keeps to it
    backend         all patterns of a backend
    native          intaglio's own, read from the rules

May import nn and below.
"""

from intaglio.backend_config.backend import BackendConfig, as_backend_config
from intaglio.backend_config.dtype_config import DTypeConfig, DTypeWithConstraints
from intaglio.backend_config.native import (
    get_fbgemm_backend_config,
    get_native_backend_config,
    get_onednn_backend_config,
    get_qnnpack_backend_config,
    get_x86_backend_config,
)
from intaglio.backend_config.pattern_config import BackendPatternConfig, ObservationType

__all__ = [
    "BackendConfig",
    "BackendPatternConfig",
    "DTypeConfig",
    "DTypeWithConstraints",
    "ObservationType",
    "as_backend_config",
    "get_fbgemm_backend_config",
    "get_native_backend_config",
    "get_onednn_backend_config",
    "get_qnnpack_backend_config",
    "get_x86_backend_config",
]
