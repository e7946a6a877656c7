"""What a user says of a model beside its qconfigs: `PrepareCustomConfig` and its two smaller kin.

Legacy names, attributes and dicts. May import checking, backend_config, qconfig_mapping, quant_type and
errors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import nn

from intaglio.backend_config import BackendConfig, as_backend_config
from intaglio.errors import ConfigError
from intaglio.fx.checking import (
    check_class,
    check_name,
    checked_dict,
    checked_indexes,
    checked_list,
    checked_names,
    read_classes,
)
from intaglio.qconfig_mapping import QConfigMapping, as_qconfig_mapping
from intaglio.quant_type import QuantType, parse_quant_type

__all__ = [
    "ConvertCustomConfig",
    "FuseCustomConfig",
    "PrepareCustomConfig",
    "StandaloneModuleConfigEntry",
    "as_convert_custom_config",
    "as_fuse_custom_config",
    "as_prepare_custom_config",
]

ModuleClass = type[nn.Module]
ClassMapping = dict[QuantType, dict[ModuleClass, ModuleClass]]

STANDALONE_NAME = "standalone_module_name"
STANDALONE_CLASS = "standalone_module_class"
FLOAT_TO_OBSERVED = "float_to_observed_custom_module_class"
OBSERVED_TO_QUANTIZED = "observed_to_quantized_custom_module_class"
PRESERVED = "preserved_attributes"
LISTS = {
    "non_traceable_module_names": "non_traceable_module_name",
    "non_traceable_module_classes": "non_traceable_module_class",
    "input_quantized_indexes": "input_quantized_idxs",
    "output_quantized_indexes": "output_quantized_idxs",
    "preserved_attributes": PRESERVED,
}
"""Attributes of a `PrepareCustomConfig` that are lists, and their keys in dicts."""


@dataclass
class StandaloneModuleConfigEntry:
    """How a module is prepared that is a model of its own within the model; None is what holds around it."""

    qconfig_mapping: QConfigMapping | None
    example_inputs: tuple[Any, ...]
    prepare_custom_config: PrepareCustomConfig | None
    backend_config: BackendConfig | None


class _Shown:
    """A config that prints what is set."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({ {key: value for key, value in vars(self).items() if value} })"


