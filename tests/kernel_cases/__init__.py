"""What each kernel must compute: `case_<kernel>(isa)` for every name in the list of kernels.

A case calls the kernel in the instruction set that is already in force and compares it with
`intaglio.ops.reference`, bit for bit. `find_case` looks through all modules of this package.
"""

import importlib
import pkgutil
from collections.abc import Callable

Case = Callable[[str], None]


def find_case(kernel: str) -> Case | None:
    """The case of `kernel`, or None."""
    for info in pkgutil.iter_modules(__path__):
        module = importlib.import_module(f"{__name__}.{info.name}")
        case = getattr(module, f"case_{kernel}", None)
        if case is not None:
            return case
    return None
