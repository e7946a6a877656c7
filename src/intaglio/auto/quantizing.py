"""`auto_quantize`: a quantized model in one call. May import data, progress, quantize_fx, eager and below."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import nn

from intaglio.auto.data import CalibrationData, CallableData, Calls, read_data
from intaglio.auto.progress import say, track
from intaglio.eager.dynamic_quantization import quantize_dynamic
from intaglio.eager.static_planning import is_dynamic
from intaglio.errors import ConfigError
from intaglio.qconfig import default_dynamic_qconfig
from intaglio.qconfig_mapping import QConfigMapping, as_qconfig_mapping, get_default_qconfig_mapping
from intaglio.quantize_fx import SCORES, check_float_model, convert_fx, graph_record, prepare_fx

__all__ = ["auto_quantize"]

Evaluate = Callable[[nn.Module], float]


def auto_quantize(
    model: nn.Module,
    calibration_data: CalibrationData | None = None,
    *,
    method: Literal["auto", "static", "dynamic"] = "auto",
    example_inputs: Any = None,
    evaluate: Evaluate | None = None,
    qconfig_mapping: QConfigMapping | Mapping[str, Any] | None = None,
    max_batches: int | None = None,
    strict: bool = False,
    progress: bool = True,
) -> nn.Module:
    """Give the quantized model of a float one: traced, calibrated and converted.

    Parameters
    ----------
    model : nn.Module
        A float model on the CPU, in eval mode; it is left as it is.
    calibration_data : iterable of batches, or function, optional
        What the model will meet, about a hundred samples: a DataLoader or any iterable of tensors, of tuples
        of arguments (labels at their end, one for each sample, are dropped), or of dicts of named ones; or a
        function that runs the model it is given on data of its own. Only dynamic quantization can do without.
    method : {'auto', 'static', 'dynamic'}
        'static' fixes the ranges of activations by what the data shows; 'dynamic' takes those of each row as
        it comes; 'auto' decides layer by layer: convolutions and what is between them are static, layers
        among values that stay float (a transformer's, a recurrent network's) dynamic.
    example_inputs : tuple of arguments, dict of named arguments, or a tensor, optional
        What the model is traced on; by default the first batch.
    evaluate : function of a model, optional
        Gives a score, the higher the better. Scores before and after are in `intaglio.summary`; where 'auto'
        loses, 'dynamic' is tried as well and the better of the two given.
    qconfig_mapping : QConfigMapping or dict, optional
        Instead of the defaults of `method`, which is then 'auto'.
    max_batches : int, optional
        Stop calibration after so many.
    strict : bool
        Raise `ConversionError` for what cannot be traced instead of leaving it as it is.
    progress : bool
        Draw a bar and a closing line on the standard error, if that is a terminal.

    Returns
    -------
    nn.Module
        The quantized model, which runs, saves (`intaglio.save`) and tells what was done (`intaglio.summary`).

    Raises
    ------
    ConfigError
        The data is empty, or of a structure that the model does not take; arguments make no sense.
    ConversionError, NothingQuantizedError
        As `prepare_fx` and `convert_fx`.

    Examples
    --------
    >>> import torch
    >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU()).eval()
    >>> quantized = auto_quantize(model, [torch.randn(4, 3, 16, 16) for _ in range(4)])
    >>> quantized(torch.randn(2, 3, 16, 16)).shape
    torch.Size([2, 8, 14, 14])
    """
    if method not in ("auto", "static", "dynamic"):
        raise ConfigError(f"method is {method!r}: use 'auto', 'static' or 'dynamic'")
    if max_batches is not None and max_batches < 1:
        raise ConfigError(f"max_batches is {max_batches}: calibration needs at least one")
    if qconfig_mapping is not None and method != "auto":
        raise ConfigError(
            "pass a qconfig_mapping or a method, not both: the mapping says what the method would"
        )
    check_float_model(model, "auto_quantize")
    mapping = _mapping_of(method if calibration_data is not None else _without_data(method), qconfig_mapping)
    needs_data = any(qconfig is not None and not is_dynamic(qconfig) for qconfig in mapping.qconfigs())
    if calibration_data is None and needs_data:
        raise ConfigError("static quantization needs calibration_data: pass batches, or method='dynamic'")
    if calibration_data is None and example_inputs is None:
        return _scored(quantize_dynamic(model), model, evaluate)
    data = None if calibration_data is None else read_data(model, calibration_data, max_batches)
    example = data.first if example_inputs is None and data is not None else example_inputs
    between = "static" if method == "static" else "dynamic"
    prepared = prepare_fx(model, mapping, example, strict=strict, between_floats=between)  # type: ignore[arg-type]
    if data is not None and needs_data:
        _calibrate(prepared, data, progress)
    quantized = _scored(convert_fx(prepared), model, evaluate)
    if method == "auto" and qconfig_mapping is None and _has_lost(quantized):
        quantized = _better(quantized, _dynamic(model, example, strict), evaluate)
    say(_closing_line(quantized), show=progress)
    return quantized


def _without_data(method: str) -> str:
    return "dynamic" if method == "auto" else method


def _mapping_of(method: str, given: QConfigMapping | Mapping[str, Any] | None) -> QConfigMapping:
    if given is not None:
        return as_qconfig_mapping(given)
    if method == "dynamic":
        return QConfigMapping().set_global(default_dynamic_qconfig)
    return get_default_qconfig_mapping()


def _calibrate(prepared: nn.Module, data: Calls | CallableData, progress: bool) -> None:
    if isinstance(data, CallableData):
        data.function(prepared)
        return
    for number, call in enumerate(track(data, data.count, "calibrating", show=progress)):
        data.run(prepared, call, number)


# ---- Scores --------------------------------------------------------------------------------------------


def _scored(quantized: nn.Module, model: nn.Module, evaluate: Evaluate | None) -> nn.Module:
    if evaluate is not None:
        with torch.no_grad():
            scores = float(evaluate(model)), float(evaluate(quantized))
        object.__setattr__(quantized, SCORES, scores)
    return quantized


def _scores(model: nn.Module) -> tuple[float, float] | None:
    found: tuple[float, float] | None = vars(model).get(SCORES)
    return found


def _has_lost(quantized: nn.Module) -> bool:
    scores = _scores(quantized)
    return scores is not None and scores[1] < scores[0]


def _dynamic(model: nn.Module, example: Any, strict: bool) -> nn.Module | None:
    return convert_fx(prepare_fx(model, _mapping_of("dynamic", None), example, strict=strict))


def _better(quantized: nn.Module, other: nn.Module | None, evaluate: Evaluate | None) -> nn.Module:
    scores = _scores(quantized)
    assert other is not None
    assert evaluate is not None
    assert scores is not None
    with torch.no_grad():
        score = float(evaluate(other))
    if score <= scores[1]:
        return quantized
    object.__setattr__(other, SCORES, (scores[0], score))
    return other


def _closing_line(quantized: nn.Module) -> str:
    record, scores = graph_record(quantized), _scores(quantized)
    parts = []
    if record is not None and record.macs:
        parts.append(f"{100 * record.int8_macs / record.macs:.1f} % of the multiply-adds in int8")
    if record is not None and record.left:
        parts.append(f"{len(record.left)} places left to Python")
    if scores is not None:
        parts.append(f"score {scores[0]:.4g} -> {scores[1]:.4g}")
    return "; ".join([*parts, "intaglio.summary(model) has the rest"])
