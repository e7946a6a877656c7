"""What users can import: a change here is a change of the interface, and belongs in the CHANGELOG."""

import importlib
import inspect
import pkgutil
import subprocess
import sys
from types import ModuleType

import pytest

import intaglio

PUBLIC = [
    "AffineQuantizedObserverBase",
    "BackendConfig",
    "BackendPatternConfig",
    "ConfigError",
    "ConversionError",
    "ConvertCustomConfig",
    "DTypeConfig",
    "DTypeWithConstraints",
    "DeQuantStub",
    "EntropyObserver",
    "FileDescription",
    "FileFormatError",
    "FixedQParamsObserver",
    "FloatFunctional",
    "FuseCustomConfig",
    "FusionWarning",
    "HistogramObserver",
    "InputError",
    "IntaglioError",
    "MSEObserver",
    "MinMaxObserver",
    "MovingAverageMinMaxObserver",
    "MovingAveragePerChannelMinMaxObserver",
    "NoopObserver",
    "NothingQuantizedError",
    "ObservationType",
    "ObserverBase",
    "ObserverWarning",
    "PerAxis",
    "PerChannelMSEObserver",
    "PerChannelMinMaxObserver",
    "PerGroup",
    "PerRow",
    "PerTensor",
    "PercentileObserver",
    "PlaceholderObserver",
    "PrepareCustomConfig",
    "QConfig",
    "QConfigAny",
    "QConfigMapping",
    "QParams",
    "QTensor",
    "QuantStub",
    "QuantType",
    "QuantWrapper",
    "RecordingObserver",
    "ReuseInputObserver",
    "Summary",
    "UniformQuantizationObserverBase",
    "add_quant_dequant",
    "attach_preserved_attrs_to_model",
    "auto_quantize",
    "convert",
    "convert_fx",
    "convert_to_reference_fx",
    "correct_bias",
    "default_affine_fixed_qparams_observer",
    "default_debug_observer",
    "default_debug_qconfig",
    "default_dynamic_qconfig",
    "default_dynamic_quant_observer",
    "default_eval_fn",
    "default_fixed_qparams_range_0to1_observer",
    "default_fixed_qparams_range_neg1to1_observer",
    "default_float_qparams_observer",
    "default_float_qparams_observer_4bit",
    "default_histogram_observer",
    "default_observer",
    "default_per_channel_qconfig",
    "default_per_channel_symmetric_qnnpack_qconfig",
    "default_per_channel_weight_observer",
    "default_placeholder_observer",
    "default_qconfig",
    "default_quint8_weight_qconfig",
    "default_reuse_input_observer",
    "default_reuse_input_qconfig",
    "default_symmetric_fixed_qparams_observer",
    "default_symmetric_qnnpack_qconfig",
    "default_weight_observer",
    "equalize",
    "find_fusable_groups",
    "float16_dynamic_qconfig",
    "float16_static_qconfig",
    "float_qparams_weight_only_qconfig",
    "float_qparams_weight_only_qconfig_4bit",
    "fuse_conv_bn",
    "fuse_conv_bn_relu",
    "fuse_convtranspose_bn",
    "fuse_fx",
    "fuse_linear_bn",
    "fuse_modules",
    "fused_groups",
    "get_default_custom_config_dict",
    "get_default_qconfig",
    "get_default_qconfig_mapping",
    "get_fuser_method",
    "get_observer_state_dict",
    "load",
    "load_observer_state_dict",
    "per_channel_dynamic_qconfig",
    "per_channel_weight_observer_range_neg_127_to_127",
    "per_tensor_dynamic_qconfig",
    "prepare",
    "prepare_fx",
    "propagate_qconfig_",
    "qconfig_equals",
    "quantize",
    "quantize_dynamic",
    "read_recipe",
    "round_weights",
    "save",
    "summary",
    "swap_module",
    "weight_observer_range_neg_127_to_127",
]
PARTS = [
    importlib.import_module(info.name)
    for info in pkgutil.walk_packages(intaglio.__path__, "intaglio.")
    if not info.name.endswith(("._core", ".__main__"))
]


def test_the_public_names_are_these() -> None:
    assert sorted(intaglio.__all__) == PUBLIC


@pytest.mark.parametrize("module", [intaglio, *PARTS], ids=lambda module: module.__name__)
def test_every_module_says_what_it_holds(module: ModuleType) -> None:
    assert module.__doc__, "a module opens with what it holds and what it may import"
    held = [n for n, thing in vars(module).items() if not n.startswith("_") and not inspect.ismodule(thing)]
    if not held:  # a package that is only a docstring
        return
    assert hasattr(module, "__all__"), "names are public because __all__ says so"
    for name in module.__all__:
        thing = getattr(module, name)
        if inspect.isclass(thing) or inspect.isfunction(thing):
            assert inspect.getdoc(thing), name


def test_every_error_is_one_of_ours_and_a_value_error() -> None:
    errors = [getattr(intaglio, name) for name in PUBLIC if name.endswith("Error")]
    assert all(issubclass(error, intaglio.IntaglioError) for error in errors)
    assert all(issubclass(error, ValueError) for error in errors if error is not intaglio.IntaglioError)
    assert issubclass(intaglio.NothingQuantizedError, intaglio.ConversionError)


def test_the_version_is_that_of_the_installed_package() -> None:
    from importlib.metadata import version

    assert intaglio.__version__ == version("intaglio")


def test_importing_it_loads_little_beside_torch() -> None:
    code = (
        "import sys, torch\nbefore = set(sys.modules)\nimport intaglio\n"
        "print(*(name for name in set(sys.modules) - before if not name.startswith('intaglio')))"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    packages = {name.split(".")[0] for name in loaded.stdout.split()} - set(sys.stdlib_module_names)
    assert packages <= {"torch", "safetensors", "numpy"}
    assert not any(name.startswith(("torch._dynamo", "torch._inductor")) for name in loaded.stdout.split())
