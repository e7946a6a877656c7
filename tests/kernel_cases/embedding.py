"""Cases of the embeddings: lookups from 8 and 4 bit, bags, and rows of a Linear's packed weight."""

import itertools

import torch
from torch import Tensor

from intaglio.ops import reference_embedding as reference
from intaglio.ops.embedding import (
    BAG_MODES,
    bytes_of_row,
    pack_table,
    run_embedding,
    run_embedding_bag,
    run_linear_rows,
)
from intaglio.ops.packing import pack_weight

# Widths about every vector, tile of vectors and cache line of any instruction set, odd ones included.
WIDTHS = (1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 33, 48, 63, 64, 100, 127, 129, 200, 257)
TYPES = (torch.int64, torch.int32)


def random_table(rows: int, width: int, bits: int) -> tuple[Tensor, Tensor, Tensor]:
    codes = torch.randint(0, 256, (rows, bytes_of_row(width, bits)), dtype=torch.uint8)
    scale = torch.rand(rows) * torch.tensor([1e-3, 1.0, 1e30]).repeat(rows)[:rows]
    offset = torch.randn(rows) * torch.tensor([1e-3, 1e-30, 1e3, 1.0]).repeat(rows)[:rows]
    return codes, scale, offset


def case_embedding_rows(isa: str) -> None:
    for width, bits, dtype in itertools.product(WIDTHS, (8, 4), TYPES):
        plain = random_table(11, width, bits)
        table = pack_table(*plain)
        for shape in ((), (0,), (1,), (25,), (2, 3, 5)):
            indices = torch.randint(0, 11, shape).to(dtype)
            found = run_embedding(table, indices, width, bits, "layer")
            expected = reference.embedding(*plain, indices, width=width, bits=bits)
            assert torch.equal(found, expected), (isa, width, bits, dtype, shape)


def case_embedding_bags(isa: str) -> None:
    for width, bits, dtype in itertools.product(WIDTHS, (8, 4), TYPES):
        plain = random_table(9, width, bits)
        table = pack_table(*plain)
        indices = torch.randint(0, 9, (40,)).to(dtype)
        indices[30:34] = 5  # a bag of nothing but padding, for padding_idx = 5
        starts = [0, 0, 1, 4, 4, 13, 30, 34]
        rows = reference.embedding(*plain, indices, width=width, bits=bits)
        weights = torch.randn(40)
        for mode, padding, weighted in itertools.product(BAG_MODES, (-1, 5), (False, True)):
            if weighted and mode != "sum":
                continue
            chosen = weights if weighted else None
            offsets = torch.tensor(starts, dtype=dtype)
            found = run_embedding_bag(
                table, indices, offsets, chosen, width, bits, mode, False, padding, "layer"
            )
            expected = reference.embedding_bag(
                rows, indices, [*starts, 40], mode=mode, weights=chosen, padding_idx=padding
            )
            assert torch.equal(found, expected), (isa, width, bits, dtype, mode, padding, weighted)
            square = run_embedding_bag(
                table,
                indices.view(8, 5),
                None,
                None if chosen is None else chosen.view(8, 5),
                width,
                bits,
                mode,
                False,
                padding,
                "layer",
            )
            expected = reference.embedding_bag(
                rows, indices, list(range(0, 41, 5)), mode=mode, weights=chosen, padding_idx=padding
            )
            assert torch.equal(square, expected), (isa, width, bits, dtype, mode, padding, weighted)


def case_packed_rows(isa: str) -> None:
    for k, n in itertools.product((1, 2, 3, 4, 5, 16, 63, 130, 1024, 1027, 2055), (1, 17, 48, 100)):
        weight, scale = torch.randint(-128, 128, (n, k), dtype=torch.int8), torch.rand(n)
        for dtype, panel_vectors in itertools.product(TYPES, (0, 1, 3)):
            packed = pack_weight(weight, scale, None, panel_vectors=panel_vectors)
            indices = torch.randint(0, n, (2, 3)).to(dtype)
            found = run_linear_rows(packed, indices, k, "layer")
            expected = weight[indices.long()].float() * scale[indices.long()][..., None]
            assert torch.equal(found, expected), (isa, k, n, dtype, panel_vectors)
