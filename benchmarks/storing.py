"""Measure how long a graph of many nodes takes to be saved, and to be loaded."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import loupe
from benchmarks.linear_stack import LinearStack
from benchmarks.recording import recorded_graph
from benchmarks.suite import Unequal
from benchmarks.timing import Spread, no_garbage_collection


@dataclass(frozen=True, slots=True)
class StorageCosts:
    """CPU milliseconds for a graph of `nodes` nodes, whose file has `size` bytes."""

    nodes: int
    size: int
    save: Spread
    load: Spread
    hash: Spread


def measure_storage(*, operations: int, rounds: int) -> StorageCosts:
    """Save and load the graph of a chain of additions; raises Unequal where another one comes back."""
    graph: Any = recorded_graph(LinearStack(), operations)
    save, load, digest = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "graph.loupe"
        graph.save(path)
        if loupe.load(path) != graph:
            raise Unequal("a graph is another one after it was saved and loaded")
        with no_garbage_collection():
            for _ in range(rounds):
                save.append(_cpu(lambda: graph.save(path)))
                load.append(_cpu(lambda: loupe.load(path)))
                digest.append(_cpu(lambda: graph.hash))
        size = path.stat().st_size
    return StorageCosts(len(graph), size, Spread.of(save), Spread.of(load), Spread.of(digest))


def _cpu(call: Callable[[], Any]) -> float:
    started = time.process_time()
    call()
    return (time.process_time() - started) * 1e3
