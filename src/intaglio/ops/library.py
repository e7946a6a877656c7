"""Registration of kernels as `torch.library` ops, so that compile, export and fx can see them.

Every op takes and gives plain tensors and scalars, runs on the CPU, and has a fake kernel. Quantized
ops are for inference: a backward pass through one raises. Where nothing watches torch's calls a module may
call the kernel itself, which takes a quarter of the time. May import errors.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from intaglio.errors import InputError

__all__ = ["define_op", "is_eager"]

_is_compiling = torch.compiler.is_compiling
_dispatch_modes = torch._C._len_torch_dispatch_stack
_tracing_state = torch._C._get_tracing_state

# torch.library's own functions carry no types.
_library: Any = torch.library.Library("intaglio", "DEF")  # type: ignore[no-untyped-call]


def is_eager() -> bool:
    """Whether nothing compiles, traces or intercepts ops: then a kernel may be called behind torch's back."""
    return not _is_compiling() and not _dispatch_modes() and _tracing_state() is None


def is_direct(x: Tensor, y: Tensor | None = None) -> bool:
    """Whether a kernel may be called behind torch's back: the tensors are plain, on the CPU, unwatched."""
    if type(x) is not Tensor or not x.is_cpu:
        return False
    return (y is None or (type(y) is Tensor and y.is_cpu)) and is_eager()


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
