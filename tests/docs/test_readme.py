"""The first page: its programs and commands run as they stand, one after the other."""

import re
import shlex

import pytest
from typer.testing import CliRunner

from loupe.cli.app import app
from tests.docs.pages import DOCS, programs_of, text_of

PAGE = "../README.md"


def test_the_programs_and_commands_of_the_first_page_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "readme"}
    shown = []
    for program in programs_of(PAGE):
        if program.strip().startswith(">>>"):
            expression, said = program.strip().removeprefix(">>> ").splitlines()
            assert repr(eval(expression, names)) == said
            shown.append(said)
            continue
        exec(compile(program, PAGE, "exec"), names)
        for expression, said in re.findall(r"^(\S.*?) +# ('.*')$", program, flags=re.MULTILINE):
            assert repr(eval(expression, names)) == said
            shown.append(said)
    assert shown == ["' Paris'", "' Paris'"]
    commands = re.findall(r"^python -m loupe (.*)$", text_of(PAGE), flags=re.MULTILINE)
    assert [shlex.split(command)[0] for command in commands] == ["show", "run"]
    for command in commands:
        done = CliRunner().invoke(app, shlex.split(command))
        assert done.exit_code == 0, done.output
    assert "next: ' Paris'" in done.stdout


@pytest.mark.parametrize("link", re.findall(r"\]\(((?!http)[^)]+)\)", text_of(PAGE)))
def test_every_file_that_the_first_page_links_to_is_there(link):
    assert (DOCS.parent / link).exists()
