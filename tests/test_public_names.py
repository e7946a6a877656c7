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
    "FakeQuantize",
    "FakeQuantizeBase",
    "FileDescription",
    "FileFormatError",
    "FixedQParamsFakeQuantize",
    "FixedQParamsObserver",
    "FloatFunctional",
    "FreezeSchedule",
    "FuseCustomConfig",
    "FusedMovingAvgObsFakeQuantize",
    "FusionWarning",
    "HistogramObserver",
    "InputError",
    "IntaglioError",
    "LearnedFakeQuantize",
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
    "Program",
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
    "TrainingError",
    "TrainingWarning",
    "UniformQuantizationObserverBase",
    "add_quant_dequant",
    "attach_preserved_attrs_to_model",
    "auto_quantize",
    "check_training",
    "compile",
    "convert",
    "convert_fx",
    "convert_to_reference_fx",
    "correct_bias",
    "default_activation_only_qconfig",
    "default_affine_fixed_qparams_fake_quant",
    "default_affine_fixed_qparams_observer",
    "default_debug_observer",
    "default_debug_qconfig",
    "default_dynamic_fake_quant",
    "default_dynamic_qat_qconfig",
    "default_dynamic_qconfig",
    "default_dynamic_quant_observer",
    "default_embedding_fake_quant",
    "default_embedding_fake_quant_4bit",
    "default_embedding_qat_qconfig",
    "default_embedding_qat_qconfig_4bit",
    "default_eval_fn",
    "default_fake_quant",
    "default_fixed_qparams_range_0to1_fake_quant",
    "default_fixed_qparams_range_0to1_observer",
    "default_fixed_qparams_range_neg1to1_fake_quant",
    "default_fixed_qparams_range_neg1to1_observer",
    "default_float_qparams_observer",
    "default_float_qparams_observer_4bit",
    "default_fused_act_fake_quant",
    "default_fused_per_channel_wt_fake_quant",
    "default_fused_wt_fake_quant",
    "default_histogram_fake_quant",
    "default_histogram_observer",
    "default_observer",
    "default_per_channel_qconfig",
    "default_per_channel_symmetric_qnnpack_qat_qconfig",
    "default_per_channel_symmetric_qnnpack_qconfig",
    "default_per_channel_weight_fake_quant",
    "default_per_channel_weight_observer",
    "default_placeholder_observer",
    "default_qat_qconfig",
    "default_qat_qconfig_v2",
    "default_qconfig",
    "default_quint8_weight_qconfig",
    "default_reuse_input_observer",
    "default_reuse_input_qconfig",
    "default_symmetric_fixed_qparams_fake_quant",
    "default_symmetric_fixed_qparams_observer",
    "default_symmetric_qnnpack_qat_qconfig",
    "default_symmetric_qnnpack_qconfig",
    "default_weight_fake_quant",
    "default_weight_observer",
    "default_weight_only_qconfig",
    "disable_fake_quant",
    "disable_observer",
    "enable_fake_quant",
    "enable_observer",
    "equalize",
    "find_fusable_groups",
    "float16_dynamic_qconfig",
    "float16_static_qconfig",
    "float_qparams_weight_only_qconfig",
    "float_qparams_weight_only_qconfig_4bit",
    "freeze_bn_stats",
    "fuse_conv_bn",
    "fuse_conv_bn_relu",
    "fuse_convtranspose_bn",
    "fuse_fx",
    "fuse_linear_bn",
    "fuse_modules",
    "fuse_modules_qat",
    "fused_groups",
    "fused_per_channel_wt_fake_quant_range_neg_127_to_127",
    "fused_wt_fake_quant_range_neg_127_to_127",
    "get_default_custom_config_dict",
    "get_default_qat_qconfig",
    "get_default_qat_qconfig_mapping",
    "get_default_qconfig",
    "get_default_qconfig_mapping",
    "get_fuser_method",
    "get_observer_state_dict",
    "learned_qat_qconfig",
    "load",
    "load_observer_state_dict",
    "per_channel_dynamic_qconfig",
    "per_channel_weight_observer_range_neg_127_to_127",
    "per_group_dynamic_qconfig",
    "per_tensor_dynamic_qconfig",
    "prepare",
    "prepare_fx",
    "prepare_qat",
    "prepare_qat_fx",
    "propagate_qconfig_",
    "qconfig_equals",
    "quantize",
    "quantize_dynamic",
    "quantize_qat",
    "read_recipe",
    "reestimate_batch_norm",
    "round_weights",
    "save",
    "summary",
    "swap_module",
    "synchronize_observers",
    "update_bn_stats",
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
        "import sys, torch\nbefore = set(sys.modules)\nimport intaglio\nintaglio.convert\n"
        "print(*(name for name in set(sys.modules) - before if not name.startswith('intaglio')))"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    packages = {name.split(".")[0] for name in loaded.stdout.split()} - set(sys.stdlib_module_names)
    assert packages <= {"torch", "safetensors", "numpy"}
    assert not any(name.startswith(("torch._dynamo", "torch._inductor")) for name in loaded.stdout.split())
