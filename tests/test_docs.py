"""Every Python block of README.md and docs/*.md runs, page by page, as a reader would type it."""

import re
from pathlib import Path

import pytest

from intaglio import rules
from intaglio.nn import quantized

ROOT = Path(__file__).parent.parent
PAGES = [
    page
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
    if "```python" in page.read_text()
]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    # What a page registers is gone when it ends.
    monkeypatch.setattr(rules, "_rules", list(rules._rules))
    monkeypatch.setattr(quantized, "_classes", dict(quantized._classes))
    text = page.read_text()
    names: dict[str, object] = {"__name__": "__main__"}
    for block in BLOCK.finditer(text):
        line = text[: block.start(1)].count("\n")
        exec(compile("\n" * line + block.group(1), str(page), "exec"), names)


def test_pages_were_found() -> None:
    assert len(PAGES) >= 2
