"""The page that specifies the file: the file that it writes by hand runs, and its tables are those of the code."""

import json
import re
import struct
from pathlib import Path
from typing import get_args

import pytest

import loupe
from loupe import LanguageModel
from loupe.graph.generation import GENERATION_OPTIONS
from loupe.graph.node import Kind, Port
from loupe.graph.opset import OPSET
from loupe.wire.arguments import ArgumentReader
from loupe.wire.canonical import write_json
from loupe.wire.constants import BYTES, PAIRS
from loupe.wire.container import SIZES
from loupe.wire.limits import DEFAULT
from loupe.wire.nodes import _KEYWORDS
from tests.docs.pages import first_cells, programs_of, text_of
from tests.samples.plain import close, plain_run

PAGE = "format.md"
PROMPT = "The Eiffel Tower is in"


@pytest.fixture
def by_hand(tmp_path, monkeypatch) -> Path:
    """The file that the program of the page writes, with the standard library alone."""
    (program,) = programs_of(PAGE)
    imported = re.findall(r"^(?:import|from) (\w+)", program, flags=re.MULTILINE)
    assert imported == ["hashlib", "json", "struct"]
    monkeypatch.chdir(tmp_path)
    exec(compile(program, PAGE, "exec"), {"__name__": "by_hand"})
    return tmp_path / "by_hand.loupe"


@pytest.mark.parametrize("strength", [None, -25.0])
def test_the_file_that_the_page_writes_by_hand_does_what_hooks_do(by_hand, strength):
    model = LanguageModel("loupe/landmarks")
    named = {} if strength is None else {"strength": strength}
    logits = model.run(loupe.load(by_hand), PROMPT, **named)["logits"]

    def change(passing):
        passing[:, -1] += (1.0 if strength is None else strength) * passing.new_tensor([i / 10 for i in range(96)])
        return passing

    _, want = plain_run(model, PROMPT, change={"transformer.h.5": change})
    _, without = plain_run(model, PROMPT)
    assert close(logits, want)
    assert not close(logits, without)


def test_the_file_is_the_one_that_loupe_writes_itself(by_hand, tmp_path):
    loupe.load(by_hand).save(tmp_path / "again.loupe")

    def parts(path: Path):
        data = path.read_bytes()
        (length,) = struct.unpack("<Q", data[:8])
        return json.loads(data[8 : 8 + length]), data[8 + length :]

    assert parts(tmp_path / "again.loupe") == parts(by_hand)


def test_the_tables_of_nodes_and_arguments_are_those_of_the_reader():
    rows = first_cells(text_of(PAGE, "Nodes").split("| kind |")[1].split("Three kinds")[0])
    assert tuple(cells[0] for cells in rows if cells) == get_args(Kind)
    ports = re.search(r"\| `port` \| (.*?) \|", text_of(PAGE, "Nodes"))[1]
    assert re.findall(r"`(\w+)`", ports)[:4] == [port for port in get_args(Port) if port != "grad"]
    for kind, names in _KEYWORDS.items():
        said = re.search(rf"^- `{kind}`: (.*?)(?=^- |\n\n)", text_of(PAGE, "Nodes"), flags=re.MULTILINE | re.DOTALL)[1]
        assert re.findall(r"`(\w+)`", said.replace("`null`", "")) == list(names)
    forms = [json.loads(cells[0]) for cells in first_cells(text_of(PAGE, "Arguments")) if cells]
    assert sorted(next(iter(form)) for form in forms) == sorted(ArgumentReader(DEFAULT, 0, 0)._readers)


def test_every_form_of_an_argument_is_read():
    reader = ArgumentReader(DEFAULT, nodes=4, constants=1)
    for cells in first_cells(text_of(PAGE, "Arguments")):
        if cells:
            reader.read(json.loads(cells[0]), "the argument")


def test_the_lists_of_dtypes_options_and_operations_are_those_of_the_code():
    container = re.search(r"\| `dtype` \| (.*?) \|", text_of(PAGE, "The container"))[1]
    assert sorted(re.findall(r"`(\w+)`", container)) == sorted(SIZES)
    constant = re.search(r"\| `dtype` \| (.*?) \|", text_of(PAGE, "Content"))[1]
    assert re.findall(r"`(\w+)`", constant) == [*PAIRS, *BYTES]
    options = text_of(PAGE, "Options of a generation").split("library:")[1]
    assert set(re.findall(r"`(\w+)`", options)) == GENERATION_OPTIONS
    own = {cell.split("(")[0] for cells in first_cells(text_of(PAGE, "Operations")) for cell in cells}
    assert own == {name for name in OPSET if name.startswith("loupe.")}


def test_the_limits_are_those_of_the_reader():
    rows = dict(re.findall(r"^\| ([^|]+?) \| ([^|]+?) \|$", text_of(PAGE, "Limits"), flags=re.MULTILINE))
    whole = {what: int(most.replace(",", "")) for what, most in rows.items() if most.replace(",", "").isdecimal()}
    assert whole == {
        "nodes, of all blocks together": DEFAULT.nodes,
        "blocks of a session": DEFAULT.blocks,
        "characters of a string": DEFAULT.text,
        "entries of a list": DEFAULT.items,
        "dimensions of a tensor": DEFAULT.dimensions,
    }
    assert rows["header"] == f"{DEFAULT.header >> 20} MiB"
    assert rows["containers inside each other"].startswith(f"{DEFAULT.depth} in an argument, {DEFAULT.depth + 16} in")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1.0, "1.0"),
        (0.0001, "0.0001"),
        (1e-05, "1e-05"),
        (1e15, "1000000000000000.0"),
        (1.5e16, "1.5e+16"),
        (-0.0, "-0.0"),
        (-7, "-7"),
        ('"\\\n\x01\x1f\x7fé', '"\\"\\\\\\n\\u0001\\u001f\x7fé"'),
        ({"b": 1, "a": 2, "é": 3, "B": 4}, '{"B":4,"a":2,"b":1,"é":3}'),
    ],
)
def test_numbers_strings_and_keys_are_written_as_the_page_says(value, text):
    assert write_json(value) == text
