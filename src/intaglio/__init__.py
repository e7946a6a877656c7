"""intaglio: PyTorch models in int8 on ordinary CPUs, small and fast, without losing their accuracy.

The public names are those of `torch.ao.quantization`, so that moving over is one changed import. They come
from `intaglio.api`, which is imported at the first that is asked for: so `import intaglio` is light, and what
needs no torch works where there is none.
"""

from contextlib import suppress
from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

_WITHOUT_TORCH = ("_core", "errors", "runtime")

if TYPE_CHECKING:
    from intaglio.api import *  # noqa: F403  # what type checkers and editors see
    from intaglio.api import __all__ as __all__
else:

    def __getattr__(name: str) -> object:
        """What is not here yet: a module that needs no torch, or all that does."""
        if name in _WITHOUT_TORCH:
            return import_module(f"intaglio.{name}")
        if not name.startswith("_") or name == "__all__":  # what inspects modules asks for many a __name__
            _import_public_names(name)
            if name in globals():
                return globals()[name]
        raise AttributeError(f"module 'intaglio' has no attribute {name!r}")

    def __dir__() -> list[str]:
        """The names that can be had."""
        with suppress(ImportError):
            _import_public_names("*")
        return sorted(globals())

    def _import_public_names(wanted: str) -> None:
        try:
            api = import_module("intaglio.api")
        except ModuleNotFoundError as error:
            if error.name not in ("torch", "safetensors"):
                raise
            raise ImportError(
                f"intaglio.{wanted} needs {error.name}, which is not installed: pip install {error.name}; "
                "intaglio.runtime runs a saved model without it",
                name=error.name,
            ) from error
        globals().update({name: getattr(api, name) for name in api.__all__}, __all__=api.__all__)
