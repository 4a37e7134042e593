"""Keep plans by the structure of their graphs, so that a block which is traced again is not planned again."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from loupe.graph.graph import Graph
from loupe.graph.structure import structure
from loupe.runtime.plan import Plan, make_plan

_MOST = 256


class Plans:
    """The plans of one model's graphs.

    A plan is a function of the structure of its graph and of how it is asked for, and both are its key; so it never has
    to be forgotten, but for want of room.
    """

    def __init__(self) -> None:
        self._known: dict[Any, Plan] = {}

    def of(self, graph: Graph, *, changing: Collection[str] = (), everything: bool = False) -> Plan:
        """The plan of a graph for all that leaves the run."""
        key = structure(graph), graph.parts, frozenset(changing), everything
        known = self._known.get(key)
        if known is None:
            if len(self._known) >= _MOST:
                self._known.clear()
            plan = make_plan(graph, changing=changing, everything=everything)
            known = self._known[key] = plan.of(Graph())  # which holds nothing of the user's
        return known.of(graph)
