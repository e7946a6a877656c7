"""`QConfigMapping`: which qconfig each module, function and method of a traced model gets.

Legacy names and precedence. What the legacy let pass in silence (a misspelt name, an instance for a class)
is an error. May import qconfig, spelling and errors.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from torch import nn

from intaglio.errors import ConfigError
from intaglio.qconfig import QConfig, QConfigAny, get_default_qat_qconfig, get_default_qconfig
from intaglio.spelling import check_keys, did_you_mean

__all__ = [
    "ObjectType",
    "QConfigMapping",
    "as_qconfig_mapping",
    "get_default_qat_qconfig_mapping",
    "get_default_qconfig_mapping",
]

ObjectType = Callable[..., Any] | str
"""A module class, a function, or the name of a method."""

GLOBAL, OBJECT_TYPE, REGEX, MODULE_NAME, ORDER = (
    "",
    "object_type",
    "module_name_regex",
    "module_name",
    "module_name_object_type_order",
)
KEYS = (GLOBAL, OBJECT_TYPE, REGEX, MODULE_NAME, ORDER)


class QConfigMapping:
    """Which qconfig holds where; None keeps a part in float. What comes later in this list wins:

    `set_global` for all, `set_object_type`, `set_module_name_regex`, `set_module_name` for a module and all
    in it, `set_module_name_object_type_order` for one call. Each gives the mapping back, so that calls chain,
    and raises `ConfigError` for a key of the wrong kind or a value that is neither a `QConfig` nor None.

    >>> from torch import nn
    >>> qconfig = get_default_qconfig()
    >>> mapping = QConfigMapping().set_global(qconfig).set_object_type(nn.Linear, None)
    >>> mapping.qconfig_for(path="head", object_type=nn.Linear, scopes=("",), index=0) is None
    True
    >>> mapping.qconfig_for(path="stem", object_type=nn.Conv2d, scopes=("",), index=0) is qconfig
    True
    """

    def __init__(self) -> None:
        self.global_qconfig: QConfigAny = None
        self.object_type_qconfigs: OrderedDict[ObjectType, QConfigAny] = OrderedDict()
        self.module_name_regex_qconfigs: OrderedDict[str, QConfigAny] = OrderedDict()
        self.module_name_qconfigs: OrderedDict[str, QConfigAny] = OrderedDict()
        self.module_name_object_type_order_qconfigs: OrderedDict[tuple[str, ObjectType, int], QConfigAny] = (
            OrderedDict()
        )

    # ---- What is set -------------------------------------------------------------------------------------

    def set_global(self, global_qconfig: QConfigAny) -> QConfigMapping:
        """What holds where nothing else does."""
        self.global_qconfig = _checked("set_global", global_qconfig)
        return self

    def set_object_type(self, object_type: ObjectType, qconfig: QConfigAny) -> QConfigMapping:
        """For each module of exactly this class, each call of this function, or of the method of this name.

        A function and the method or the module that does the same are three.

        >>> _ = QConfigMapping().set_object_type(nn.ReLU, None).set_object_type("relu", None)
        """
        _check_object_type("set_object_type", object_type)
        self.object_type_qconfigs[object_type] = _checked("set_object_type", qconfig)
        return self

    def set_module_name_regex(self, module_name_regex: str, qconfig: QConfigAny) -> QConfigMapping:
        """For modules whose path a regular expression matches from its beginning; the one set first wins.

        >>> _ = QConfigMapping().set_module_name_regex(r"layers[.][0-9]+[.]norm", None)
        """
        _check_text("set_module_name_regex", "a regular expression", module_name_regex)
        try:
            re.compile(module_name_regex)
        except re.error as error:
            raise ConfigError(
                f"set_module_name_regex got {module_name_regex!r}, which is no regular expression: {error}"
            ) from error
        self.module_name_regex_qconfigs[module_name_regex] = _checked("set_module_name_regex", qconfig)
        return self

    def set_module_name(self, module_name: str, qconfig: QConfigAny) -> QConfigMapping:
        """For the module at this path and all in it, save what has a name of its own in the mapping.

        >>> _ = QConfigMapping().set_module_name("encoder.layers.0", None)
        """
        _check_text("set_module_name", "the path of a module", module_name)
        if not module_name:
            raise ConfigError("set_module_name got '', which is the whole model: use set_global")
        self.module_name_qconfigs[module_name] = _checked("set_module_name", qconfig)
        return self

    def set_module_name_object_type_order(
        self, module_name: str, object_type: ObjectType, index: int, qconfig: QConfigAny
    ) -> QConfigMapping:
        """For one call: number `index`, from 0, of those of `object_type` in the module `module_name`.

        For a function or a method that is the module in whose forward it is called, for a module the one of
        which it is a child; '' is the model itself.

        >>> import torch
        >>> _ = QConfigMapping().set_module_name_object_type_order("blocks.0", torch.add, 1, None)
        """
        where = "set_module_name_object_type_order"
        _check_text(where, "the path of a module", module_name)
        _check_object_type(where, object_type)
        if isinstance(index, bool) or not isinstance(index, int) or index < 0:
            raise ConfigError(f"{where} got the index {index!r}: count the calls from 0")
        self.module_name_object_type_order_qconfigs[module_name, object_type, index] = _checked(
            where, qconfig
        )
        return self

    # ---- What follows from it ----------------------------------------------------------------------------

    def qconfig_for(
        self,
        *,
        path: str,
        object_type: ObjectType | Sequence[ObjectType],
        scopes: Sequence[str],
        index: int,
        caller: type[nn.Module] | None = None,
    ) -> QConfigAny:
        """The qconfig of one node of a graph; None if it stays float.

        Parameters
        ----------
        path : of a module its own; of a function or a method that of the module in whose forward it is called
        object_type : the module's class, the function, or the method's name; or several, of which the first
            that the mapping knows counts
        scopes : the modules around the node, the nearest last: `set_module_name_object_type_order` knows the
            node by that one
        index : which of that one's calls of `object_type` the node is, from 0
        caller : for a function or a method, the class of the module in whose forward it is called: a qconfig
            of that class comes before one of the function

        Examples
        --------
        >>> import torch
        >>> mapping = QConfigMapping().set_global(get_default_qconfig()).set_object_type("add", None)
        >>> mapping.qconfig_for(path="block", object_type=(torch.add, "add"), scopes=("block",), index=0)
        """
        kinds = (object_type,) if callable(object_type) or isinstance(object_type, str) else object_type
        ordered = ((scopes[-1], kind, index) for kind in kinds) if scopes else ()
        for call in ordered:
            if call in self.module_name_object_type_order_qconfigs:
                return self.module_name_object_type_order_qconfigs[call]
        for name in _path_and_ancestors(path):
            if name in self.module_name_qconfigs:
                return self.module_name_qconfigs[name]
        for regex, qconfig in self.module_name_regex_qconfigs.items():
            if re.match(regex, path):
                return qconfig
        for kind in kinds if caller is None else (caller, *kinds):
            if kind in self.object_type_qconfigs:
                return self.object_type_qconfigs[kind]
        return self.global_qconfig

    def qconfigs(self) -> Iterator[QConfigAny]:
        """Every qconfig that the mapping holds."""
        for held in vars(self).values():
            yield from held.values() if isinstance(held, Mapping) else (held,)

    def check_names(self, names: Collection[str]) -> None:
        """Raise `ConfigError` for each path that the mapping names and that is not among `names`.

        >>> QConfigMapping().set_module_name("head", None).check_names(["", "stem", "head"])
        """
        ordered = (name for name, _, _ in self.module_name_object_type_order_qconfigs if name)
        unknown = [n for n in dict.fromkeys((*self.module_name_qconfigs, *ordered)) if n not in names]
        if unknown:
            raise ConfigError(
                "\n".join(
                    f"the QConfigMapping names {name!r}, but the model has no such module"
                    f"{did_you_mean(name, names)}"
                    for name in unknown
                )
            )

    # ---- The legacy's dicts ------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """The mapping as the legacy's dict: lists of tuples by kind of key, the global qconfig under `''`."""
        return {
            GLOBAL: self.global_qconfig,
            OBJECT_TYPE: list(self.object_type_qconfigs.items()),
            REGEX: list(self.module_name_regex_qconfigs.items()),
            MODULE_NAME: list(self.module_name_qconfigs.items()),
            ORDER: [(*key, qconfig) for key, qconfig in self.module_name_object_type_order_qconfigs.items()],
        }

    @classmethod
    def from_dict(cls, qconfig_dict: Mapping[str, Any]) -> QConfigMapping:
        """The mapping that `to_dict` wrote, or that a user did; dicts stand for lists of tuples too.

        >>> list(QConfigMapping.from_dict({"module_name": {"head": None}}).module_name_qconfigs)
        ['head']
        """
        if not isinstance(qconfig_dict, Mapping):
            raise ConfigError(f"from_dict takes a dict, not {type(qconfig_dict).__name__}")
        check_keys("the qconfig dict", qconfig_dict, KEYS)
        mapping = cls().set_global(qconfig_dict.get(GLOBAL))
        for key, setter in (
            (OBJECT_TYPE, mapping.set_object_type),
            (REGEX, mapping.set_module_name_regex),
            (MODULE_NAME, mapping.set_module_name),
        ):
            for row in _rows(qconfig_dict, key, 2):
                setter(*row)
        for row in _rows(qconfig_dict, ORDER, 4):
            mapping.set_module_name_object_type_order(*row)
        return mapping

    def __repr__(self) -> str:
        lines = [f"{type(self).__name__} ("]
        for style, value in vars(self).items():
            held = [f"{k}: {v}" for k, v in value.items()] if isinstance(value, OrderedDict) else [str(value)]
            lines += [f" {style}", *(f"  {line}" for line in held)]
        return "\n".join([*lines, ")"])


