"""Files lie on the disk as they should: whole or not at all, mapped and not copied, as safetensors has them."""

import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors
import torch
from safetensors.torch import load_file, save_file

import loupe
from loupe import Model
from loupe.errors import LoadError, WireError
from tests import tiny
from tests.wire.by_hand import valid

ROOT = Path(__file__).resolve().parents[2]
X = torch.linspace(-1, 1, 16).reshape(2, 8)
VALUES = [
    torch.arange(8.0),
    torch.arange(8, dtype=torch.bfloat16),
    torch.arange(8).to(torch.float8_e4m3fn),
    torch.tensor([True, False] * 4),
    torch.arange(8, dtype=torch.int16),
    torch.tensor(1.5, dtype=torch.float64),
    torch.zeros(0, 8),
]


def graph_of(*values):
    """A graph with constants."""
    model = Model(tiny.stack())
    with model.trace(X) as tracer:
        for number, value in enumerate(values):
            model.layers[0].output.type_as(value).save(f"as{number}")
    return tracer.graph


def test_the_safetensors_library_reads_the_tensors_of_a_file(tmp_path):
    graph_of(*VALUES).save(tmp_path / "graph.loupe")
    found = list(load_file(tmp_path / "graph.loupe").values())
    assert len(found) == len(VALUES)
    for value in VALUES:
        assert any(
            one.dtype is value.dtype and one.shape == value.shape and torch.equal(one.float(), value.float())
            for one in found
        )
    with safetensors.safe_open(tmp_path / "graph.loupe", "pt") as file:
        document = json.loads(file.metadata()["loupe"])
    assert document["format"] == "loupe.graph"


def test_a_container_that_the_safetensors_library_wrote_is_read(tmp_path):
    graph_of(*VALUES).save(tmp_path / "ours.loupe")
    with safetensors.safe_open(tmp_path / "ours.loupe", "pt") as file:
        text = file.metadata()
    save_file(load_file(tmp_path / "ours.loupe"), tmp_path / "theirs.loupe", text)
    assert loupe.load(tmp_path / "theirs.loupe") == loupe.load(tmp_path / "ours.loupe")


def test_a_file_that_was_written_with_json_and_struct_alone_is_read_and_run(tmp_path):
    (tmp_path / "by_hand.loupe").write_bytes(valid().bytes)
    graph = loupe.load(tmp_path / "by_hand.loupe")
    with tiny.hooked(tiny.stack(), {"layers.0": lambda output: output * 3.0 + torch.arange(8.0)}):
        want = tiny.stack()(X)
    torch.testing.assert_close(Model(tiny.stack()).run(graph, X, strength=3.0)["out"], want)


# -- files that cannot be opened ---------------------------------------------------------------------------------------


def test_a_file_that_is_not_there_is_told(tmp_path):
    with pytest.raises(LoadError, match=r"nothing\.loupe.*No such file"):
        loupe.load(tmp_path / "nothing.loupe")


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(LoadError, match="Is a directory"):
        loupe.load(tmp_path)


def test_an_empty_file_is_no_graph(tmp_path):
    (tmp_path / "empty").touch()
    with pytest.raises(WireError, match="a file of 0 bytes has no header"):
        loupe.load(tmp_path / "empty")


def test_a_path_with_a_nought_byte_is_told(tmp_path):
    with pytest.raises(LoadError, match="null byte"):
        loupe.load(f"{tmp_path}/a\0b")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_told(tmp_path):
    (tmp_path / "locked").write_bytes(valid().bytes)
    (tmp_path / "locked").chmod(0)
    with pytest.raises(LoadError, match="Permission denied"):
        loupe.load(tmp_path / "locked")


def test_weights_are_no_graph(tmp_path):
    save_file({"weight": torch.ones(3)}, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(WireError, match="a safetensors container without a graph"):
        loupe.load(tmp_path / "model.safetensors")


def test_a_pickle_is_no_graph_and_is_not_opened(tmp_path):
    class Trap:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "sprung"),))

    torch.save(Trap(), tmp_path / "model.pt")
    with pytest.raises(WireError):
        loupe.load(tmp_path / "model.pt")
    assert not (tmp_path / "sprung").exists()


def test_a_folder_that_is_not_there_is_told_when_a_graph_is_saved(tmp_path):
    with pytest.raises(LoadError, match="cannot be written"):
        graph_of().save(tmp_path / "nowhere" / "graph.loupe")


def test_a_save_that_fails_leaves_the_file_that_was_there_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "graph.loupe"
    graph_of(VALUES[0]).save(path)
    before = path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(LoadError, match="No space left"):
        graph_of(VALUES[1]).save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


# -- large constants ---------------------------------------------------------------------------------------------------


def test_changing_a_loaded_constant_changes_nothing_in_the_file(tmp_path):
    graph_of(torch.zeros(1000)).save(tmp_path / "graph.loupe")
    before = (tmp_path / "graph.loupe").read_bytes()
    loaded = loupe.load(tmp_path / "graph.loupe")
    loaded.constants[0].fill_(7)
    assert (tmp_path / "graph.loupe").read_bytes() == before
    assert not loupe.load(tmp_path / "graph.loupe").constants[0].any()


def test_a_file_can_be_saved_over_while_its_constants_are_in_use(tmp_path):
    path = tmp_path / "graph.loupe"
    graph_of(torch.arange(100_000.0)).save(path)
    loaded = loupe.load(path)
    loaded.save(path)
    graph_of(torch.zeros(100_000)).save(path)
    assert torch.equal(loaded.constants[0], torch.arange(100_000.0))
    assert not loupe.load(path).constants[0].any()


MEASURE = """
import sys, torch, loupe

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096

small = loupe.load(sys.argv[1])  # so that everything is imported
before = resident()
graph = loupe.load(sys.argv[2], check_data=False)
print(resident() - before)
print(float(graph.constants[0][-1]))
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is measured as Linux tells it")
def test_a_large_constant_is_mapped_and_not_copied(tmp_path):
    graph_of(torch.ones(3)).save(tmp_path / "small.loupe")
    graph_of(torch.full((50_000_000,), 3.0)).save(tmp_path / "large.loupe")
    assert (tmp_path / "large.loupe").stat().st_size > 200_000_000
    command = [sys.executable, "-c", MEASURE, str(tmp_path / "small.loupe"), str(tmp_path / "large.loupe")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(["src", os.environ.get("PYTHONPATH", "")])}
    answer = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT, env=environment)
    grown, last = answer.stdout.split()
    assert int(grown) < 20_000_000
    assert last == "3.0"


def test_damaged_data_are_found_unless_nobody_asks(tmp_path):
    graph_of(torch.arange(1000.0)).save(tmp_path / "graph.loupe")
    data = bytearray((tmp_path / "graph.loupe").read_bytes())
    data[-1] ^= 1
    (tmp_path / "graph.loupe").write_bytes(data)
    with pytest.raises(WireError, match="changed or damaged"):
        loupe.load(tmp_path / "graph.loupe")
    assert len(loupe.load(tmp_path / "graph.loupe", check_data=False).constants) == 1


def test_data_lie_at_multiples_of_their_size(tmp_path):
    graph_of(*VALUES).save(tmp_path / "graph.loupe")
    data = (tmp_path / "graph.loupe").read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    assert length % 8 == 0
    header = json.loads(data[8 : 8 + length])
    sizes = {"F64": 8, "F32": 4, "BF16": 2, "I16": 2, "BOOL": 1, "F8_E4M3": 1}
    for name, entry in header.items():
        if name != "__metadata__":
            assert entry["data_offsets"][0] % sizes[entry["dtype"]] == 0