class PrepareCustomConfig(_Shown):
    """What `prepare_fx` is told of a model beside its qconfigs.

    Each setter gives the config back, so that calls chain, and raises `ConfigError` for arguments of the
    wrong kind. Where a qconfig mapping, a custom config or a backend config is taken, its dict is too.

    >>> config = PrepareCustomConfig().set_non_traceable_module_names(["decoder"])
    >>> config.set_preserved_attributes(["vocabulary"])
    PrepareCustomConfig({'non_traceable_module_names': ['decoder'], 'preserved_attributes': ['vocabulary']})
    """

    def __init__(self) -> None:
        self.standalone_module_names: dict[str, StandaloneModuleConfigEntry] = {}
        self.standalone_module_classes: dict[ModuleClass, StandaloneModuleConfigEntry] = {}
        self.float_to_observed_mapping: ClassMapping = {}
        self.non_traceable_module_names: list[str] = []
        self.non_traceable_module_classes: list[ModuleClass] = []
        self.input_quantized_indexes: list[int] = []
        self.output_quantized_indexes: list[int] = []
        self.preserved_attributes: list[str] = []

    def set_standalone_module_name(
        self,
        module_name: str,
        qconfig_mapping: QConfigMapping | Mapping[str, Any] | None,
        example_inputs: tuple[Any, ...],
        prepare_custom_config: PrepareCustomConfig | Mapping[str, Any] | None,
        backend_config: BackendConfig | Mapping[str, Any] | None,
    ) -> PrepareCustomConfig:
        """Prepare the module at this path alone, as a model of its own: from outside it is one op.

        Parameters
        ----------
        module_name : the module's path in the model
        qconfig_mapping : None is that of the whole model
        example_inputs : the positional arguments of one call
        prepare_custom_config : None is an empty one
        backend_config : None is that of the whole model
        """
        check_name("set_standalone_module_name", module_name)
        self.standalone_module_names[module_name] = _entry(
            "set_standalone_module_name",
            qconfig_mapping,
            example_inputs,
            prepare_custom_config,
            backend_config,
        )
        return self

    def set_standalone_module_class(
        self,
        module_class: ModuleClass,
        qconfig_mapping: QConfigMapping | Mapping[str, Any] | None,
        example_inputs: tuple[Any, ...],
        prepare_custom_config: PrepareCustomConfig | Mapping[str, Any] | None,
        backend_config: BackendConfig | Mapping[str, Any] | None,
    ) -> PrepareCustomConfig:
        """Prepare each module of this class alone; parameters as in `set_standalone_module_name`."""
        check_class("set_standalone_module_class", module_class)
        self.standalone_module_classes[module_class] = _entry(
            "set_standalone_module_class",
            qconfig_mapping,
            example_inputs,
            prepare_custom_config,
            backend_config,
        )
        return self

    def set_float_to_observed_mapping(
        self,
        float_class: ModuleClass,
        observed_class: ModuleClass,
        quant_type: QuantType | str = QuantType.STATIC,
    ) -> PrepareCustomConfig:
        """Replace modules of `float_class` by `observed_class.from_float(module)`; for static quantization.

        >>> class Observed(nn.Linear):
        ...     @classmethod
        ...     def from_float(cls, module):
        ...         return cls(module.in_features, module.out_features)
        >>> config = PrepareCustomConfig().set_float_to_observed_mapping(nn.Linear, Observed, "static")
        """
        where = "set_float_to_observed_mapping"
        kind = parse_quant_type(quant_type)
        if kind is not QuantType.STATIC:
            raise ConfigError(
                f"{where} got {kind.name.lower()!r}: only static quantization observes a module of the "
                "user's; use 'static'"
            )
        check_class(where, float_class)
        check_class(where, observed_class, method="from_float")
        self.float_to_observed_mapping.setdefault(kind, {})[float_class] = observed_class
        return self

    def set_non_traceable_module_names(self, module_names: Sequence[str]) -> PrepareCustomConfig:
        """The paths of modules whose forward is not traced; each stays whole and float."""
        self.non_traceable_module_names = checked_names("set_non_traceable_module_names", module_names)
        return self

    def set_non_traceable_module_classes(self, module_classes: Sequence[ModuleClass]) -> PrepareCustomConfig:
        """The classes of modules whose forward is not traced; each such module stays whole and float."""
        where = "set_non_traceable_module_classes"
        found = checked_list(where, "classes of modules", module_classes)
        for kind in found:
            check_class(where, kind)
        self.non_traceable_module_classes = found
        return self

    def set_input_quantized_indexes(self, indexes: Sequence[int]) -> PrepareCustomConfig:
        """Which positional inputs of the model come quantized, from 0; the others are float."""
        self.input_quantized_indexes = checked_indexes("set_input_quantized_indexes", indexes)
        return self

    def set_output_quantized_indexes(self, indexes: Sequence[int]) -> PrepareCustomConfig:
        """Which outputs of the model are left quantized, from 0; the others are float."""
        self.output_quantized_indexes = checked_indexes("set_output_quantized_indexes", indexes)
        return self

    def set_preserved_attributes(self, attributes: Sequence[str]) -> PrepareCustomConfig:
        """The attributes that the prepared model has too, though its forward does not use them."""
        self.preserved_attributes = checked_names("set_preserved_attributes", attributes)
        return self

    @classmethod
    def from_dict(cls, prepare_custom_config_dict: Mapping[str, Any]) -> PrepareCustomConfig:
        """The config that `to_dict` wrote, or that a user did by the legacy's keys.

        >>> PrepareCustomConfig.from_dict({"input_quantized_idxs": [0]}).input_quantized_indexes
        [0]
        """
        keys = (STANDALONE_NAME, STANDALONE_CLASS, FLOAT_TO_OBSERVED, *LISTS.values())
        found = checked_dict(cls, prepare_custom_config_dict, keys)
        config = cls()
        for key, setter in (
            (STANDALONE_NAME, config.set_standalone_module_name),
            (STANDALONE_CLASS, config.set_standalone_module_class),
        ):
            for row in found.get(key, ()):
                if not isinstance(row, (tuple, list)) or len(row) != 5:
                    raise ConfigError(
                        f"{key!r} holds {row!r}: write (module, qconfig_mapping, example_inputs, "
                        "prepare_custom_config, backend_config)"
                    )
                setter(*row)
        read_classes(found, FLOAT_TO_OBSERVED, config.set_float_to_observed_mapping)
        for attribute, key in LISTS.items():
            getattr(config, f"set_{attribute}")(found.get(key, ()))
        return config

    def to_dict(self) -> dict[str, Any]:
        """What is set, by the legacy's keys."""
        held: dict[str, Any] = {
            STANDALONE_NAME: [_row(name, entry) for name, entry in self.standalone_module_names.items()],
            STANDALONE_CLASS: [_row(kind, entry) for kind, entry in self.standalone_module_classes.items()],
            FLOAT_TO_OBSERVED: _written_classes(self.float_to_observed_mapping),
            **{key: getattr(self, attribute) for attribute, key in LISTS.items()},
        }
        return {key: value for key, value in held.items() if value}


