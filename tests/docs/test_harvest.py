"""The page about harvests: its programs and its command run as they stand."""

import re
import shlex

import torch
from typer.testing import CliRunner

from loupe.cli.app import app
from tests.docs.pages import programs_of, text_of

PAGE = "harvest.md"


def test_the_programs_and_the_command_of_the_page_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "harvest"}
    for program in programs_of(PAGE):
        exec(compile(program, PAGE, "exec"), names)
    assert names["whole"].shape == (len(names["found"][0].token_ids), 96)
    (tmp_path / "prompts.txt").write_text("\n".join(names["prompts"]) + "\n")
    (command,) = re.findall(r"^loupe (harvest .*)$", text_of(PAGE), flags=re.MULTILINE)
    done = CliRunner().invoke(app, shlex.split(command))  # the same again: nothing is left to do
    assert done.exit_code == 0, done.output
    assert torch.equal(names["found"].read("transformer.h.5"), names["whole"])
