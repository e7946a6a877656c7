"""The header of a safetensors file: what it says it holds, checked against the file's length.

Layout: 8 bytes with the header's length (little endian), the header (JSON: dtype, shape and offsets of each
tensor, and `__metadata__`, strings by name), then the tensors' bytes. Reading trusts nothing: all sizes are
checked before a byte is allocated. Types are the format's own names. Format:
https://github.com/huggingface/safetensors. May import strict_json and errors.
"""

from __future__ import annotations

import math
import os
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import BinaryIO

from intaglio.errors import FileFormatError
from intaglio.files.strict_json import Fields, non_negative, parse_json

__all__ = [
    "CHECKSUMS",
    "ITEM_BYTES",
    "LENGTH_BYTES",
    "MAX_HEADER",
    "METADATA",
    "Entry",
    "Header",
    "crc32_of_claims",
    "read_checksums",
    "read_header",
    "read_tensor",
]

MAX_HEADER = 64 * 1024 * 1024
LENGTH_BYTES = 8
METADATA = "__metadata__"
CHECKSUMS = "intaglio.crc32"

ITEM_BYTES = {
    "F64": 8,
    "F32": 4,
    "F16": 2,
    "BF16": 2,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "C64": 8,
    "I64": 8,
    "I32": 4,
    "I16": 2,
    "I8": 1,
    "U64": 8,
    "U32": 4,
    "U16": 2,
    "U8": 1,
    "BOOL": 1,
}


@dataclass(frozen=True)
class Entry:
    """A tensor of a file: its type by the format's name, and its first byte's offset from the header's
    end."""

    name: str
    type: str
    shape: tuple[int, ...]
    begin: int

    @property
    def bytes(self) -> int:
        """Bytes of its elements."""
        return math.prod(self.shape) * ITEM_BYTES[self.type]


@dataclass(frozen=True)
class Header:
    """What a file says it holds: tensors by name, metadata, where data begins."""

    tensors: Mapping[str, Entry]
    metadata: Mapping[str, str]
    data_begin: int
    file_bytes: int


def read_header(file: BinaryIO) -> Header:
    """The header of an open file; `FileFormatError` for whatever is wrong with it."""
    file_bytes = os.fstat(file.fileno()).st_size
    start = file.read(LENGTH_BYTES)
    length = int.from_bytes(start, "little")
    if len(start) < LENGTH_BYTES or length > file_bytes - LENGTH_BYTES:
        raise FileFormatError(
            f"it is no safetensors file, or is cut short: it has {file_bytes} bytes"
            + (f" and claims a header of {length}" if len(start) == LENGTH_BYTES else "")
        )
    if length > MAX_HEADER:
        raise FileFormatError(f"it claims a header of {length} bytes; more than {MAX_HEADER} is not read")
    try:
        text = file.read(length).decode()
    except UnicodeDecodeError as error:
        raise FileFormatError(f"its header is not UTF-8: {error}") from None
    fields = Fields(parse_json(text, "its header"), "its header")
    metadata = fields.texts(METADATA)
    entries = [_read_entry(name, fields.value[name]) for name in fields.value if name != METADATA]
    data_begin = LENGTH_BYTES + length
    _check_offsets(entries, file_bytes - data_begin)
    return Header({entry.name: entry for entry in entries}, metadata, data_begin, file_bytes)


def read_checksums(header: Header) -> dict[str, str]:
    """The table of the tensors' checksums that `save` left."""
    table = parse_json(header.metadata.get(CHECKSUMS, "{}"), "the table of checksums")
    fields = Fields(table, "the table of checksums")
    return {name: fields.text(name) for name in fields.value}


def read_tensor(
    file: BinaryIO, header: Header, checksums: Mapping[str, str], entry: Entry, data: memoryview
) -> None:
    """Read a tensor's bytes into `data`, of their length, and verify the checksum."""
    checksum = crc32_of_claims(entry.type, entry.shape)
    if entry.bytes:
        file.seek(header.data_begin + entry.begin)
        if file.readinto(data) != entry.bytes:  # type: ignore[attr-defined]
            raise FileFormatError(f"tensor {entry.name!r} is cut short: the file changed while it was read")
        checksum = zlib.crc32(data, checksum)
    if checksums.get(entry.name) != f"{checksum:08x}":
        raise FileFormatError(
            f"tensor {entry.name!r} is damaged: its checksum is {checksum:08x}, the file says "
            f"{checksums.get(entry.name, 'nothing')[:16]}; save the model again, or copy the file again"
        )


def crc32_of_claims(type: str, shape: tuple[int, ...]) -> int:
    """CRC-32 of dtype and shape, with which that of the data begins: so that neither can change alone."""
    return zlib.crc32(f"{type}{list(shape)}".encode())


def _read_entry(name: str, value: object) -> Entry:
    what = f"tensor {name[:80]!r}"
    fields = Fields(value, what)
    type = fields.text("dtype")
    if type not in ITEM_BYTES:
        raise FileFormatError(f"{what} has the unknown dtype {type[:40]!r}")
    shape = fields.integers("shape")
    offsets = non_negative(fields.value.get("data_offsets"), f"{what}: 'data_offsets'")
    if len(shape) > 64 or len(offsets) != 2:
        raise FileFormatError(f"{what} has {len(shape)} dimensions and {len(offsets)} offsets")
    entry = Entry(name, type, shape, offsets[0])
    if offsets[1] - offsets[0] != entry.bytes:
        raise FileFormatError(
            f"{what} of shape {shape} and dtype {type} takes {entry.bytes} bytes, "
            f"but has {offsets[1] - offsets[0]} in the file"
        )
    return entry


def _check_offsets(entries: list[Entry], data_bytes: int) -> None:
    end = 0
    for entry in sorted(entries, key=lambda e: (e.begin, e.bytes)):
        if entry.begin != end:
            raise FileFormatError(
                f"tensor {entry.name[:80]!r} begins at byte {entry.begin} instead of {end}: "
                "tensors overlap or leave a gap"
            )
        end += entry.bytes
    if end != data_bytes:
        raise FileFormatError(f"its tensors take {end} bytes, but the file has {data_bytes} for them")