class ConvertCustomConfig(_Shown):
    """What `convert_fx` is told of a model; setters as in `PrepareCustomConfig`.

    >>> ConvertCustomConfig().set_preserved_attributes(["vocabulary"]).to_dict()
    {'preserved_attributes': ['vocabulary']}
    """

    def __init__(self) -> None:
        self.observed_to_quantized_mapping: ClassMapping = {}
        self.preserved_attributes: list[str] = []

    def set_observed_to_quantized_mapping(
        self,
        observed_class: ModuleClass,
        quantized_class: ModuleClass,
        quant_type: QuantType | str = QuantType.STATIC,
    ) -> ConvertCustomConfig:
        """Replace modules of `observed_class` by `quantized_class.from_observed(module)`."""
        where = "set_observed_to_quantized_mapping"
        check_class(where, observed_class)
        check_class(where, quantized_class, method="from_observed")
        held = self.observed_to_quantized_mapping.setdefault(parse_quant_type(quant_type), {})
        held[observed_class] = quantized_class
        return self

    def set_preserved_attributes(self, attributes: Sequence[str]) -> ConvertCustomConfig:
        """The attributes that the converted model has too, though its forward does not use them."""
        self.preserved_attributes = checked_names("set_preserved_attributes", attributes)
        return self

    @classmethod
    def from_dict(cls, convert_custom_config_dict: Mapping[str, Any]) -> ConvertCustomConfig:
        """The config that `to_dict` wrote, or that a user did by the legacy's keys."""
        found = checked_dict(cls, convert_custom_config_dict, (OBSERVED_TO_QUANTIZED, PRESERVED))
        config = cls().set_preserved_attributes(found.get(PRESERVED, ()))
        read_classes(found, OBSERVED_TO_QUANTIZED, config.set_observed_to_quantized_mapping)
        return config

    def to_dict(self) -> dict[str, Any]:
        """What is set, by the legacy's keys."""
        held: dict[str, Any] = {
            OBSERVED_TO_QUANTIZED: _written_classes(self.observed_to_quantized_mapping),
            PRESERVED: self.preserved_attributes,
        }
        return {key: value for key, value in held.items() if value}


class FuseCustomConfig(_Shown):
    """What `fuse_fx` is told of a model.

    >>> FuseCustomConfig.from_dict({"preserved_attributes": ["vocabulary"]}).preserved_attributes
    ['vocabulary']
    """

    def __init__(self) -> None:
        self.preserved_attributes: list[str] = []

    def set_preserved_attributes(self, attributes: Sequence[str]) -> FuseCustomConfig:
        """The attributes that the fused model has too, though its forward does not use them."""
        self.preserved_attributes = checked_names("set_preserved_attributes", attributes)
        return self

    @classmethod
    def from_dict(cls, fuse_custom_config_dict: Mapping[str, Any]) -> FuseCustomConfig:
        """The config that `to_dict` wrote."""
        found = checked_dict(cls, fuse_custom_config_dict, (PRESERVED,))
        return cls().set_preserved_attributes(found.get(PRESERVED, ()))

    def to_dict(self) -> dict[str, Any]:
        """What is set, by the legacy's keys."""
        return {PRESERVED: self.preserved_attributes} if self.preserved_attributes else {}


Config = TypeVar("Config", PrepareCustomConfig, ConvertCustomConfig, FuseCustomConfig)


def as_prepare_custom_config(value: PrepareCustomConfig | Mapping[str, Any] | None) -> PrepareCustomConfig:
    """The config that a user passed, as it is or as a dict; an empty one for None; else `ConfigError`."""
    return _as_config(PrepareCustomConfig, value)


def as_convert_custom_config(value: ConvertCustomConfig | Mapping[str, Any] | None) -> ConvertCustomConfig:
    """The config that a user passed, as it is or as a dict; an empty one for None; else `ConfigError`."""
    return _as_config(ConvertCustomConfig, value)


def as_fuse_custom_config(value: FuseCustomConfig | Mapping[str, Any] | None) -> FuseCustomConfig:
    """The config that a user passed, as it is or as a dict; an empty one for None; else `ConfigError`."""
    return _as_config(FuseCustomConfig, value)


def _as_config(kind: type[Config], value: Config | Mapping[str, Any] | None) -> Config:
    if isinstance(value, kind):
        return value
    if value is not None and not isinstance(value, Mapping):
        raise ConfigError(
            f"an intaglio.{kind.__name__} is wanted, not {type(value).__module__}.{type(value).__name__}: "
            "make one, or pass its dict or None"
        )
    return kind.from_dict(value or {})


def _entry(
    where: str, mapping: Any, example_inputs: Any, custom_config: Any, backend_config: Any
) -> StandaloneModuleConfigEntry:
    if not isinstance(example_inputs, (tuple, list)):
        raise ConfigError(
            f"{where} got example_inputs of {type(example_inputs).__name__}: pass the tuple of the "
            "positional arguments of one call"
        )
    return StandaloneModuleConfigEntry(
        None if mapping is None else as_qconfig_mapping(mapping),
        tuple(example_inputs),
        None if custom_config is None else as_prepare_custom_config(custom_config),
        as_backend_config(backend_config),
    )


def _row(key: Any, entry: StandaloneModuleConfigEntry) -> tuple[Any, ...]:
    mapping, custom = entry.qconfig_mapping, entry.prepare_custom_config
    return (
        key,
        None if mapping is None else mapping.to_dict(),
        entry.example_inputs,
        None if custom is None else custom.to_dict(),
        entry.backend_config,
    )


def _written_classes(mapping: ClassMapping) -> dict[str, dict[ModuleClass, ModuleClass]]:
    return {kind.name.lower(): dict(classes) for kind, classes in mapping.items()}
