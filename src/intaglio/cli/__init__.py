"""The command line: `intaglio demo`, `intaglio doctor`, `intaglio inspect FILE`.

Needs the extra `cli`, and `intaglio demo` the extra `demo`. May import everything; nothing imports it.
"""

from __future__ import annotations

import sys

__all__ = ["main"]


def main() -> None:
    """Run the command line; without its libraries, say how to get them."""
    try:
        from intaglio.cli.commands import intaglio
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in {"click", "rich"}:
            raise
        sys.exit(f"intaglio's command line needs {missing}: pip install 'intaglio[demo]'")
    intaglio()