def as_qconfig_mapping(value: QConfigMapping | Mapping[str, Any]) -> QConfigMapping:
    """The mapping that a user passed, as it is or as a dict; `ConfigError` for anything else.

    >>> as_qconfig_mapping({"": get_default_qconfig()}).global_qconfig == get_default_qconfig()
    True
    """
    if isinstance(value, QConfigMapping):
        return value
    if isinstance(value, QConfig):
        raise ConfigError(
            "a QConfigMapping is wanted, not a QConfig: pass QConfigMapping().set_global(qconfig)"
        )
    if not isinstance(value, Mapping):
        raise ConfigError(
            f"a QConfigMapping is wanted, not {type(value).__module__}.{type(value).__name__}: pass "
            "intaglio.get_default_qconfig_mapping(), or an intaglio.QConfigMapping of your own"
        )
    return QConfigMapping.from_dict(value)


def get_default_qconfig_mapping(backend: str = "x86", version: int = 0) -> QConfigMapping:
    """`get_default_qconfig(backend, version)` for everything.

    The legacy's exceptions for single ops are not needed: transposed convolutions have weights per channel,
    norms keep theirs in float whatever the qconfig says, and outputs of a fixed range need no observer.
    Raises `ConfigError` for another backend or version.

    Parameters
    ----------
    backend : {'x86', 'fbgemm', 'qnnpack', 'onednn'}
    version : {0}

    Examples
    --------
    >>> get_default_qconfig_mapping("qnnpack").global_qconfig == get_default_qconfig("qnnpack")
    True
    """
    return QConfigMapping().set_global(get_default_qconfig(backend, version))


