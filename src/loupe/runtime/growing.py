"""Plan looks at a graph that is still being written: each look plans what is new since the one before."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from loupe.graph.graph import Graph
from loupe.graph.node import Event, Node, constants_in
from loupe.graph.opset import TRACKING
from loupe.graph.passes import Memory, MemoryTrace, Root, changes_something, is_opaque
from loupe.runtime.plan import Answers, Plan, place_of_root, waits_for_pass

_WHOLE = frozenset(("backward", "cache", "stop"))  # what decides about lines above it


class Growing:
    """The plan of all lines of a block so far, in which one value after the other is wanted.

    Every node is kept, so that what is planned of a line stays as it is when lines are added below it. Where a line
    decides about lines above it, a plan has to be made of all of them: `look` gives None from there on.
    """

    def __init__(self, graph: Graph, changing: Callable[[], Collection[str]]) -> None:
        self._graph = graph
        self._changing = changing
        self._planned = 0
        self._grows = True
        self._memory: MemoryTrace | None = None
        self._live: set[int] = set()
        self._reads: set[int] = set()
        self._needs: dict[int, tuple[int, ...]] = {}
        self._gates: dict[Event, tuple[int, ...]] = {}
        self._events: dict[int, Event] = {}
        self._readers: dict[tuple[Root | None, int | None], list[int]] = {}
        self._saves: dict[str, int] = {}
        self._unmet: dict[int, int] = {}
        self._waiters: dict[int, tuple[int, ...]] = {}
        self._ready: list[int] = []
        self._constants: set[int] = set()
        self._written: set[int] = set()
        self._given: list[int] = []
        self._called: list[int] = []
        self._tracks = False

    def look(self, wanted: int) -> Plan | None:
        """The plan with which a run proceeds to a node."""
        nodes = self._graph.nodes
        changing = self._changing()
        while self._grows and self._planned < len(nodes):
            self._add(nodes[self._planned], changing)
            self._planned += 1
        return self._plan(wanted) if self._grows else None

    def _add(self, node: Node, changing: Collection[str]) -> None:
        if node.kind in _WHOLE or node.gradient_of is not None or (node.kind == "write" and node.site.port == "skip"):
            self._grows = False
            return
        place = node.id
        self._live.add(place)
        if node.kind == "read":
            self._reads.add(place)
        self._trace(node, changing)
        after = self._memory.after.get(place, ()) if self._memory is not None else ()
        needs = self._needs[place] = tuple(dict.fromkeys((*node.refs(), *after)))
        if node.kind in ("read", "write"):
            event = self._events[place] = node.site.event
            self._gates[event] = (*self._gates.get(event, ()), place)
        self._unmet[place] = len(needs) + waits_for_pass(node)
        for need in needs:
            self._waiters[need] = (*self._waiters.get(need, ()), place)
        if not self._unmet[place]:
            self._ready.append(place)
        self._note_kind(node)

    def _trace(self, node: Node, changing: Collection[str]) -> None:
        """Follow memory from the first line on that changes something."""
        if self._memory is None:
            if not changes_something(self._graph, node, changing):
                return
            self._memory = MemoryTrace(self._graph)
            for earlier in self._graph.nodes[: node.id]:
                self._memory.add(earlier, ())
                self._note_reader(earlier)
        self._memory.add(node, changing)
        self._note_reader(node)
        if not is_opaque(self._graph, node):
            changed = self._memory.mutates.get(node.id, ())
            self._written.update(index for kind, index in changed if kind == "const")

    def _note_reader(self, node: Node) -> None:
        assert self._memory is not None
        roots = {root for ref in node.refs() for root in self._memory.roots[ref]}
        for key in {place_of_root(self._graph, root, self._reads) for root in roots}:
            self._readers.setdefault(key, []).append(node.id)

    def _note_kind(self, node: Node) -> None:
        if node.kind == "save":
            self._saves[node.target] = node.id
        elif node.kind == "given":
            self._given.append(node.id)
        elif node.kind == "call":
            self._called.append(node.id)
        elif node.kind == "apply" and node.target in TRACKING:
            self._tracks = True
        if self._graph.constants and constants_in(node):
            self._constants.add(node.id)

    def _plan(self, wanted: int) -> Plan:
        memory = self._memory
        nothing: dict[Any, Any] = {}
        return Plan(
            graph=self._graph,
            memory=Memory((), {}, {}) if memory is None else Memory(memory.roots, memory.mutates, memory.after),
            live=self._live,
            wanted=frozenset((wanted,)),
            needs=self._needs,
            gates=self._gates,
            sites_read=self._reads,
            gradients=nothing,
            caches=(),
            readers=self._readers,
            saves=self._saves,
            events=self._events,
            unmet=self._unmet,
            waiters=self._waiters,
            ready=self._ready,
            uses=nothing,
            frees=nothing,
            constants=self._constants,
            written=self._written,
            backwards=(),
            differentiated=frozenset(),
            tracks=self._tracks,
            given=self._given,
            called=self._called,
            grows=True,
            answers=Answers(),
        )
