"""Say what comes into a run from outside, by name: open parameters of its graph, values of earlier blocks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from loupe.errors import InputError
from loupe.graph.graph import Graph
from loupe.graph.node import Const, map_argument


class Given(Protocol):
    """The values that come into a run from outside, by name."""

    def value(self, name: str) -> Any:
        """The value; raises InputError where nothing is given."""
        ...

    def describe(self, name: str) -> Any:
        """The value without data, where that can be had without a run."""
        ...

    def before(self, run: object) -> None:
        """Called when the first pass of a run is about to begin."""
        ...


class Nothing:
    """No values come into a run from outside."""

    def value(self, name: str) -> Any:
        """Raise InputError."""
        raise InputError(f"nothing is given for {name!r}", remedy=f"pass {name}=… to the run")

    def describe(self, name: str) -> Any:
        """Raise InputError."""
        return self.value(name)

    def before(self, run: object) -> None:
        """Nothing has to happen before a run."""


class Opened:
    """The open parameters of a graph, by their defaults or as they are given; other names are looked up in `rest`."""

    def __init__(self, graph: Graph, values: Mapping[str, Any] | None = None, rest: Given | None = None) -> None:
        self._graph = graph
        self._values = values or {}
        self._rest: Given = Nothing() if rest is None else rest

    def value(self, name: str) -> Any:
        """The value of a parameter, or of another name."""
        if name in self._values:
            return self._values[name]
        opened = self._graph.parameters.get(name)
        if opened is None:
            return self._rest.value(name)
        if opened.required:
            raise InputError(
                f"nothing is given for the open parameter {name!r}, which has no default",
                remedy=f"pass {name}=… to model.run(graph, ...), or a default to loupe.param({name!r}, ...)",
            )
        constants = self._graph.constants
        return map_argument(opened.default, lambda leaf: constants[leaf.index] if type(leaf) is Const else leaf)

    def describe(self, name: str) -> Any:
        """The value of a parameter, or another value without data."""
        return self.value(name) if name in self._graph.parameters else self._rest.describe(name)

    def before(self, run: object) -> None:
        """Parameters are there; others may have to be made."""
        self._rest.before(run)
