"""Fails if a K loop of a kernel keeps anything on the stack.

Reads the disassembly of the built extension. An innermost loop that multiplies (vpdpbusd, vpmaddwd or a
packed FMA) and touches memory through the stack pointer or frame pointer has spilled accumulators or
addresses: half the speed or worse. Every compiler trap that we know shows up here.

usage: python tools/check_kernel_loops.py [EXTENSION.so]
"""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

DOT = re.compile(r"\b(vpdpbusd|vpdpwssd|vpmaddwd|vfn?madd\d+ps)\b")
STACK = re.compile(r"\(%r[sb]p[,)]")
VECTOR = re.compile(r"%[xyz]mm\d")
LABEL = re.compile(r"^[0-9a-f]+ <(.+)>:$")
LINE = re.compile(r"^\s*([0-9a-f]+):\s+(\S.*)$")
JUMP = re.compile(r"^j[a-z]+\s+([0-9a-f]+)")
OURS = "intaglio"
DIVISION = re.compile(r"\bvdivps\b")
NO_SUMS = (
    *("combine_pairs", "blend_row", "normalize_rows", "normalize_columns"),
    *("finish_row", "apply_function", "function_rows", "weigh_row", "mask_row"),
)
"""No products are summed there, and with sixteen registers constants are read from the stack."""
FEWEST_DOTS = 2
"""A K loop multiplies into several accumulators; a loop with one product is an epilogue."""
FEWEST_LOOPS = 40
"""The tiles of four instruction sets make far more; fewer means that the check reads the wrong thing."""


@dataclass
class Function:
    """One disassembled function: its name and its instructions by address, in order."""

    name: str
    lines: list[tuple[int, str]] = field(default_factory=list)


def disassemble(library: Path) -> list[Function]:
    """The functions of `library` that are ours."""
    command = ["objdump", "-d", "--no-show-raw-insn", "-C", str(library)]
    listing = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    functions: list[Function] = []
    for line in listing.splitlines():
        if label := LABEL.match(line):
            functions.append(Function(label.group(1)))
        elif functions and (instruction := LINE.match(line)):
            functions[-1].lines.append((int(instruction.group(1), 16), instruction.group(2)))
    return [f for f in functions if OURS in f.name and not any(name in f.name for name in NO_SUMS)]


def innermost_loops(function: Function) -> list[list[str]]:
    """The instructions of each loop that holds no other loop: a jump back and what it spans.

    A span from which the function is left (a return or a tail call) is no loop but cold code that jumps
    back into the function's middle.
    """
    if not function.lines:
        return []
    first, last = function.lines[0][0], function.lines[-1][0]
    exits = [address for address, text in function.lines if leaves(text, first, last)]
    spans = []
    for address, text in function.lines:
        jump = JUMP.match(text)
        begin = int(jump.group(1), 16) if jump else address + 1
        if first <= begin <= address and not any(begin <= at <= address for at in exits):
            spans.append((begin, address))
    inner = [s for s in spans if not any(o != s and s[0] <= o[0] and o[1] <= s[1] for o in spans)]
    return [[text for at, text in function.lines if begin <= at <= end] for begin, end in inner]


def leaves(text: str, first: int, last: int) -> bool:
    """Whether an instruction of the function at `first..last` returns or jumps out of it."""
    jump = JUMP.match(text)
    return text.startswith("ret") or bool(jump and not first <= int(jump.group(1), 16) <= last)


def find_spills(function: Function) -> tuple[int, list[str]]:
    """How many loops of `function` multiply vectors, and which of them touch the stack."""
    loops = [loop for loop in innermost_loops(function) if is_k_loop(loop)]
    touching = ([text for text in loop if STACK.search(text)] for loop in loops)
    return len(loops), [texts[0] for texts in touching if texts]


def is_k_loop(loop: list[str]) -> bool:
    """Whether a loop sums products; one that divides computes the gates of a recurrent cell."""
    return sum(map(is_dot, loop)) >= FEWEST_DOTS and not any(map(DIVISION.search, loop))


def is_dot(text: str) -> bool:
    """Whether an instruction is a vector multiply-add."""
    return bool(DOT.search(text) and VECTOR.search(text))


def built_extension() -> Path:
    """The extension of the intaglio that is installed."""
    from intaglio import _core

    return Path(_core.__file__)


def main() -> int:
    """Check and report; 1 if anything spilled."""
    library = Path(sys.argv[1]) if len(sys.argv) > 1 else built_extension()
    count, spilled = 0, 0
    for function in disassemble(library):
        loops, spills = find_spills(function)
        count += loops
        for spill in spills:
            spilled += 1
            print(f"stack traffic in a K loop of {function.name}: {spill}")
    print(f"{library.name}: {count} K loops, {spilled} with stack traffic")
    if count < FEWEST_LOOPS:
        print(f"fewer than {FEWEST_LOOPS} K loops were found: the check is not reading the kernels")
    return int(spilled > 0 or count < FEWEST_LOOPS)


if __name__ == "__main__":
    sys.exit(main())
