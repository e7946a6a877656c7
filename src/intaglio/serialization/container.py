"""The container: a safetensors file, read tensor by tensor and written without a second copy of anything.

Layout: 8 bytes with the header's length (little endian), the header (JSON: dtype, shape and offsets of each
tensor, and `__metadata__`, strings by name), then the tensors' bytes. Reading trusts nothing: all sizes are
checked against the file's real length before a byte is allocated. What stands in the metadata is recipe.py's.
Format: https://github.com/huggingface/safetensors. May import strict_json and errors.
"""

from __future__ import annotations

import json
import math
import mmap
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import BinaryIO

import torch
from torch import Tensor

from intaglio.errors import ConversionError, FileFormatError
from intaglio.files.header import (
    CHECKSUMS,
    LENGTH_BYTES,
    MAX_HEADER,
    METADATA,
    Entry,
    crc32_of_claims,
    read_checksums,
    read_header,
    read_tensor,
)

__all__ = ["Header", "TensorEntry", "TensorReader", "TensorSpec", "TensorWriter", "storable"]

_FROM_THE_SYSTEM = 128 * 1024
_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "C64": torch.complex64,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}


@dataclass(frozen=True)
class TensorSpec:
    """Name, dtype and shape of a tensor that a file is to hold."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        """Bytes of its elements."""
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True)
class TensorEntry(TensorSpec):
    """A tensor of a file: the spec, and the offset of its first byte from the end of the header."""

    begin: int


@dataclass(frozen=True)
class Header:
    """What a file says it holds, checked against its length: tensors by name, metadata, where data begins."""

    tensors: Mapping[str, TensorEntry]
    metadata: Mapping[str, str]
    data_begin: int
    file_bytes: int


class TensorReader:
    """The tensors of an open file, read one by one into memory of their own.

    `header` is checked on entry; `read` verifies the checksum that `TensorWriter` left. Raises
    `FileFormatError` for whatever is wrong with the file.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._plain = read_header(file)
        self._checksums = read_checksums(self._plain)
        entries = {e.name: _entry_of(e) for e in self._plain.tensors.values()}
        plain = self._plain
        self.header = Header(entries, plain.metadata, plain.data_begin, plain.file_bytes)

    def read(self, name: str) -> Tensor:
        """The tensor `name`, with nothing else allocated."""
        entry = self.header.tensors[name]
        data = _allocate(entry.bytes)
        view = memoryview(data.numpy())  # type: ignore[arg-type]
        read_tensor(self._file, self._plain, self._checksums, self._plain.tensors[name], view)
        try:
            return data.view(entry.dtype).view(entry.shape)
        except RuntimeError as error:  # an empty tensor whose other sizes are absurd
            raise FileFormatError(f"tensor {name!r} cannot have shape {entry.shape}: {error}") from None


class TensorWriter:
    """Writes a file whose tensors come one by one, in any order.

    The header needs only their specs, so that they need not be in memory together. `write` each tensor
    once, then `finish`.
    """

    def __init__(self, file: BinaryIO, tensors: Iterable[TensorSpec], metadata: Mapping[str, str]) -> None:
        self._file = file
        self._metadata = metadata
        self._entries = _lay_out(tensors)
        self._checksums = dict.fromkeys(self._entries, 0)
        self._missing = set(self._entries)
        self._data_begin = self._write_header()

    def write(self, name: str, tensor: Tensor) -> None:
        """Write the tensor `name`: on the CPU, contiguous, of the dtype and shape announced."""
        entry = self._entries[name]
        assert (tensor.dtype, tuple(tensor.shape)) == (entry.dtype, entry.shape), name
        assert tensor.is_contiguous(), name
        checksum = crc32_of_claims(_NAMES[entry.dtype], entry.shape)
        if entry.bytes:
            data = memoryview(tensor.detach().reshape(-1).view(torch.uint8).numpy())  # type: ignore[arg-type]
            checksum = zlib.crc32(data, checksum)
            self._file.seek(self._data_begin + entry.begin)
            self._file.write(data)
        self._checksums[name] = checksum
        self._missing.discard(name)

    def finish(self) -> tuple[tuple[TensorEntry, ...], int]:
        """Put the checksums, now known, into the header, whose length they do not change.

        Returns what the file holds, and its size.
        """
        assert not self._missing, self._missing
        end = self._data_begin + sum(entry.bytes for entry in self._entries.values())
        self._file.truncate(end)
        data_begin = self._write_header()
        assert data_begin == self._data_begin
        return tuple(self._entries.values()), end

    def _write_header(self) -> int:
        checksums = {name: f"{value:08x}" for name, value in self._checksums.items()}
        metadata = {**self._metadata, CHECKSUMS: json.dumps(checksums, separators=(",", ":"))}
        header: dict[str, object] = {METADATA: metadata}
        for name, entry in self._entries.items():
            offsets = [entry.begin, entry.begin + entry.bytes]
            header[name] = {"dtype": _NAMES[entry.dtype], "shape": entry.shape, "data_offsets": offsets}
        text = json.dumps(header, separators=(",", ":"), allow_nan=False).encode()
        text += b" " * (-len(text) % 8)  # so that the data, largest dtypes first, are aligned
        if len(text) > MAX_HEADER:
            raise ConversionError(
                f"the model's description takes {len(text)} bytes, more than the {MAX_HEADER} a file allows"
            )
        self._file.seek(0)
        self._file.write(len(text).to_bytes(LENGTH_BYTES, "little") + text)
        return LENGTH_BYTES + len(text)


def _entry_of(entry: Entry) -> TensorEntry:
    """An entry with torch's dtype."""
    return TensorEntry(entry.name, _DTYPES[entry.type], entry.shape, entry.begin)


def storable(dtype: torch.dtype) -> bool:
    """Whether a file can hold tensors of `dtype`."""
    return dtype in _NAMES


def _lay_out(tensors: Iterable[TensorSpec]) -> dict[str, TensorEntry]:
    """Offsets without gaps, the largest dtypes first, so that every tensor is aligned to its dtype."""
    entries: dict[str, TensorEntry] = {}
    begin = 0
    for spec in sorted(tensors, key=lambda t: -t.dtype.itemsize):
        assert spec.name not in {*entries, METADATA}, spec.name
        entries[spec.name] = TensorEntry(spec.name, spec.dtype, spec.shape, begin)
        begin += spec.bytes
    return entries


def _allocate(count: int) -> Tensor:
    """Bytes to read into; large ones come from the system and go back to it when the tensor dies.

    The heap would keep the hole that each layer's plain weights leave between packed ones, and a small tensor
    in a hole makes it useless for the next layer: in the end the holes are as large as the model.
    """
    if count < _FROM_THE_SYSTEM:
        return torch.empty(count, dtype=torch.uint8)
    return torch.frombuffer(mmap.mmap(-1, count), dtype=torch.uint8)
