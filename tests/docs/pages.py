"""Take programs and tables out of the pages."""

import re
from pathlib import Path

DOCS = Path(__file__).resolve().parents[2] / "docs"
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_BLOCK = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def text_of(page: str, heading: str = "") -> str:
    """A page, or the section of it under a heading, without the sections below that."""
    text = (DOCS / page).read_text(encoding="utf-8")
    if heading:
        text = re.split(rf"^#+ {re.escape(heading)}$", text, flags=re.MULTILINE)[1]
        text = re.split(r"^#+ ", text, flags=re.MULTILINE)[0]
    return text


def programs_of(page: str) -> list[str]:
    """The blocks of Python of a page, each padded with empty lines so that errors name the page's own lines."""
    text = text_of(page)
    return ["\n" * text[: found.start(1)].count("\n") + found[1] for found in _BLOCK.finditer(text)]


def fences_of(page: str) -> list[tuple[str, str]]:
    """The fenced blocks of a page, each with its language; programs keep their line numbers, as in `programs_of`."""
    text = text_of(page)
    return [
        (found[1], "\n" * text[: found.start(2)].count("\n") + found[2] if found[1] == "python" else found[2])
        for found in _FENCE.finditer(text)
    ]


def first_cells(text: str) -> list[list[str]]:
    """The words in backticks of the first cell of every row of every table."""
    rows = [line for line in text.splitlines() if line.startswith("| ") and not line.startswith("| ---")]
    return [re.findall(r"`([^`]*)`", row.split("|")[1]) for row in rows]
