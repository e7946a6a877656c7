"""`compile`: from a converted model to a `Program`. May import reading, program, torch_host and errors."""

from __future__ import annotations

from typing import Any

from torch import nn

from intaglio.engine.program import Program
from intaglio.engine.reading import read_model
from intaglio.engine.torch_host import TorchHost
from intaglio.errors import ConversionError
from intaglio.graph_passes.examples import read_example_inputs
from intaglio.nn.quantized import QuantizedModule

__all__ = ["compile"]


def compile(model: nn.Module, example_inputs: Any = None) -> Program:
    """Compile a converted model: the same function as one call of C++, without Python between its layers.

    The forward becomes a flat list of kernel calls over memory that is planned once for each shape of the
    inputs. Between quantized layers the results are those of `model` bit for bit, whatever the number of
    threads, the split of the batch and the CPU; where float operations stand between (LayerNorm, softmax,
    GELU), they differ from them by float rounding. What no kernel computes is left to torch; printing the
    program says how much, `program.left_to_host` what and why.

    Parameters
    ----------
    model : nn.Module
        What `convert`, `convert_fx`, `quantize_dynamic` or `load` gave. It is not changed, and its weights
        are shared, not copied.
    example_inputs : tuple, dict or Tensor, optional
        Inputs to plan for now; without them the first call plans. A forward whose Python decides by what it
        is given (control flow) is traced along them.

    Returns
    -------
    Program

    Raises
    ------
    ConversionError
        Nothing in `model` is quantized, it is in training mode, or its forward cannot become a graph.

    Examples
    --------
    >>> import torch, intaglio
    >>> model = torch.nn.Sequential(torch.nn.Linear(8, 4), torch.nn.ReLU())
    >>> program = intaglio.compile(intaglio.quantize_dynamic(model))
    >>> program(torch.zeros(2, 8)).shape
    torch.Size([2, 4])
    """
    if not isinstance(model, nn.Module):
        raise ConversionError(f"compile takes an nn.Module, not {type(model).__name__}")
    for path, module in model.named_modules():
        if module.training:
            where = f"'{path}' ({type(module).__name__})" if path else "the model"
            raise ConversionError(f"{where} is in training mode: call model.eval() before compile")
    if not any(isinstance(module, QuantizedModule) for module in model.modules()):
        raise ConversionError(
            "nothing to compile: no module of the model is quantized. Convert it first "
            "(intaglio.quantize_dynamic, convert or convert_fx)"
        )
    example = None if example_inputs is None else read_example_inputs(example_inputs)
    read, modules = read_model(model, example)
    program = Program(read, TorchHost(modules), model)
    if example is not None:
        program.plan_for(*example.args, **example.kwargs)
    return program
