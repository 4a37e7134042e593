"""Find the moments of a pass at which it is known ahead what runs there, and in which order."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from loupe.graph.graph import Graph
from loupe.graph.node import RESULT, Event, Node
from loupe.graph.steps import LAST_STEP

_UNDECIDED = frozenset(("backward", "cache", "stop"))  # what they wait for is no value
_LATER = Event("", "out", -1)  # the moment of what only the pass can tell


def routines_of(
    graph: Graph, live: Collection[int], needs: Mapping[int, tuple[int, ...]], gates: Mapping[Event, Collection[int]]
) -> dict[Event, tuple[int, ...]]:
    """For each moment, the nodes that run there and wait for no other, in the order of the block.

    A moment is left out where a node that waits for it waits for another one too: which of them comes last is not known
    before the pass. So is one at which something else than a value of a module passes. Pure: no model.
    """
    places: dict[int, Event | None] = {}  # None before the pass
    found: dict[Event, list[int]] = {e: [] for e in gates if e.phase in ("in", "out") and e.path != RESULT}
    for node in [graph[each] for each in sorted(live)]:
        waits = {place for need in needs[node.id] if (place := places.get(need)) is not None}
        if node.kind in ("read", "write"):
            waits.add(node.site.event)
        if len(waits) > 1 or _LATER in waits or _is_undecided(node):
            places[node.id] = _LATER
            for event in waits:
                found.pop(event, None)
            continue
        place = places[node.id] = waits.pop() if waits else None
        if place is not None and place in found:
            found[place].append(node.id)
    return {event: tuple(nodes) for event, nodes in found.items()}


def _is_undecided(node: Node) -> bool:
    return node.kind in _UNDECIDED or node.target == LAST_STEP or node.gradient_of is not None
