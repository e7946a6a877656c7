"""Real labelled text, and how well a sentence encoder does on it.

Retrieval: each BoolQ question must find the passage that it was asked about. Similarity: cosines of
embeddings against what people said of 50 news items (Lee), and of pairs of words (WordSim353, SimLex999).
Sources: Clark et al., "BoolQ" (2019); Lee, Pincombe and Welsh (2005); Finkelstein et al. (2002); Hill,
Reichart and Korhonen, "SimLex-999" (2015).
Imports: torch, `wordpiece`, `scoring`. Neighbours: `carriers` names the files, `comparison` calls this.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from intaglio.demo.errors import CarrierError
from intaglio.demo.scoring import mean_reciprocal_rank, pearson, spearman, top1_accuracy
from intaglio.demo.wordpiece import WordPiece, pad_batch

__all__ = ["Retrieval", "Similarity", "TextTasks", "embed", "read_text_tasks", "score_texts"]

QUERIES = 600
# Small enough for a batch's activations to stay in the L2 cache.
BATCH = 8

Sequences = Sequence[Sequence[int]]


@dataclass(frozen=True)
class Retrieval:
    """Questions, passages, and the `(questions,) int64` index of each question's passage; texts as ids."""

    questions: Sequences
    passages: Sequences
    answers: Tensor


@dataclass(frozen=True)
class Similarity:
    """Texts as ids, the `(2, pairs) int64` indices of those compared, and people's `(pairs,)` verdicts."""

    name: str
    texts: Sequences
    pairs: Tensor
    verdicts: Tensor
    correlate: Callable[[Tensor, Tensor], float]


@dataclass(frozen=True)
class TextTasks:
    """Everything that the text model is scored on."""

    retrieval: Retrieval
    similarities: tuple[Similarity, ...]

    @property
    def parts(self) -> dict[str, Sequences]:
        """Every list of texts to embed, by name."""
        lists = {"questions": self.retrieval.questions, "passages": self.retrieval.passages}
        return lists | {task.name: task.texts for task in self.similarities}


def read_text_tasks(files: Mapping[str, Path], tokenize: WordPiece, *, queries: int = QUERIES) -> TextTasks:
    """Read the labelled sets from the carriers' files.

    Raises
    ------
    CarrierError
        a file has another layout than expected.
    """
    try:
        return TextTasks(
            _read_boolq(files["dev.jsonl"], tokenize, queries),
            (
                _read_lee(files["lee.cor"], files["similarities0-1.txt"], tokenize),
                _read_word_pairs("WordSim353", files["wordsim353.tsv"], tokenize),
                _read_word_pairs("SimLex999", files["simlex999.txt"], tokenize),
            ),
        )
    except (OSError, ValueError, KeyError, IndexError) as error:
        raise CarrierError(f"the labelled texts cannot be read: {type(error).__name__}: {error}") from error


def embed(
    model: nn.Module, texts: Sequences, *, on_batch: Callable[[int], None] = lambda done: None
) -> Tensor:
    """Embed texts in batches of like length: `(len(texts), width) float32`; tells the size of each batch."""
    order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
    rows: list[Tensor] = []
    with torch.inference_mode():
        for start in range(0, len(order), BATCH):
            ids, mask = pad_batch([texts[index] for index in order[start : start + BATCH]])
            # A mask that hides nothing costs time in attention.
            rows.append(model(ids, None if bool(mask.all()) else mask))
            on_batch(len(ids))
    return torch.cat(rows)[torch.tensor(order).argsort()]


def score_texts(tasks: TextTasks, embeddings: Mapping[str, Tensor]) -> dict[str, float]:
    """Score the embeddings of `tasks.parts`, by name of the figure."""
    found = embeddings["questions"] @ embeddings["passages"].T
    scores = {
        "BoolQ retrieval, accuracy at 1": top1_accuracy(found, tasks.retrieval.answers),
        "BoolQ retrieval, mean reciprocal rank": mean_reciprocal_rank(found, tasks.retrieval.answers),
    }
    for task in tasks.similarities:
        first, second = embeddings[task.name][task.pairs]
        kind = task.correlate.__name__.capitalize()
        scores[f"{task.name}, {kind}"] = task.correlate((first * second).sum(1), task.verdicts)
    return scores


def _read_boolq(path: Path, tokenize: WordPiece, queries: int) -> Retrieval:
    with path.open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line, _ in zip(lines, range(queries), strict=False)]
    passages = _distinct(row["passage"] for row in rows)
    return Retrieval(
        questions=[tokenize(row["question"]) for row in rows],
        passages=[tokenize(passage) for passage in passages],
        answers=torch.tensor([passages[row["passage"]] for row in rows]),
    )


def _read_lee(documents: Path, matrix: Path, tokenize: WordPiece) -> Similarity:
    # The corpus is in Latin-1: a pound sign gives it away.
    texts = [line for line in documents.read_text(encoding="latin-1").splitlines() if line.strip()]
    rows = [[float(cell) for cell in line.split()] for line in matrix.read_text("ascii").splitlines()]
    pairs = torch.triu_indices(len(texts), len(texts), 1)
    return Similarity(
        name="Lee50",
        texts=[tokenize(text) for text in texts],
        pairs=pairs,
        verdicts=torch.tensor(rows, dtype=torch.float64)[pairs[0], pairs[1]],
        correlate=pearson,
    )


def _read_word_pairs(name: str, path: Path, tokenize: WordPiece) -> Similarity:
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line and line[0] != "#"]
    rows = [line.split("\t") for line in lines]
    words = _distinct(word for row in rows for word in row[:2])
    return Similarity(
        name=name,
        texts=[tokenize(word) for word in words],
        pairs=torch.tensor([[words[row[side]] for row in rows] for side in (0, 1)]),
        verdicts=torch.tensor([float(row[2]) for row in rows], dtype=torch.float64),
        correlate=spearman,
    )


def _distinct(texts: Iterable[str]) -> dict[str, int]:
    """Each text once, with its place in the order of first appearance."""
    return {text: place for place, text in enumerate(dict.fromkeys(texts))}
