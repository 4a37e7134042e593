"""Turn a graph into a plan: what runs at which moment, what waits for what, what is freed when, where to stop."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

from loupe.errors import BlockError
from loupe.graph.graph import Graph
from loupe.graph.node import RESULT, Event, Node, constants_in
from loupe.graph.opset import TRACKING
from loupe.graph.passes import Memory, Root, changed_refs, is_opaque, needed, trace_memory
from loupe.graph.steps import LAST_STEP
from loupe.runtime.routines import routines_of

Readers = dict[tuple[Root | None, int | None], tuple[int, ...]]


@dataclass(slots=True)
class Answers:
    """What a host has said about the graph of a plan: how its model is to be set up, and which sites stand in."""

    settings_key: str | None = None
    sets_nothing: bool = False
    stand_ins: dict[Event, Event] | None = None


class Change(NamedTuple):
    """What can be said of a change in place before a run.

    `opaque` says that a function or a module may change anything. `refs` are the nodes whose values are changed; it may
    be about the reads of sites in `sites`, and about the parameters whose paths are in `parameters`.
    """

    opaque: bool
    refs: tuple[int, ...]
    sites: tuple[int, ...]
    parameters: tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """What a graph needs of a run, worked out without tensors.

    `needs[n]` must be done before node n; `gates` says which reads and writes wait for which moment of the pass;
    `wanted` are the nodes whose results leave the run. When these are done the pass stops; where nothing is wanted it
    runs to its end, like a plain call. `caches` collect at each call of their modules. `readers[r, None]` take a value
    that may share memory with the root r, in order; those under (None, p) take one that was read at a site in part p of
    the graph. `saves` are the nodes that save, by name.

    What a run looks up: `events[n]` is the moment of a read or write, `unmet[n]` how much node n waits for before
    anything has happened, `waiters[n]` wait for it, `ready` wait for nothing; `uses[n]` is how often a value is taken,
    `frees[n]` are the values of which node n takes one use. `constants` are the nodes that take constants, `written`
    the constants that a function of torch changes in place. `backwards` are the backward passes, `differentiated` the
    nodes of which a gradient is asked for; `tracks` says that a line asks for gradients without one. `given` and
    `called` are the nodes that take a value from outside, and that call a module. `routines` have the nodes of moments
    at which all that runs is known ahead. `paths` are those of the modules that are tapped; `looks_inside` says that
    operations in one are.

    A plan that `grows` is about every node, and another may follow in which further nodes are planned in addition.
    """

    graph: Graph
    memory: Memory
    live: Set[int]
    wanted: frozenset[int]
    needs: dict[int, tuple[int, ...]]
    gates: dict[Event, tuple[int, ...]]
    sites_read: Set[int]
    gradients: dict[int, dict[int, bool]]
    caches: tuple[int, ...]
    readers: Mapping[tuple[Root | None, int | None], Sequence[int]]
    saves: dict[str, int]
    events: dict[int, Event]
    unmet: dict[int, int]
    waiters: dict[int, tuple[int, ...]]
    ready: Sequence[int]
    uses: dict[int, int]
    frees: dict[int, tuple[int, ...]]
    constants: Set[int]
    written: Set[int]
    backwards: tuple[int, ...]
    differentiated: frozenset[int]
    tracks: bool
    given: Sequence[int]
    called: Sequence[int]
    routines: Mapping[Event, tuple[int, ...]] = field(default_factory=dict)
    paths: tuple[str, ...] = ()
    looks_inside: bool = False
    grows: bool = False
    answers: Answers = field(default_factory=Answers, compare=False, repr=False)
    changes: dict[int, Change] = field(default_factory=dict, compare=False, repr=False)

    def of(self, graph: Graph) -> Plan:
        """The plan of another graph with the same structure."""
        other = object.__new__(Plan)
        other.__dict__.update(self.__dict__)
        other.__dict__["graph"] = graph
        return other

    @cached_property
    def changed(self) -> frozenset[Root]:
        """Every root that an in-place change may be about; values of two sites may be one tensor."""
        roots = frozenset[Root]().union(*self.memory.mutates.values())
        if any(self._is_site(root) for root in roots):
            return roots | {("node", read) for read in self.sites_read}
        return roots

    def __str__(self) -> str:
        rows = []
        started = [n for n in sorted(self.live) if not self.needs[n] and self.graph[n].kind not in ("read", "write")]
        if started:
            rows.append("start: " + " ".join(f"%{n}" for n in started))
        for event, nodes in self.gates.items():
            rows.append(f"{event}: " + " ".join(f"%{n}" for n in nodes))
        rows.append("wanted: " + (" ".join(f"%{n}" for n in sorted(self.wanted)) or "nothing, run to the end"))
        return "\n".join(rows)

    def earlier_readers(self, change: int, since: int = 0) -> list[int]:
        """Nodes from `since` on, above an in-place change, that take what may share memory with what it changes.

        Values of two sites may be one tensor (a block's output, the next one's input): one stands for all.
        """
        roots = self.memory.mutates[change]
        keys = {place_of_root(self.graph, root, self.sites_read) for root in roots}
        if any(root is None for root, _ in keys):
            keys.add((None, None))  # what is about all rows is about these too
        if (None, None) in keys and any(self._is_site(root) and self.graph[root[1]].invoke is None for root in roots):
            keys.update(key for key in self.readers if key[0] is None)
        found: set[int] = set()
        for key in keys:
            readers = self.readers.get(key, ())
            found.update(readers[bisect_left(readers, since) : bisect_left(readers, change)])
        return sorted(found)

    def _is_site(self, root: Root) -> bool:
        return root[0] == "node" and root[1] in self.sites_read

    def change(self, node_id: int) -> Change:
        """What can be said of a node that may change something in place; found out once while a plan is kept."""
        found = self.changes.get(node_id)
        if found is None:
            node = self.graph[node_id]
            roots = [self.graph[index] for kind, index in self.memory.mutates[node_id] if kind == "node"]
            found = self.changes[node_id] = Change(
                node.kind == "call" or is_opaque(self.graph, node),
                tuple(changed_refs(node)),
                tuple(root.id for root in roots if root.id in self.sites_read),
                tuple(root.target for root in roots if root.kind == "parameter"),
            )
        return found


def make_plan(
    graph: Graph,
    *,
    wanted: Iterable[int] | None = None,
    keep: Iterable[int] = (),
    changing: Collection[str] = (),
    everything: bool = False,
) -> Plan:
    """Work out a plan for a graph; `wanted` defaults to its saves, and functions that may do anything. Pure: no model.

    `keep` are nodes that are done where the pass comes by, although nobody waits for them. `changing` are the paths of
    modules that change their arguments in place when a node calls them. `everything` says that each operation is
    wanted, whether or not something comes of it.

    >>> print(make_plan(tracer.graph))
    """
    memory = trace_memory(graph, changing)
    stops = {node.id: _above(graph, node) for node in graph if node.kind == "stop"}
    if wanted is None:
        changed = [node for node, roots in memory.mutates.items() if any(kind == "const" for kind, _ in roots)]
        wanted = [node.id for node in graph if node.kind in ("save", "cache", "stop") or is_opaque(graph, node)]
        wanted += changed  # a tensor of the user's own is changed: that leaves the run
        wanted += [node.id for node in graph if everything and node.kind in ("apply", "call")]
    asked = {*wanted, *graph.backwards}
    live = needed(graph, memory, asked.union(keep, *stops.values()))
    skips = [node for node in graph if node.kind == "write" and node.site.port == "skip"]
    if skips:
        _check_skips(skips, [graph[node] for node in needed(graph, memory, asked.union(*stops.values()))])
    needs: dict[int, tuple[int, ...]] = {}
    uses = dict.fromkeys(live, 0)
    frees: dict[int, tuple[int, ...]] = {}
    gates: dict[Event, list[int]] = {}
    reads = frozenset(node.id for node in graph if node.kind == "read")
    gradients = _gradients(graph, live)
    backwards = graph.backwards
    for node_id in sorted(live):
        node = graph[node_id]
        refs = [*node.refs(), *gradients.get(node_id, ()), *stops.get(node_id, ())]
        before = backwards[: backwards.index(node_id)][-1:] if node.kind == "backward" else ()
        needs[node_id] = tuple(dict.fromkeys((*refs, *memory.after.get(node_id, ()), *before)))
        held = [index for kind, index in memory.mutates.get(node_id, ()) if kind == "node" and index in reads]
        frees[node_id] = tuple(dict.fromkeys((*refs, *held)))
        for ref in frees[node_id]:
            uses[ref] += 1
        if node.kind in ("read", "write"):
            gates.setdefault(node.site.event, []).append(node_id)
    caches = tuple(node.id for node in graph if node.kind == "cache" and node.id in live)
    unmet, waiters = _waiting(graph, live.difference(caches), needs)
    return Plan(
        graph=graph,
        memory=memory,
        live=live,
        wanted=frozenset(asked),
        needs=needs,
        gates={event: tuple(nodes) for event, nodes in gates.items()},
        sites_read=reads,
        gradients=gradients,
        caches=caches,
        readers=_readers(graph, live, memory, reads),
        saves={node.target: node.id for node in graph if node.kind == "save" and node.id in live},
        events={node: event for event, nodes in gates.items() for node in nodes},
        unmet=unmet,
        waiters={node: tuple(found) for node, found in waiters.items()},
        ready=tuple(node for node, count in unmet.items() if not count),
        uses=uses,
        frees=frees,
        constants=frozenset(node for node in live if constants_in(graph[node])) if graph.constants else frozenset(),
        written=_written(graph, memory),
        backwards=tuple(backwards),
        differentiated=frozenset(node for nodes in gradients.values() for node in nodes),
        tracks=any(node.kind == "apply" and node.target in TRACKING for node in graph),
        given=tuple(node.id for node in graph if node.kind == "given"),
        called=tuple(node for node in sorted(live) if graph[node].kind == "call"),
        routines=routines_of(graph, live, needs, gates),
        paths=tuple(dict.fromkeys(e.path for e in gates if e.phase != "grad" and e.path != RESULT)),
        looks_inside=any(event.op is not None for event in gates),
    )


def _waiting(
    graph: Graph, nodes: Collection[int], needs: dict[int, tuple[int, ...]]
) -> tuple[dict[int, int], dict[int, list[int]]]:
    """How much each node waits for before anything has happened, in order, and who waits for whom."""
    unmet: dict[int, int] = {}
    waiters: dict[int, list[int]] = {}
    for node_id in sorted(nodes):
        unmet[node_id] = len(needs[node_id]) + waits_for_pass(graph[node_id])
        for need in needs[node_id]:
            waiters.setdefault(need, []).append(node_id)
    return unmet, waiters


def waits_for_pass(node: Node) -> bool:
    """Whether a node waits for a moment of the pass, or, as the last of no steps, for what never comes."""
    return node.kind in ("read", "write") or (node.target == LAST_STEP and not node.refs())


def _written(graph: Graph, memory: Memory) -> frozenset[int]:
    changes = [node for node in memory.mutates if not is_opaque(graph, graph[node])]
    return frozenset(index for node in changes for kind, index in memory.mutates[node] if kind == "const")


def _readers(graph: Graph, live: Collection[int], memory: Memory, sites: Collection[int]) -> Readers:
    """The live nodes by the roots of what they take; of a value that was read at a site, by its part of the graph."""
    if not memory.mutates:
        return {}
    found: dict[tuple[Root | None, int | None], list[int]] = {}
    for node in sorted(live):
        roots = {root for ref in graph[node].refs() for root in memory.roots[ref]}
        for key in {place_of_root(graph, root, sites) for root in roots}:
            found.setdefault(key, []).append(node)
    return {key: tuple(nodes) for key, nodes in found.items()}


def place_of_root(graph: Graph, root: Root, sites: Collection[int]) -> tuple[Root | None, int | None]:
    """Where a root may share memory with others: values of sites may be one tensor, as far as they have its rows."""
    kind, index = root
    return (None, graph.part(graph[index].invoke)) if kind == "node" and index in sites else (root, None)


def _check_skips(skips: list[Node], needed: list[Node]) -> None:
    """A module that is skipped has one output: lines above the skip cannot be about another."""
    for skip in skips:
        for node in needed:
            if node.id >= skip.id or node.kind not in ("read", "write") or node.site.port != "output":
                continue
            same_rows = node.invoke == skip.invoke or None in (node.invoke, skip.invoke)
            if node.site.event == skip.site.lands and same_rows:
                raise BlockError(
                    f"{skip.site.module} is skipped, but a line above {node.kind}s its output"
                    + (f" (at {node.line})" if node.line else ""),
                    remedy="put the skip above that line; or assign `module.output = …`, which lets the module run and "
                    "replaces what it returns",
                    line=skip.line,
                )


def _above(graph: Graph, stop: Node) -> list[int]:
    """The reads and writes above a stop: the pass ends there once they are done."""
    if "after" in stop.kwargs:
        return stop.refs()
    return [node.id for node in graph.nodes[: stop.id] if node.kind in ("read", "write")]


def _gradients(graph: Graph, live: Collection[int]) -> dict[int, dict[int, bool]]:
    """For each backward pass, the nodes whose gradients are open during it, and whether they are kept on the values."""
    found: dict[int, dict[int, bool]] = {backward: {} for backward in graph.backwards}
    order = graph.backwards
    for node in (graph[each] for each in sorted(live)):
        if node.gradient_of is not None and node.site.call < len(order):
            found[order[node.site.call]].setdefault(node.gradient_of, False)
        elif node.kind == "apply" and node.target in TRACKING:
            for backward in order:
                if backward > node.id:
                    found[backward].update(dict.fromkeys(node.refs(), True))
    return found
