"""WordPiece, BERT's way of cutting a text into tokens, in plain Python.

One vocabulary file in, lists of ids out. It is written here because the usual package for it draws in an HTTP
client and a hub client; ids are equal to that package's on the demo's whole data (see `tests/demo`).
Source: Devlin et al., "BERT" (2018), the uncased basic tokenizer followed by greedy longest match.
Imports: torch, for `pad_batch`. Neighbours: `minilm` takes the ids.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from intaglio.demo.errors import CarrierError

__all__ = ["WordPiece", "pad_batch"]

LONGEST_WORD = 100
# Unicode blocks of ideographs, written without spaces: each one is a word.
_IDEOGRAPHS = (
    (0x4E00, 0x9FFF),
    (0x3400, 0x4DBF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F),
    (0x2B820, 0x2CEAF),
    (0xF900, 0xFAFF),
    (0x2F800, 0x2FA1F),
)


class WordPiece:
    """An uncased WordPiece tokenizer.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     vocabulary = Path(folder) / "vocab.txt"
    ...     _ = vocabulary.write_text("[PAD]\\n[UNK]\\n[CLS]\\n[SEP]\\nengrav\\n##er\\n")
    ...     WordPiece(vocabulary)("Engraver")
    [2, 4, 5, 3]
    """

    def __init__(self, vocabulary: Path) -> None:
        """Read a vocabulary, one piece a line.

        Raises
        ------
        CarrierError
            the file is missing, or lacks one of `[UNK]`, `[CLS]`, `[SEP]`.
        """
        try:
            pieces = vocabulary.read_text(encoding="utf-8").split("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise CarrierError(f"{vocabulary}: the vocabulary cannot be read: {error}") from error
        self._ids = {piece: index for index, piece in enumerate(pieces) if piece}
        try:
            self._unknown, self._start, self._end = (self._ids[name] for name in ("[UNK]", "[CLS]", "[SEP]"))
        except KeyError as error:
            raise CarrierError(f"{vocabulary}: not a BERT vocabulary, it lacks {error}") from error

    def __call__(self, text: str, *, longest: int = 256) -> list[int]:
        """The ids of `text`, `[CLS]` and `[SEP]` included, cut to `longest`."""
        pieces: list[int] = []
        for word in _split_words(text):
            pieces.extend(self._split_pieces(word))
            if len(pieces) >= longest - 2:
                break
        return [self._start, *pieces[: longest - 2], self._end]

    def _split_pieces(self, word: str) -> list[int]:
        """Greedy longest match from the left; a word with a part that is not in the vocabulary is unknown."""
        if len(word) > LONGEST_WORD:
            return [self._unknown]
        pieces: list[int] = []
        start = 0
        while start < len(word):
            prefix = "##" if start else ""
            for end in range(len(word), start, -1):
                piece = self._ids.get(prefix + word[start:end])
                if piece is not None:
                    break
            else:
                return [self._unknown]
            pieces.append(piece)
            start = end
        return pieces


def pad_batch(sequences: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Stack sequences of unequal length: `(B, T) int64` ids, zero where padded, and the `(B, T) bool` mask.

    >>> ids, mask = pad_batch([[5, 6, 7], [8]])
    >>> ids.tolist(), mask.tolist()
    ([[5, 6, 7], [8, 0, 0]], [[True, True, True], [True, False, False]])
    """
    longest = max(map(len, sequences))
    ids = torch.tensor([[*sequence, *[0] * (longest - len(sequence))] for sequence in sequences])
    lengths = torch.tensor([len(sequence) for sequence in sequences])
    return ids, torch.arange(longest) < lengths[:, None]


def _split_words(text: str) -> list[str]:
    """Lower case, accents off, spaces around punctuation and ideographs."""
    spaced = "".join(_place(character) for character in text)
    bare = unicodedata.normalize("NFD", spaced.lower())
    return "".join(_separate(character) for character in bare).split()


@cache
def _place(character: str) -> str:
    """A character cleaned: white space becomes a space, control characters vanish, ideographs stand alone."""
    if character in "\t\n\r" or unicodedata.category(character) == "Zs":
        return " "
    if character in "\0\ufffd" or unicodedata.category(character).startswith("C"):
        return ""
    if any(first <= ord(character) <= last for first, last in _IDEOGRAPHS):
        return f" {character} "
    return character


@cache
def _separate(character: str) -> str:
    """A decomposed character: combining accents vanish, punctuation stands alone."""
    category = unicodedata.category(character)
    if category == "Mn":
        return ""
    is_symbol = "!" <= character <= "~" and not character.isalnum()
    return f" {character} " if is_symbol or category.startswith("P") else character
