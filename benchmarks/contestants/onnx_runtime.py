"""ONNX Runtime, dynamic int8: exported by torch, fused and quantized by its own tools."""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
import warnings
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import torch
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process
from onnxruntime.transformers import optimizer
from torch import Tensor

from benchmarks.contestants.contestant import Contestant, Program
from benchmarks.workloads import Inputs, Network

__all__ = ["OnnxRuntimeDynamic"]

ERRORS_ONLY = 3
STATIC = frozenset({"vision"})
"""The groups that are quantized with calibrated ranges."""


class OnnxRuntimeDynamic(Contestant):
    """`quantize_dynamic` per channel, every graph optimisation, inputs and outputs bound once."""

    name = "ONNX Runtime"
    configuration = (
        "`quantize_dynamic`, QInt8 weights per channel; attention, GELU and layer norms fused by "
        "`onnxruntime.transformers.optimizer`; networks with stubs by `quantize_static`, QDQ, "
        "QUInt8 activations, MinMax; ORT_ENABLE_ALL, spinning threads, I/O binding"
    )

    def __init__(self, network: Network, threads: int) -> None:
        super().__init__(network, threads)
        onnxruntime.disable_telemetry_events()
        onnxruntime.set_default_logger_severity(ERRORS_ONLY)
        logging.getLogger("onnxruntime").setLevel(logging.ERROR)
        logging.getLogger().setLevel(logging.ERROR)  # where its quantizer logs

    def bind(self, inputs: Inputs) -> Program:
        """Export for exactly these shapes, quantize and load."""
        with tempfile.TemporaryDirectory() as folder:
            model = _export_quantized(self.network, inputs, Path(folder))
            session = onnxruntime.InferenceSession(model, self._options(), ["CPUExecutionProvider"])
        binding = session.io_binding()
        kept = {argument.name for argument in session.get_inputs()}  # the exporter drops unused ones
        for name, tensor in _name_inputs(inputs).items():
            if name in kept:
                binding.bind_cpu_input(name, tensor.numpy())
        output = session.get_outputs()[0].name
        binding.bind_output(output)
        return Program(lambda: session.run_with_iobinding(binding), lambda: _read(session, binding))

    def _options(self) -> onnxruntime.SessionOptions:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.add_session_config_entry("session.intra_op.allow_spinning", "1")
        return options


def _export_quantized(network: Network, inputs: Inputs, folder: Path) -> str:
    floating, fused, quantized = (str(folder / f"{name}.onnx") for name in ("float", "fused", "int8"))
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        # The TorchScript exporter: its graphs are the ones in which the optimizer still finds attention.
        torch.onnx.export(
            network.module,
            inputs,
            floating,
            dynamo=False,
            opset_version=17,
            input_names=list(_name_inputs(inputs)),
        )
        if network.attention:
            fusion = optimizer.optimize_model(floating, model_type="bert", opt_level=0, **network.attention)
            fusion.save_model_to_file(fused)
        if network.group in STATIC:
            _quantize_static(network, len(inputs[0]), floating, quantized)
            return quantized
        quantize_dynamic(
            fused if network.attention else floating,
            quantized,
            op_types_to_quantize=["MatMul", "Gemm", "Attention", "LSTM"],
            per_channel=True,
            weight_type=QuantType.QInt8,
            extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},
        )
    return quantized


class Calibration(CalibrationDataReader):  # type: ignore[misc]
    """The network's calibration data in batches of the size for which the graph was exported."""

    def __init__(self, network: Network, batch: int) -> None:
        columns = (torch.cat(column) for column in zip(*network.calibration, strict=True))
        chunks = (column.split(batch) for column in columns)
        self.batches = (found for found in zip(*chunks, strict=True) if len(found[0]) == batch)

    def get_next(self) -> dict[str, Any] | None:
        """The next batch by the inputs' names."""
        batch = next(self.batches, None)
        return None if batch is None else {name: x.numpy() for name, x in _name_inputs(batch).items()}


def _quantize_static(network: Network, batch: int, floating: str, quantized: str) -> None:
    """QDQ format after its own pre-processing, which folds the batch norms."""
    prepared = floating + ".prepared"
    quant_pre_process(floating, prepared, skip_symbolic_shape=True)
    quantize_static(
        prepared,
        quantized,
        Calibration(network, batch),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )


def _name_inputs(inputs: Inputs) -> dict[str, Tensor]:
    return {f"input_{index}": tensor for index, tensor in enumerate(inputs)}


def _read(session: onnxruntime.InferenceSession, binding: onnxruntime.IOBinding) -> Tensor:
    session.run_with_iobinding(binding)
    return torch.from_numpy(binding.copy_outputs_to_cpu()[0])
