"""What a saved file holds, as tables for a terminal. Imports: rich, serialization. Neighbours: `commands`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from intaglio.serialization import FileDescription

__all__ = ["draw_description"]


def draw_description(description: FileDescription) -> RenderableType:
    """Draw a file: its versions and how to load it, its quantized modules, its float tensors."""
    facts = description.to_dict()
    tensors = {tensor["name"]: tensor for tensor in facts["tensors"]}
    quantized = [module for module in facts["modules"] if module.get("quantized")]
    held = {name for module in quantized for name in module["tensors"].values()}
    rest = [tensor for name, tensor in tensors.items() if name not in held]
    return Group(
        Text(str(description)),
        _draw_quantized(quantized, tensors),
        _draw_float(rest, facts["kept_float"]),
    )


def _draw_quantized(modules: list[dict[str, Any]], tensors: Mapping[str, dict[str, Any]]) -> Table:
    table = _start_table("Quantized modules", "module", "kind", "configuration")
    for module in modules:
        size = sum(tensors[name]["bytes"] for name in set(module["tensors"].values()))
        table.add_row(
            escape(module["path"] or "(model)"),
            escape(module["kind"]),
            _compact(module["config"]),
            _size(size),
        )
    return table


def _draw_float(tensors: list[dict[str, Any]], kept: Mapping[str, str]) -> Table:
    table = _start_table("Other tensors", "tensor", "dtype and shape", "why not quantized")
    for tensor in tensors:
        shape = " x ".join(map(str, tensor["shape"])) or "scalar"
        why = kept.get(tensor["name"].rpartition(".")[0], "")
        table.add_row(
            escape(tensor["name"]), f"{tensor['dtype']} {shape}", escape(why), _size(tensor["bytes"])
        )
    return table


def _start_table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    for column in columns:
        table.add_column(column, overflow="fold")
    table.add_column("size", justify="right", no_wrap=True)
    return table


def _compact(config: Mapping[str, Any]) -> str:
    """A configuration on one line; what is off or absent goes without saying."""
    return escape(
        ", ".join(f"{name}={value}" for name, value in config.items() if value not in (None, False))
    )


def _size(count: int) -> str:
    return f"{count / 1e6:.2f} MB" if count >= 1e5 else f"{count / 1e3:.2f} kB"
