"""OpenVINO in int8, two ways (NNCF's static ranges; int8 weights, dynamic activations), and in float32."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from typing import ClassVar

import nncf
import openvino
import torch

from benchmarks.contestants.contestant import Contestant, Program
from benchmarks.workloads import Inputs, Network

__all__ = ["OpenVinoDynamic", "OpenVinoFloat", "OpenVinoStatic"]


class OpenVino(Contestant):
    """A converted model, compiled for the CPU with the latency hint."""

    skips = frozenset({"kernels"})
    compile_options: ClassVar[dict[str, object]] = {}

    def __init__(self, network: Network, threads: int) -> None:
        super().__init__(network, threads)
        nncf.set_log_level(logging.ERROR)
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            converted = openvino.convert_model(network.module, example_input=network.calibration[0])
            self.model = self.quantize(converted)

    def quantize(self, converted: openvino.Model) -> openvino.Model:
        """The model to compile."""
        raise NotImplementedError

    def bind(self, inputs: Inputs) -> Program:
        """Fix the shapes, compile, and share the inputs' memory."""
        model = self.model.clone()
        model.reshape({port: list(tensor.shape) for port, tensor in zip(model.inputs, inputs, strict=True)})
        options = {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            "INFERENCE_NUM_THREADS": self.threads,
            # Its threads must not keep a core from the next contestant in turn; measured no slower.
            "ENABLE_CPU_PINNING": False,
        }
        compiled = openvino.Core().compile_model(model, "CPU", options | self.compile_options)
        request = compiled.create_infer_request()
        for port, tensor in zip(compiled.inputs, inputs, strict=True):
            request.set_tensor(port, openvino.Tensor(tensor.numpy(), shared_memory=True))
        return Program(request.infer, lambda: torch.from_numpy(request.infer()[0].copy()))


class OpenVinoStatic(OpenVino):
    """Post-training quantization with calibrated activation ranges: less work at run time than dynamic."""

    name = "OpenVINO static"
    configuration = (
        "`nncf.quantize` with 8 calibration batches (transformer scheme where it is one), latency hint, one "
        "stream; floating-point parts in bfloat16 where the CPU has it, as is its default"
    )

    def quantize(self, converted: openvino.Model) -> openvino.Model:
        """Activations and weights to int8."""
        batches = [tuple(tensor.numpy() for tensor in batch) for batch in self.network.calibration]
        scheme = nncf.ModelType.TRANSFORMER if self.network.attention else None
        return nncf.quantize(converted, nncf.Dataset(batches), model_type=scheme, subset_size=len(batches))


class OpenVinoFloat(OpenVino):
    """The float model: the best float program that there is on most CPUs."""

    name = "OpenVINO float32"
    configuration = "the converted model as it is, in float32, otherwise the same"
    compile_options: ClassVar[dict[str, object]] = {"INFERENCE_PRECISION_HINT": "f32"}

    def quantize(self, converted: openvino.Model) -> openvino.Model:
        """Nothing."""
        return converted


class OpenVinoDynamic(OpenVino):
    """Compressed weights, with activations quantized on the fly in groups."""

    name = "OpenVINO dynamic"
    configuration = (
        "`nncf.compress_weights` INT8_SYM, dynamic quantization in groups of 384, otherwise the same"
    )
    stays_float = frozenset({"lstm"})
    skips = frozenset({"kernels", "vision"})
    compile_options: ClassVar[dict[str, object]] = {"DYNAMIC_QUANTIZATION_GROUP_SIZE": 384}

    def quantize(self, converted: openvino.Model) -> openvino.Model:
        """Weights to int8."""
        return nncf.compress_weights(converted, mode=nncf.CompressWeightsMode.INT8_SYM)
