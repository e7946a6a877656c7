"""Takes saved files apart and puts them together again, with checksums that agree."""

import json
import struct
import zlib
from collections.abc import Callable
from typing import Any

__all__ = ["forge", "put_together", "take_apart", "with_recipe"]


def take_apart(data: bytes) -> tuple[dict[str, Any], bytes]:
    """The header of a file, and its tensors' bytes."""
    length = struct.unpack("<Q", data[:8])[0]
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def put_together(header: dict[str, Any] | bytes, tensors: bytes) -> bytes:
    """A file of that header and those bytes."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + tensors


def forge(data: bytes, edit: Callable[[dict[str, Any]], Any]) -> bytes:
    """The file with an edited recipe."""
    header, _ = take_apart(data)
    recipe = json.loads(header["__metadata__"]["intaglio"])
    edit(recipe)
    return with_recipe(data, json.dumps(recipe))


def with_recipe(data: bytes, text: str) -> bytes:
    """The file with another text for its recipe."""
    header, tensors = take_apart(data)
    header["__metadata__"]["intaglio"] = text
    header["__metadata__"]["intaglio.recipe.crc32"] = f"{zlib.crc32(text.encode()):08x}"
    return put_together(header, tensors)
