"""What the demo may stumble over, and the library may not: the packages that carry its weights and data.

Imports only the hierarchy of `intaglio.errors`. The command line turns it into one line and exit status 1.
"""

from __future__ import annotations

from intaglio.errors import IntaglioError

__all__ = ["CarrierError"]


class CarrierError(IntaglioError):
    """A package that carries weights or data cannot be had, or its file is not the one expected."""
