"""Registration of kernels as `torch.library` ops, so that compile, export and fx can see them.

Every op takes and gives plain tensors and scalars, runs on the CPU, and has a fake kernel. Quantized
ops are for inference: a backward pass through one raises. May import errors.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from intaglio.errors import InputError

__all__ = ["define_op"]

# torch.library's own functions carry no types.
_library: Any = torch.library.Library("intaglio", "DEF")  # type: ignore[no-untyped-call]


def define_op(schema: str, kernel: Callable[..., Any], fake: Callable[..., Any]) -> None:
    """Define `intaglio::<schema>` with a CPU kernel and a fake kernel."""
    _library.define(schema)
    name = schema[: schema.index("(")]
    _library.impl(name, kernel, "CPU")
    torch.library.register_fake(f"intaglio::{name}", fake, lib=_library)

    def refuse(ctx: Any, *grads: Any) -> Any:
        raise InputError(
            f"intaglio::{name} has no gradient: quantized modules are for inference. Train the float model, "
            "or keep the layers that need gradients in float"
        )

    torch.library.register_autograd(f"intaglio::{name}", refuse, lib=_library)
