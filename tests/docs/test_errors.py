"""The page of errors: every example raises its error, with the text that the page shows."""

import linecache
import re
import warnings

import pytest

from loupe.errors import LoupeError, LoupeWarning
from tests.docs.pages import fences_of, text_of

PAGE = "errors.md"


def sections() -> dict[str, list[str]]:
    """The programs and outputs of each section, by its heading; programs keep their line numbers."""
    text = text_of(PAGE)
    places = [(found.start(), found[1]) for found in re.finditer(r"^#+ (.+)$", text, flags=re.MULTILINE)]
    found: dict[str, list[str]] = {}
    for _, block in fences_of(PAGE):
        start = text.index(block.lstrip("\n"))
        found.setdefault(max((place, name) for place, name in places if place < start)[1], []).append(block)
    return found


EXAMPLES = [
    (name, *pair)
    for name, blocks in sections().items()
    if name not in ("Errors", "OverwrittenWarning")
    for pair in zip(blocks[::2], blocks[1::2], strict=True)
]


def without_place(text: str) -> str:
    """An error's text without the line at which it was raised, and with a model's name as the page has it."""
    return re.sub(r"\n  at .*\n    .*", "", text).strip()


@pytest.mark.parametrize(("name", "program", "said"), EXAMPLES, ids=[name for name, _, _ in EXAMPLES])
def test_every_example_raises_its_error_with_the_text_that_is_shown(name, program, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(linecache.cache, PAGE, (0, None, text_of(PAGE).splitlines(keepends=True), PAGE))
    names: dict[str, object] = {"__name__": "errors"}
    exec(compile(sections()["Errors"][0], PAGE, "exec"), names)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", LoupeWarning)
        try:
            exec(compile(program, PAGE, "exec"), names)
            kind, text = type(told[0].message).__name__, str(told[0].message)
        except LoupeError as error:
            kind, text = type(error).__name__, str(error)
    assert kind == name
    lines = [re.escape(line).replace(r"\.\.\.", ".*") for line in said.strip().splitlines()]
    first, last = lines[0], lines[1:]
    assert re.fullmatch(
        first + (".*" if last else "") + "".join(rf"\n{line}" for line in last), without_place(text), re.DOTALL
    )


def test_every_error_has_a_section():
    named = set(re.findall(r"^#+ (\w+(?:Error|Warning))$", text_of(PAGE), flags=re.MULTILINE))

    def below(kind: type) -> set[str]:
        return {each.__name__ for each in kind.__subclasses__() if each.__module__ == "loupe.errors"} | {
            name for each in kind.__subclasses__() for name in below(each)
        }

    assert named == below(LoupeError) | below(LoupeWarning)
