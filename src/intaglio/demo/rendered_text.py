"""Words and pages drawn with Pillow's own font: text whose every letter and box is known.

Noise and blur are set so that the recogniser is right most of the time and not always: where everything is
right, nothing can be seen to get worse. Imports: numpy, Pillow, torch. Neighbours: `recogniser` reads the
words, `text_detector` finds them on the pages.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFilter, ImageFont
from torch import Tensor

__all__ = ["Page", "draw_page", "draw_words", "find_boxes", "match_boxes"]

HEIGHT = 64
Box = tuple[int, int, int, int]
"""Left, top, right, bottom, in pixels."""

_TEXT = (
    "about above across after again against almost alone along already also although always among "
    "another answer around asked away back became because become been before began behind being "
    "below best better between both bring built business called came cannot care case certain change "
    "children city close cold come common could country course cried dark days deep different does "
    "done door down draw during each early earth east easy eight either else end enough even ever "
    "every example eyes face fact family far father feel feet field figure final find fine fire "
    "first five follow food foot force form found four free friend from front full gave general give "
    "given gold gone good government great green ground group grow half hand hard have head hear "
    "heard heat help here high himself hold home horse hot hours house hundred idea inches inside "
    "island just keep kind king knew know land language large last later learn leave left less "
    "letter life light like line list listen little live long look lost love machine made make many "
    "mark mean measure might miles mind minutes money moon more morning most mother mountain move "
    "much music must name near need never next night nothing notice number object often once only "
    "open order other over page paper part pass pattern people perhaps person picture piece place "
    "plain plan plane play"
)
WORDS = _TEXT.split()


def draw_words(
    count: int, *, noise: float = 0.0, blur: float = 0.0, seed: int = 0
) -> tuple[Tensor, list[str]]:
    """`(count, 1, 64, W) float32` in -1..1, padded on the right with each last column, and the words.

    `noise` is the standard deviation of what is added to pixels of 0..1; `blur` the radius in pixels of a
    Gaussian, before the noise.
    """
    generator = np.random.default_rng(seed)
    words, lines = [], []
    for _ in range(count):
        word = str(generator.choice(WORDS))
        word = (word, word.capitalize(), word.upper(), word + str(generator.integers(10, 99)))[
            int(generator.integers(4))
        ]
        size = int(generator.integers(22, 40))
        line = _draw_line(word, size).filter(ImageFilter.GaussianBlur(blur))
        width = math.ceil(HEIGHT * line.size[0] / line.size[1])
        pixels = np.asarray(line.resize((width, HEIGHT), Image.Resampling.BICUBIC), dtype=np.float32) / 255.0
        pixels = np.clip(pixels + generator.normal(0.0, noise, pixels.shape), 0.0, 1.0).astype(np.float32)
        lines.append(torch.from_numpy((pixels - 0.5) / 0.5))
        words.append(word)
    width = max(line.shape[1] for line in lines)
    padded = [torch.cat([x, x[:, -1:].expand(-1, width - x.shape[1])], 1) for x in lines]
    return torch.stack(padded)[:, None], words


def _draw_line(word: str, size: int) -> Image.Image:
    font = ImageFont.load_default(size)
    left, top, right, bottom = font.getbbox(word)
    image = Image.new("L", (int(right - left) + 12, int(bottom - top) + 12), 235)
    ImageDraw.Draw(image).text((6 - left, 6 - top), word, fill=25, font=font)
    return image


@dataclass(frozen=True)
class Page:
    """A page, `(1, 3, H, W) float32` as ImageNet is normalised, and where its words stand."""

    image: Tensor
    boxes: list[Box]


def draw_page(*, width: int = 480, height: int = 320, noise: float = 0.06, seed: int = 0) -> Page:
    """A page of words at known places, on a background that is not quite even."""
    generator = np.random.default_rng(seed)
    paper = Image.new("RGB", (width, height), (236, 231, 222))
    pen, boxes = ImageDraw.Draw(paper), list[Box]()
    y = 14
    while y < height - 46:
        x, size = 14, int(generator.integers(18, 30))
        font = ImageFont.load_default(size)
        while True:
            word = str(generator.choice(WORDS))
            box = pen.textbbox((x, y), word, font=font)
            if box[2] > width - 12:
                break
            ink = tuple(int(c) for c in generator.integers(0, 90, 3))
            pen.text((x, y), word, fill=ink, font=font)
            boxes.append((int(box[0]), int(box[1]), int(box[2]), int(box[3])))
            x = int(box[2]) + size
        y += size + 18
    pixels = np.asarray(paper, dtype=np.float32) / 255.0
    pixels = np.clip(pixels + generator.normal(0.0, noise, pixels.shape), 0.0, 1.0)
    normal = (pixels - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)
    image = torch.from_numpy(normal.astype(np.float32)).permute(2, 0, 1)[None].contiguous()
    return Page(image, boxes)


def find_boxes(scores: Tensor, *, text: float = 0.7, low: float = 0.4, link: float = 0.4) -> list[Box]:
    """The words in `(2, H, W)` region and affinity scores, as boxes on the page, which is twice as large.

    Connected pixels above `low` (or `link` in affinity) with one above `text` in region, as CRAFT's own
    reading of its scores.
    """
    region, affinity = scores[0].numpy(), scores[1].numpy()
    marked = (region > low) | (affinity > link)
    labels = np.zeros(marked.shape, dtype=np.int32)
    boxes: list[Box] = []
    for y, x in zip(*np.nonzero(marked), strict=True):
        if labels[y, x] == 0:
            pixels = _fill(marked, labels, int(y), int(x), len(boxes) + 1)
            rows, columns = np.array(pixels).T
            if region[rows, columns].max() >= text and len(pixels) >= 10:
                kept = region[rows, columns] > low
                boxes.append(_grown(rows[kept], columns[kept]))
    return boxes


def _grown(rows: Any, columns: Any) -> Box:
    """The box of a word's pixels, wider by what the scores fall short of the letters' edges."""
    height, width = int(np.ptp(rows)) + 1, int(np.ptp(columns)) + 1
    grow = round(math.sqrt(len(rows) * min(height, width) / (height * width)))
    left, top = int(columns.min()) - grow, int(rows.min()) - grow
    return (2 * left, 2 * top, 2 * (left + width + 2 * grow), 2 * (top + height + 2 * grow))


def _fill(marked: Any, labels: Any, y: int, x: int, label: int) -> list[tuple[int, int]]:
    """The pixels connected to `y, x`, which get `label`."""
    found, waiting = [], [(y, x)]
    labels[y, x] = label
    while waiting:
        y, x = waiting.pop()
        found.append((y, x))
        for ny, nx in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
            inside = 0 <= ny < marked.shape[0] and 0 <= nx < marked.shape[1]
            if inside and marked[ny, nx] and labels[ny, nx] == 0:
                labels[ny, nx] = label
                waiting.append((ny, nx))
    return found


def match_boxes(found: list[Box], expected: list[Box], *, overlap: float = 0.5) -> tuple[float, float]:
    """Recall and precision: boxes that meet one of the others with at least this intersection over union."""
    hit = [any(_iou(a, b) >= overlap for b in found) for a in expected]
    right = [any(_iou(a, b) >= overlap for b in expected) for a in found]
    return sum(hit) / max(1, len(hit)), sum(right) / max(1, len(right))


def _iou(a: Box, b: Box) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    area = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
    return width * height / (area - width * height)
