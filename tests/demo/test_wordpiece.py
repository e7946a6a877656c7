"""The tokenizer: by hand on a small vocabulary, and on the real one against the reference's ids."""

from __future__ import annotations

from pathlib import Path

import pytest

from intaglio.demo.errors import CarrierError
from intaglio.demo.wordpiece import WordPiece, pad_batch

PIECES = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "cafe",
    "un",
    "##happi",
    "##ness",
    "!",
    "$",
    "東",
    "京",
    "happi",
    "a",
]


@pytest.fixture
def small(tmp_path: Path) -> WordPiece:
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join(PIECES) + "\n", encoding="utf-8")
    return WordPiece(path)


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("unhappiness", ["un", "##happi", "##ness"]),
        ("UnHappiNess!", ["un", "##happi", "##ness", "!"]),
        ("Café$", ["cafe", "$"]),
        ("cafe\u0301", ["cafe"]),
        ("東京", ["東", "京"]),
        ("ness happi", ["[UNK]", "happi"]),
        ("unhappy", ["[UNK]"]),
        ("a\u00a0a\ta\u2003a", ["a"] * 4),
        ("c\u200baf\0e\ufffd", ["cafe"]),
        ("a" * 101, ["[UNK]"]),
        ("", []),
    ],
)
def test_small_vocabulary(small: WordPiece, text: str, pieces: list[str]) -> None:
    assert small(text) == [PIECES.index(piece) for piece in ["[CLS]", *pieces, "[SEP]"]]


def test_long_text_is_cut(small: WordPiece) -> None:
    ids = small("unhappiness " * 100, longest=9)
    assert len(ids) == 9
    assert ids[0] == PIECES.index("[CLS]")
    assert ids[-1] == PIECES.index("[SEP]")


def test_special_tokens_in_a_text_are_text(small: WordPiece) -> None:
    assert PIECES.index("[SEP]") not in small("[SEP]")[1:-1]


def test_vocabulary_that_is_none(tmp_path: Path) -> None:
    path = tmp_path / "vocab.txt"
    path.write_text("a\nb\n")
    with pytest.raises(CarrierError, match=r"vocab\.txt: not a BERT vocabulary, it lacks '\[UNK\]'"):
        WordPiece(path)
    with pytest.raises(CarrierError, match="cannot be read"):
        WordPiece(tmp_path / "absent.txt")


def test_padding() -> None:
    ids, mask = pad_batch([[3], [4, 5, 6]])
    assert ids.tolist() == [[3, 0, 0], [4, 5, 6]]
    assert mask.tolist() == [[True, False, False], [True, True, True]]


# Ids given by the reference implementation (tokenizers 0.22, with the checkpoint's own tokenizer.json).
REFERENCE = [
    ("Café déjà-vu, naïve!", [7668, 2139, 3900, 1011, 24728, 1010, 15743, 999]),
    ("東京 is 日本's capital", [1879, 1755, 2003, 1864, 1876, 1005, 1055, 3007]),
    ("don't stop\u00a0me\tnow\n", [2123, 1005, 1056, 2644, 2033, 2085]),
    (
        "I ♥ ẞtraße $3.50 `q` ~ ^",
        [1045, 1625, 1096, 6494, 17499, 1002, 1017, 1012, 2753, 1036, 1053, 1036, 1066, 1034],
    ),
    ("\ufb01 \ufb02 \u2167 \xbd", [1984, 1985, 100, 1092]),
    ("हिन्दी भाषा", [1339, 29877, 29863, 29861, 29878, 1330, 29876, 29873, 29876]),
    ("ǅ İstanbul", [100, 9960]),
    ("emoji \U0001f600 end", [7861, 29147, 2072, 100, 2203]),
    ("\U00020000\u3400", [100, 100]),
    ("tab\x0bvt\x85nel\u2028ls", [21628, 2615, 2102, 11877, 1048, 2015]),
    ("±§©\u2018\u2019“”…—", [1081, 1073, 1075, 1520, 1521, 1523, 1524, 1529, 1517]),
]


@pytest.mark.real
@pytest.mark.parametrize(("text", "ids"), REFERENCE)
def test_reference_ids(tokenizer: WordPiece, text: str, ids: list[int]) -> None:
    assert tokenizer(text) == [101, *ids, 102]
