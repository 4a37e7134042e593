"""What the commands say about themselves."""

import re
import shlex

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from loupe.cli.app import app
from loupe.cli.options import read_settings

COMMANDS = get_command(app).commands


def test_without_a_command_the_commands_are_listed():
    shown = CliRunner().invoke(app, [])
    assert all(f" {name} " in shown.output for name in ("show", "run", "validate"))


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_examples_whose_options_it_has(name):
    command = COMMANDS[name]
    examples = re.findall(r"`(loupe [^`]+)`", command.help)
    assert examples
    known = {each for option in command.params for each in option.opts}
    for example in examples:
        program, called, *words = shlex.split(example)
        assert (program, called) == ("loupe", name)
        assert {word for word in words if word.startswith("-")} <= known


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2", 2),
        ("2.5", 2.5),
        ("-1e-3", -1e-3),
        ("true", True),
        ("False", False),
        ("null", None),
        ("[1, 2.0]", [1, 2.0]),
        ('"7"', "7"),
        ("add", "add"),
        ("a=b", "a=b"),
        ("", ""),
    ],
)
def test_a_value_is_json_or_else_text(text, value):
    found = read_settings([f"x={text}"], {"x"})["x"]
    assert (found, type(found)) == (value, type(value))
