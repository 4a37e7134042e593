"""Files that were written under the oldest torch that loupe supports are read, are what is recorded now, and run."""

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

import loupe
from loupe import Model
from tests.files.written.make import MAKERS, Blocks, X

FOLDER = Path(__file__).parent / "written" / "torch-2.6"


@pytest.fixture(params=MAKERS, ids=lambda maker: maker.__name__)
def maker(request):
    return request.param


def test_a_file_of_the_oldest_torch_gives_what_plain_torch_gave_there(maker):
    graph = loupe.load(FOLDER / f"{maker.__name__}.loupe")
    inputs = [X[:1], X[1:]] if graph.invokes else [X]
    found = Model(Blocks()).run(graph, *inputs)
    wanted = load_file(FOLDER / f"{maker.__name__}.safetensors")
    assert set(found) == set(wanted)
    for name, value in wanted.items():
        torch.testing.assert_close(found[name].detach(), value, atol=1e-5, rtol=1e-4)


def test_the_same_lines_recorded_now_are_the_same_graph(maker):
    module = Blocks()
    graph, _ = maker(Model(module), module)
    then = loupe.load(FOLDER / f"{maker.__name__}.loupe")
    assert str(graph) == str(then) or sorted(str(graph)) == sorted(str(then))
    assert graph.hash == then.hash
    assert graph == then


def test_the_files_were_written_under_the_oldest_torch():
    for path in FOLDER.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            assert file.metadata()["torch"].startswith("2.6.")
    assert len(list(FOLDER.glob("*.loupe"))) == len(MAKERS)