def get_default_qat_qconfig_mapping(backend: str = "x86", version: int = 1) -> QConfigMapping:
    """`get_default_qat_qconfig(backend, version)` for everything: for `prepare_qat_fx`.

    Embeddings are trained with 8 bits for each row. Raises `ConfigError` for another backend or version.

    Parameters
    ----------
    backend : {'x86', 'fbgemm', 'qnnpack', 'onednn'}
    version : {0, 1}

    Examples
    --------
    >>> get_default_qat_qconfig_mapping().global_qconfig == get_default_qat_qconfig("x86")
    True
    """
    return QConfigMapping().set_global(get_default_qat_qconfig(backend, version))


def _path_and_ancestors(path: str) -> Iterator[str]:
    while path:
        yield path
        path = path.rpartition(".")[0]


def _rows(qconfig_dict: Mapping[str, Any], key: str, width: int) -> Iterator[Sequence[Any]]:
    """The entries of one kind, each as a key of one or more parts and a qconfig."""
    held = qconfig_dict.get(key, ())
    if isinstance(held, Mapping):
        held = [(*(k if width > 2 and isinstance(k, tuple) else (k,)), v) for k, v in held.items()]
    if isinstance(held, (str, QConfig)) or not isinstance(held, Iterable):
        raise ConfigError(f"{key!r} of the qconfig dict must be a list of tuples or a dict, not {held!r}")
    for row in held:
        if not isinstance(row, (tuple, list)) or isinstance(row, QConfig) or len(row) != width:
            form = "(key, qconfig)" if width == 2 else "(module_name, object_type, index, qconfig)"
            raise ConfigError(f"{key!r} of the qconfig dict holds {row!r}: write {form}")
        yield row


def _checked(setter: str, qconfig: QConfigAny) -> QConfigAny:
    if qconfig is None or isinstance(qconfig, QConfig):
        return qconfig
    raise ConfigError(
        f"{setter} got {type(qconfig).__module__}.{type(qconfig).__name__}: use an intaglio.QConfig, for "
        "instance intaglio.get_default_qconfig(), or None to keep the part in float"
    )


def _check_text(setter: str, wanted: str, value: str) -> None:
    if not isinstance(value, str):
        raise ConfigError(f"{setter} takes {wanted} as a str, not {value!r}")


def _check_object_type(setter: str, object_type: ObjectType) -> None:
    if isinstance(object_type, nn.Module):
        name = type(object_type).__name__
        raise ConfigError(
            f"{setter} got a {name} that is made already: pass the class, {name}, or use set_module_name"
        )
    if isinstance(object_type, str):
        if not object_type.isidentifier():
            raise ConfigError(
                f"{setter} got {object_type!r}, which is no name of a method: pass a class or a function "
                "itself, or the bare name of a method, for instance 'add'"
            )
    elif not callable(object_type):
        raise ConfigError(
            f"{setter} takes a module class, a function or the name of a method, not {object_type!r}"
        )
