"""The table of traps and the tests beside this file name each other."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "traps.md"
ROWS = [line for line in PAGE.read_text().splitlines() if line.startswith("| ")][2:]
LINK = re.compile(r"\[`(test_\w+)`\]\((\S+)\)")


def beside() -> list[tuple[str, str]]:
    """The file and the name of every test of a trap."""
    return [
        (path.name, node.name)
        for path in sorted(Path(__file__).parent.glob("test_*.py"))
        if path != Path(__file__)
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    ]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: LINK.findall(row)[-1][0])
def test_every_row_says_what_happens_in_both_and_links_to_one_test(row):
    cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]]
    assert len(cells) == 3
    assert all(cells)
    name, target = LINK.fullmatch(cells[2]).groups()
    path = (PAGE.parent / target).resolve()
    assert path.parent == Path(__file__).parent
    assert (path.name, name) in beside()


def test_every_test_of_a_trap_is_in_one_row():
    named = sorted((Path(target).name, name) for row in ROWS for name, target in LINK.findall(row))
    assert named == sorted(beside())


def test_the_page_is_reached_from_the_first_one():
    first = (ROOT / "docs" / "index.md").read_text()
    assert "{doc}`traps`" in first
    assert "\ntraps\n" in first
