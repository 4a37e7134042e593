"""What `loupe show` prints of a file, and that it needs neither torch nor a model."""

import subprocess
import sys
import xml.etree.ElementTree as ElementTree

import pytest

import loupe
from loupe.errors import Line
from loupe.files.intervention import InterventionGraph
from loupe.graph.graph import Open
from loupe.graph.node import Node, Ref, Site
from tests.cli.conftest import landmarks


def rows_of(printed: str) -> dict[str, str]:
    """The summary of a graph by its labels."""
    summary = printed.split("\n\n")[0].splitlines()[1:]
    return {row[:12].strip(): row[12:] for row in summary}


def test_a_graph_is_shown_with_all_that_a_reader_asks_about_it(loupe_command, files):
    shown = loupe_command("show", "steer.loupe")
    assert shown.exit_code == 0
    assert shown.stderr == ""
    rows = rows_of(shown.stdout)
    assert rows["written for"] == "loupe/landmarks (GPT2LMHeadModel)"
    assert rows["takes"] == "1 prompt"
    assert rows["open"] == "strength = 1.0"
    assert rows["saves"] == "logits"
    assert rows["constants"] == "f32[96]"
    assert rows["hash"].encode() in (files / "steer.loupe").read_bytes()
    lines = shown.stdout.split("\n\n")[1].splitlines()
    assert len(lines) == len(loupe.load(files / "steer.loupe"))
    assert lines[0].startswith("%0 = read transformer.h.5.output")
    assert "model.transformer.h[5].output[0][:, -1] += strength * DIRECTION" in lines[0]


def test_prompts_steps_and_caches_are_told(loupe_command):
    assert rows_of(loupe_command("show", "two.loupe").stdout)["takes"] == "2 prompts"
    generation = rows_of(loupe_command("show", "generation.loupe").stdout)
    assert generation["generates"] == "max_new_tokens=3"
    assert "ids" in generation["saves"].split(", ")
    assert "mlps (a cache)" in rows_of(loupe_command("show", "cache.loupe").stdout)["saves"]


def test_a_session_is_shown_block_by_block(loupe_command):
    shown = loupe_command("show", "session.loupe").stdout
    assert "a session of 2 blocks" in shown
    first, second = shown.split("block 1: ")
    assert "block 0: a graph of 3 nodes" in first
    assert "given block0." in second


def test_a_parameter_without_a_default_is_to_be_given(tmp_path, loupe_command):
    with landmarks().trace("x") as tracer:
        landmarks().output.save("logits")
    graph = tracer.graph
    graph.parameters["layer"] = Open(required=True)
    graph.save(tmp_path / "open.loupe")
    assert rows_of(loupe_command("show", str(tmp_path / "open.loupe")).stdout)["open"] == "layer to be given"


def test_a_picture_is_written_for_each_block(loupe_command, tmp_path):
    assert loupe_command("show", "steer.loupe", "--draw", str(tmp_path / "one.svg")).exit_code == 0
    assert loupe_command("show", "session.loupe", "--draw", str(tmp_path / "both.svg")).exit_code == 0
    found = sorted(path.name for path in tmp_path.iterdir())
    assert found == ["both-0.svg", "both-1.svg", "one.svg"]
    for path in tmp_path.iterdir():
        assert ElementTree.parse(path).getroot().tag.endswith("svg")
    assert "transformer.h.5.output" in (tmp_path / "one.svg").read_text()


def test_what_could_steer_a_terminal_is_written_out(loupe_command, tmp_path):
    graph = InterventionGraph()
    graph.nodes.append(Node(0, "read", Site("a", "output"), line=Line("\x1b[31mx.py", 3, "evil\x1b[2J\u202e\rline")))
    graph.nodes.append(Node(1, "save", "a\x07b\x9b", (Ref(0),)))
    graph.save(tmp_path / "hostile.loupe")
    shown = loupe_command("show", str(tmp_path / "hostile.loupe"))
    assert shown.exit_code == 0
    assert [each for each in shown.stdout if not each.isprintable() and each != "\n"] == []
    assert r"evil\x1b[2J\u202e\rline" in shown.stdout


def test_a_long_line_is_one_line_whatever_the_width_of_the_terminal(loupe_command, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    graph = InterventionGraph()
    graph.nodes.append(Node(0, "read", Site("a", "output"), line=Line("x.py", 3, "x" * 300)))
    graph.save(tmp_path / "long.loupe")
    assert "x" * 300 in loupe_command("show", str(tmp_path / "long.loupe")).stdout


@pytest.mark.parametrize(
    ("content", "fact"),
    [(b"", "a file of 0 bytes has no header"), (b"\x02" + b"\0" * 7 + b"{}", "without a graph in it")],
)
def test_a_file_that_is_no_graph_is_an_error_and_no_traceback(loupe_command, tmp_path, content, fact):
    (tmp_path / "bad").write_bytes(content)
    shown = loupe_command("show", str(tmp_path / "bad"))
    assert shown.exit_code == 1
    assert fact in shown.stderr
    assert shown.stdout == ""


def test_showing_loads_neither_torch_nor_a_model_library(files):
    program = (
        "import runpy, sys\n"
        f"sys.argv = ['loupe', 'show', {str(files / 'steer.loupe')!r}]\n"
        "try: runpy.run_module('loupe', run_name='__main__')\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "print([n for n in ('torch', 'transformers', 'tokenizers', 'safetensors', 'numpy') if n in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == "steer.loupe: a graph of 10 nodes"
    assert done.stdout.splitlines()[-1] == "[]"
