"""The Program: a converted model as one call of C++, where torch is installed.

`compile` makes one; `runtime` holds what needs no torch. May import serialization and runtime.
"""

from intaglio.engine.compiling import compile
from intaglio.engine.program import Program

__all__ = ["Program", "compile"]
