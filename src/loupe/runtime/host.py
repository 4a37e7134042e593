"""Say what the runtime needs of a host: something that can be called with prompts, and whose modules can be tapped."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol
from weakref import WeakKeyDictionary

from torch import nn

from loupe.errors import Line
from loupe.graph.graph import Graph
from loupe.graph.node import Event, Site


class Input(NamedTuple):
    """What one invoke was given, as the user wrote it."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    line: Line | None = None


class Batch(NamedTuple):
    """The call that runs all inputs at once, and the rows `(start, size)` of each input in it."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    rows: tuple[tuple[int, int], ...] = ()
    total: int = 0
    method: str = "forward"


_locks: WeakKeyDictionary[nn.Module, threading.RLock] = WeakKeyDictionary()


def lock_of(module: nn.Module) -> threading.RLock:
    """The lock that all passes of a module share, however many times it is wrapped."""
    return _locks.setdefault(module, threading.RLock())


class Host(Protocol):
    """Something that can be called: prepares inputs, merges rows, forwards."""

    lock: threading.RLock

    @property
    def module(self) -> nn.Module:
        """The module that a run calls."""
        ...

    @property
    def prefix(self) -> str:
        """The path of that module in the model whose paths sites use; '' for the model itself."""
        ...

    def load(self) -> None:
        """Bring the weights, where they are not there yet."""
        ...

    def merge(self, inputs: Sequence[Input], generation: dict[str, Any] | None = None) -> Batch:
        """One call for several inputs, a generation where options for one are given; raises InputError."""
        ...

    def call(self, batch: Batch) -> Any:
        """Run the batch: the forward pass, or the method that the batch names."""
        ...

    def steps(self, batch: Batch) -> int:
        """The most steps that a generation can have; 1 for a forward pass."""
        ...

    def settings(self, graph: Graph, module: nn.Module) -> AbstractContextManager[None]:
        """What a run of this graph sets on the module for its length (eager attention where a pattern is read)."""
        ...

    def settings_key(self, graph: Graph) -> str:
        """Names these settings, for what is cached about a run."""
        ...

    def blocks(self) -> list[str]:
        """The paths of modules through which all that the model computes may be expected to pass, one after another."""
        ...

    def stand_in(self, site: Site) -> Site | None:
        """Another site at which the same value passes, where the named module may not be called."""
        ...

    def reorders(self, event: Event) -> bool:
        """Whether rows pass there in an order that depends on the data, so that a scan cannot tell whose they are."""
        ...
