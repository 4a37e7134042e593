"""Work out when each node of a graph is due: at the latest of what it waits for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from loupe.graph.node import Node
from loupe.graph.picture.order import AFTER, BEFORE, Order, Place, begin

if TYPE_CHECKING:
    from loupe.graph.graph import Graph

NAMED = frozenset(("parameter", "given"))  # what is there before the model runs, and stands by its name


class Timetable:
    """The places of all nodes of a graph in its run, by number."""

    def __init__(self, graph: Graph) -> None:
        self.order = Order(graph.events, graph.sites)
        self.places = self._due(graph)
        calls = {node.target: self.places[node.id] for node in reversed(graph.nodes) if node.kind == "call"}
        if calls:  # what is inside a module that the block calls comes by when it does
            self.order.anchors = {path: place for path, place in calls.items() if path}
            self.places = self._due(graph)

    def opening(self, node: Node) -> Place:
        """When the site of a read or a write is open."""
        return self._opening(node, self.places)

    def _due(self, graph: Graph) -> list[Place]:
        places: list[Place] = []
        last = BEFORE
        for node in graph:
            due = max((places[ref] for ref in values_taken(node)), default=BEFORE)
            if node.steps is not None and node.kind not in NAMED:
                due = max(due, begin(node.steps))
            elif due.group:
                due = AFTER
            if node.kind in ("read", "write"):
                due = max(due, self._opening(node, places))
                last = max(last, due)
            places.append(max(due, last) if node.kind == "stop" else due)
        return places

    def _opening(self, node: Node, places: list[Place]) -> Place:
        if node.gradient_of is None:
            return self.order.place(node.site, node.steps)
        part, step, group, index = places[node.gradient_of]  # gradients come by in the opposite order
        return Place(3, node.site.call, 0, tuple(-value for value in (part, step, group, *index, node.gradient_of)))


def values_taken(node: Node) -> list[int]:
    """The nodes whose values a node takes, each once; whose gradient it is about is another matter."""
    refs = node.refs()
    return list(dict.fromkeys(refs if node.gradient_of is None else refs[1:]))
