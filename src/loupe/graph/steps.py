"""Unroll what a block says of each step of a generation into what happens at single steps."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from loupe.graph.compose import moved
from loupe.graph.graph import Graph
from loupe.graph.node import Kind, Node, Ref, Site
from loupe.graph.structure import structure

# Takes a value of each step to what it is at the last one that happens; with a number, at that step.
LAST_STEP = "loupe.last_step"


@dataclass(frozen=True, slots=True)
class Unrolled:
    """A graph without step-wise nodes, and where the nodes of the recorded one went.

    `last[n]` is the copy of node n that happens last; `at[n]` are its copies by step, for step-wise nodes only.
    """

    graph: Graph
    last: dict[int, int]
    at: dict[int, dict[int, int]]

    def extends(self, other: Unrolled) -> bool:
        """Whether the copies of an earlier part of the graph are where they were."""
        return all(self.last.get(node) == copy for node, copy in other.last.items()) and all(
            self.at.get(node) == copies for node, copies in other.at.items()
        )


def unroll(graph: Graph, total: int, calls_each: Callable[[str], int] = lambda _path: 1) -> Unrolled:
    """Instantiate the step-wise nodes of a graph at each of `total` steps; a graph without such nodes stays as it is.

    The nodes of one `with tracer.iter[...]` block are repeated together, step by step, as the lines of a loop would be.
    One that takes a value of another such block takes it as it is at its own step. `calls_each` says how often one step
    calls a module.
    """
    if all(node.steps is None for node in graph):
        same = {node.id: node.id for node in graph}
        return Unrolled(graph, same, {})
    return _Unrolling(graph, total, calls_each).result()


class _Unrolling:
    """Writes the graph without step-wise nodes, copy by copy."""

    def __init__(self, graph: Graph, total: int, calls_each: Callable[[str], int]) -> None:
        self._graph = graph
        self._total = total
        self._calls_each = calls_each
        self._calls: dict[str, int] = {}
        self._flat = Graph()
        self._flat.constants, self._flat.functions = graph.constants, graph.functions
        self._last: dict[int, int] = {}
        self._at: dict[int, dict[int, int]] = {}

    def result(self) -> Unrolled:
        """Go through the blocks of the graph, in order."""
        for steps, block in groupby(self._graph, key=lambda node: node.steps):
            nodes = list(block)
            if steps is None:
                for node in nodes:
                    self._copy(node, None)
                continue
            for node in nodes:
                if node.kind == "cache":  # collects at many calls anyway, and knows which
                    self._copy(node, None)
                    self._flat.nodes[-1].steps = steps
            for step in steps.of(self._total):
                for node in nodes:
                    if node.kind != "cache":
                        self._copy(node, step)
                        self._at.setdefault(node.id, {})[step] = self._last[node.id]
        named = tuple([_step_named(node) for node in self._graph if node.kind == "stop" or node.target == LAST_STEP])
        calls = tuple(self._calls.items())  # with the recorded graph, all these decide about the rest
        self._flat.structure_key = ("steps", structure(self._graph), self._total, named, calls)
        return Unrolled(self._flat, self._last, self._at)

    def _copy(self, node: Node, step: int | None) -> None:
        """Append one node, at one step."""
        if node.target == LAST_STEP:
            self._append(node, node.target, (self._of_last_step(node),), node.kwargs)
            return
        if node.kind == "stop" and (here := node.kwargs.get("step", step)) is not None:
            self._append(node, node.target, node.args, {"after": self._above(node, here)})
            return
        places = {ref: self._place(ref, step) for ref in node.refs()}
        places[node.id] = self._last[node.id] = len(self._flat.nodes)
        copied = moved(node, places)
        copied.steps = None
        target = copied.target
        if step is not None and node.kind == "save":
            copied.target = step_name(target, step)
        elif step and type(target) is Site and target.port != "grad":
            copied.target = target._replace(call=target.call + step * self._times(target.path))
        self._flat.nodes.append(copied)

    def _times(self, path: str) -> int:
        """How often one step calls a module."""
        if path not in self._calls:
            self._calls[path] = self._calls_each(path)
        return self._calls[path]

    def _append(
        self, node: Node, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any], kind: Kind | None = None
    ) -> None:
        """Write down a copy of a node, which is about no steps any more."""
        nodes = self._flat.nodes
        place = self._last[node.id] = len(nodes)
        nodes.append(Node(place, kind or node.kind, target, args, kwargs, node.invoke, node.line, None, node.modes))

    def _place(self, ref: int, step: int | None) -> int:
        """The copy of a node that is meant at a step."""
        if step is None or self._graph[ref].steps is None:
            return self._last[ref]
        copies = self._at.get(ref, {})
        if not copies:  # its steps are none of this run's, so it never comes
            self._append(self._graph[ref], LAST_STEP, ([],), {}, "apply")
            return self._last[ref]
        return copies[_seen_from(step, copies)]

    def _of_last_step(self, node: Node) -> list[Ref]:
        """The copies of a value of which the last that comes about is meant: all, or the one at a step."""
        (value,), step = node.refs(), node.args[1] if len(node.args) > 1 else None
        copies = self._at.get(value, {})
        meant = copies if step is None or not copies else (_seen_from(step, copies),)
        return [Ref(copies[each]) for each in meant]

    def _above(self, stop: Node, step: int) -> list[Ref]:
        """The reads and writes above a stop, those of each step as far as the one at which it stands."""
        found: list[int] = []
        for node in self._graph.nodes[: stop.id]:
            if node.kind in ("read", "write"):
                copies = self._at.get(node.id, {})
                until = [copy for each, copy in copies.items() if each <= step]
                found += until if node.steps is not None else [self._last[node.id]]
        return [Ref(place) for place in found]


def _seen_from(step: int, copies: Collection[int]) -> int:
    """The step of a value that is meant at a step: its own, or else the last before, or else the first."""
    return step if step in copies else max((each for each in copies if each <= step), default=min(copies))


def _step_named(node: Node) -> int | None:
    """The step that a stop, or a value of the last step, names: a number, which a structure leaves out."""
    if node.kind == "stop":
        return node.kwargs.get("step")
    return node.args[1] if len(node.args) > 1 else None


def step_name(name: str, step: int) -> str:
    """The name under which a step-wise saved value is kept at one step."""
    return f"{name}@{step}"
