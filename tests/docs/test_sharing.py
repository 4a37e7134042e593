"""The page about sharing: its programs and commands are run in order, and print what it says."""

import contextlib
import io
import linecache
import re
import shlex

import pytest
from typer.testing import CliRunner

from loupe.cli.app import app
from tests.docs.pages import fences_of, text_of

PAGE = "sharing.md"


_NUMBER = re.compile(r"-?\d+\.\d+")


def same(printed: str, said: str) -> bool:
    """Whether a page says what was printed, but for numbers of lines, digests, and the last digits of floats."""
    pairs = [re.sub(r"# \d+: ", "# ", re.sub(r"\b[0-9a-f]{64}\b", "DIGEST", each)).strip() for each in (printed, said)]
    words, numbers = zip(
        *((_NUMBER.sub("N", each), list(map(float, _NUMBER.findall(each)))) for each in pairs), strict=True
    )
    return words[0] == words[1] and numbers[0] == pytest.approx(numbers[1], rel=0.01, abs=0.01)


def commands(text: str):
    """The commands of a piece of a terminal, each with what it prints."""
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        command, _, printed = part.partition("\n")
        yield command.removeprefix("python -m "), printed


def test_every_program_and_command_of_the_page_prints_what_it_says(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(linecache.cache, PAGE, (0, None, text_of(PAGE).splitlines(keepends=True), PAGE))
    names: dict[str, object] = {"__name__": "sharing"}
    printed, compared = "", 0
    for language, block in fences_of(PAGE):
        if language == "python":
            with contextlib.redirect_stdout(io.StringIO()) as out:
                exec(compile(block, PAGE, "exec"), names)
            printed = out.getvalue()
        elif language == "console":
            for command, wanted in commands(block):
                program, *words = shlex.split(command)
                assert program == "loupe"
                done = CliRunner().invoke(app, words)
                assert done.exit_code == 0, done.output
                assert same(done.stdout, wanted), done.stdout
                compared += 1
        else:
            assert same(printed, block), printed
            compared += 1
    assert compared == text_of(PAGE).count("\n```\n\n```\n") + text_of(PAGE).count("```console")


def test_the_page_is_reached_from_the_first_one():
    first = text_of("index.md")
    for page in ("sharing", "format"):
        assert f"{{doc}}`{page}`" in first
        assert f"\n{page}\n" in first
