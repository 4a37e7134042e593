"""Print the tables of a benchmark as they are measured, and write them to a page of the documentation."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
import transformers

Row = tuple[str, ...]


class Page:
    """What is printed line by line and table by table, with a Markdown page of the same.

    >>> page = Page("# Savings", machine())
    >>> page.add("GPT-2", [("scenario", "us"), ("one save", "100")])
    >>> page.write("docs/savings.md")
    """

    def __init__(self, head: str, lines: Iterable[str]) -> None:
        listed = list(lines)
        self._parts = [head, *(f"- {line}" for line in listed)]
        print(*listed, sep="\n")

    def add(self, title: str, rows: Sequence[Row], remarks: Sequence[str] = ()) -> None:
        """A table whose first row is its header, under a title or the title above; remarks stand below it."""
        heading, section = (f"\n{title}", f"\n## {title}\n") if title else ("", "")
        print("\n".join([heading, plain_table(rows), *remarks]), flush=True)
        listed = [f"- `{remark.replace('`', chr(39))}`" for remark in remarks]
        self._parts += [f"{section}\n{markdown_table(rows)}", *([""] if listed else []), *listed]

    def write(self, path: str | None) -> None:
        """The page to a file, where one is named."""
        if path:
            Path(path).write_text("\n".join(self._parts) + "\n", encoding="utf-8")


def machine() -> list[str]:
    """What the numbers were measured with."""
    return [
        f"machine: {processor()}, {os.cpu_count()} cores, {platform.system()} {platform.machine()}",
        f"python {platform.python_version()}, torch {torch.__version__} ({torch.get_num_threads()} thread), "
        f"transformers {transformers.__version__}",
        "time is CPU time unless it says wall; one process, all ways in turn, no garbage collection while timed",
    ]


def processor() -> str:
    """The processor's name, as far as the system tells it."""
    listing = Path("/proc/cpuinfo")
    lines = listing.read_text().splitlines() if listing.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown processor"


def plain_table(rows: Sequence[Row]) -> str:
    """Columns lined up with blanks: names to the left, numbers to the right."""
    first, *others = [max(len(each[place]) for each in rows) for place in range(len(rows[0]))]
    lines = []
    for name, *numbers in rows:
        cells = [number.rjust(width) for number, width in zip(numbers, others, strict=True)]
        lines.append("  ".join([name.ljust(first), *cells]))
    return "\n".join(lines)


def markdown_table(rows: Sequence[Row]) -> str:
    """The same rows for a Markdown page."""
    head, *body = rows
    rule = ("---", *("---:" for _ in head[1:]))
    return "\n".join(f"| {' | '.join(each)} |" for each in (head, rule, *body))
