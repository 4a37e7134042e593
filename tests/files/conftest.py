"""Share what several tests of files need."""

import pytest

import loupe


@pytest.fixture
def stored(tmp_path):
    """A graph by way of a file."""

    def store(graph):
        graph.save(tmp_path / "graph.loupe")
        return loupe.load(tmp_path / "graph.loupe")

    return store
