"""Merge the graphs of blocks that do not depend on each other into one, in which each is about rows of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from loupe.graph.compose import append, bind, moved
from loupe.graph.graph import Graph
from loupe.graph.node import Node, Ref
from loupe.graph.opset import effect_of
from loupe.graph.passes import Memory

_OPTIONS = frozenset(("retain_graph", "only_inputs"))  # of a backward pass that may be run together with others


class Scope(NamedTuple):
    """What `invoke` of a merged graph's node stands for: the rows of some neighbouring inputs of one part."""

    part: int
    first: int
    count: int


@dataclass(frozen=True, slots=True)
class Part:
    """A block that is to run with others: its graph, and the places of its inputs among those of the merged run."""

    graph: Graph
    inputs: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Merged:
    """One graph of several parts: whose rows its nodes are about, and under which names the parts find what they save.

    `names[p]` takes the names of part p to those of the merged graph.
    """

    graph: Graph
    scopes: tuple[Scope, ...]
    names: tuple[dict[str, str], ...]


class Alone(NamedTuple):
    """Why a block has to run by itself; where `keeps_order`, no block may run on the other side of it either."""

    reason: str
    keeps_order: bool = False


def why_alone(graph: Graph, memory: Memory) -> Alone | None:
    """What keeps a block from running in one batch with others; None where nothing does.

    >>> why_alone(tracer.graph, memory_of(tracer.graph))
    """
    if graph.generation is not None:
        return Alone("it generates", keeps_order=True)  # sampling draws random numbers
    if graph.looks:
        return Alone("Python looked at a value in it", keeps_order=True)
    if graph.functions:
        return Alone("it calls a function of the user's", keeps_order=True)
    kinds = {node.kind for node in graph}
    for kind, reason in (
        ("cache", "it collects with tracer.cache"),
        ("stop", "it stops the pass"),
        ("set_parameter", "it runs with other weights"),
    ):
        if kind in kinds:
            return Alone(reason)
    if any(node.kind == "apply" and effect_of(node.target) == "random" for node in graph):
        return Alone("it draws random numbers", keeps_order=True)
    for roots in memory.mutates.values():
        if any(kind == "const" or graph[index].kind in ("given", "parameter") for kind, index in roots):
            return Alone("it changes a tensor in place that is not its own", keeps_order=True)
    return _why_backward_alone(graph) if "backward" in kinds else None


def _why_backward_alone(graph: Graph) -> Alone | None:
    """Losses of several blocks are added up, and one backward pass is run: each value still has its own gradient."""
    if len(graph.backwards) > 1:
        return Alone("it runs several backward passes", keeps_order=True)
    if not _OPTIONS.issuperset(graph[graph.backwards[0]].kwargs):
        return Alone("its backward pass has options of its own", keeps_order=True)
    for node in graph:
        if node.gradient_of is not None and graph[node.gradient_of].kind in ("parameter", "given"):
            return Alone("it asks for the gradient of a weight", keeps_order=True)
    return None


def kind_of_run(graph: Graph) -> object:
    """What graphs have to have in common to be merged: the options of their backward pass, or that there is none."""
    backwards = graph.backwards
    return None if not backwards else tuple(sorted(graph[backwards[0]].kwargs.items()))


def merge(parts: Sequence[Part]) -> Merged:
    """One graph for several blocks of one kind of run, each of which `why_alone` says nothing against.

    Several inputs of a part have to be neighbours. Pure: no model, and nothing of what the inputs are.
    """
    return _Merging(parts).result()


class _Merging:
    """Puts parts one behind the other."""

    def __init__(self, parts: Sequence[Part]) -> None:
        self._parts = parts
        self._merged = Graph()
        self._scopes: list[Scope] = []
        self._names: list[dict[str, str]] = []

    def result(self) -> Merged:
        """The merged graph; backward passes become one."""
        starts = [self._add(place, part) for place, part in enumerate(self._parts)]
        graph = _with_one_backward(self._merged, starts) if self._merged.backwards else self._merged
        graph.parts = tuple(scope.part for scope in self._scopes)
        return Merged(graph, tuple(self._scopes), tuple(self._names))

    def _add(self, place: int, part: Part) -> int:
        """Put a part behind the others; gives the number of its first node."""
        start, first, single = len(self._merged), part.inputs[0], len(self._scopes)
        assert list(part.inputs) == list(range(first, first + len(part.inputs)))
        self._scopes += [Scope(place, each, 1) for each in part.inputs] if part.graph.invokes else []
        whole = len(self._scopes)
        self._scopes.append(Scope(place, first, len(part.inputs)))
        names: dict[str, str] = {}
        self._names.append(names)

        def own(node: Node) -> Node:
            node.invoke = whole if node.invoke is None else single + node.invoke
            if node.kind == "save":
                name = names[node.target] = f"{place}/{node.target}"
                node.target = name
            return node

        append(self._merged, bind(part.graph, {}) if part.graph.parameters else part.graph, own)
        return start


def _with_one_backward(graph: Graph, starts: Sequence[int]) -> Graph:
    """A graph in which one backward pass, from the sum of all losses, stands for those of its parts.

    What stands above them in each part comes first, then that pass, then what stands below. `starts` are the first
    nodes of the parts.
    """
    ends = [*starts[1:], len(graph)]
    passes = graph.backwards
    above = [node for start, own in zip(starts, passes, strict=True) for node in range(start, own)]
    below = [node for own, end in zip(passes, ends, strict=True) for node in range(own + 1, end)]
    whole = Graph()
    whole.constants, whole.functions = graph.constants, graph.functions
    places: dict[int, int] = {}

    def put(nodes: Sequence[int]) -> None:
        for node in nodes:
            places[node] = len(whole)
            whole.nodes.append(moved(graph[node], places))

    put(above)
    losses = [Ref(places[ref]) for own in passes for ref in graph[own].refs()[:1]]
    total = losses[0]
    for loss in losses[1:]:
        whole.nodes.append(Node(len(whole), "apply", "operator.add", (total, loss)))
        total = Ref(len(whole) - 1)
    first = graph[passes[0]]
    places.update(dict.fromkeys(passes, len(whole)))
    whole.nodes.append(Node(len(whole), "backward", None, (total,), first.kwargs, None, first.line))
    put(below)
    return whole
