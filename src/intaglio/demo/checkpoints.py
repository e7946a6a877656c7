"""Checkpoints of other people's models: read without running code, and refused in words.

Imports: torch. Neighbours: each model of the demo reads its weights with it.
"""

from __future__ import annotations

import math
import pickle
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from intaglio.demo.errors import CarrierError

__all__ = ["fill_in_order", "fill_model", "read_checkpoint", "read_storages"]


def read_checkpoint(path: Path, name: str) -> Any:
    """What `torch.save` wrote to `path`: tensors and plain containers; `name` is the model's, for errors.

    Raises
    ------
    CarrierError
        the file is missing or damaged.
    """
    try:
        return torch.load(path, weights_only=True, map_location="cpu")
    except (OSError, RuntimeError, KeyError, EOFError, pickle.UnpicklingError) as error:
        raise CarrierError(f"{path}: the weights of {name} cannot be read: {error}") from error


def fill_model(model: nn.Module, state: Mapping[str, Tensor], path: Path, name: str) -> None:
    """Load `state` into `model`; `CarrierError` where it is another network's."""
    try:
        model.load_state_dict(dict(state))
    except RuntimeError as error:
        raise CarrierError(f"{path}: these are not the weights of {name}: {error}") from error


def fill_in_order(model: nn.Module, state: Mapping[str, Tensor], path: Path, name: str) -> None:
    """Load `state` by position: for a checkpoint in the order of the model, under other names."""
    names = list(model.state_dict())
    if len(names) != len(state):
        raise CarrierError(f"{path}: {len(state)} tensors found, {name} has {len(names)}")
    fill_model(model, dict(zip(names, state.values(), strict=True)), path, name)


def read_storages(path: Path, first: int, shapes: Sequence[tuple[int, ...]], name: str) -> list[Tensor]:
    """The float32 tensors of a TorchScript archive, from its storage number `first` on.

    The bytes alone are read: neither the program nor the pickle in the archive is looked at, so what each
    storage is must be known beforehand.

    Raises
    ------
    CarrierError
        the file is missing, damaged, or its storages have other sizes.
    """
    tensors = []
    try:
        with zipfile.ZipFile(path) as archive:
            root = archive.namelist()[0].partition("/")[0]
            for number, shape in enumerate(shapes, start=first):
                data = archive.read(f"{root}/data/{number}")
                if len(data) != 4 * math.prod(shape):
                    raise CarrierError(
                        f"{path}: these are not the weights of {name}: "
                        f"storage {number} has {len(data)} bytes and cannot be {shape} float32"
                    )
                tensors.append(torch.frombuffer(bytearray(data), dtype=torch.float32).view(shape))
    except (OSError, KeyError, IndexError, zipfile.BadZipFile) as error:
        raise CarrierError(f"{path}: the weights of {name} cannot be read: {error}") from error
    return tensors
