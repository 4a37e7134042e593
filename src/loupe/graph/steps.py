"""Unroll what a block says of each step of a generation into what happens at single steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from loupe.graph.graph import Graph
from loupe.graph.node import Node, Ref, Site, map_argument

LAST_STEP = "loupe.last_step"  # takes a value of each step to what it is at the last one that happens


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
    A stop that stands at a step waits for what is above it of the steps so far. A `loupe.last_step` takes all the copies of its value, and gives the last that came about. `calls_each` says how
    often one step calls a module.
    """
    if all(node.steps is None for node in graph):
        same = {node.id: node.id for node in graph}
        return Unrolled(graph, same, {})
    flat = Graph()
    flat.constants, flat.functions = graph.constants, graph.functions
    last: dict[int, int] = {}
    at: dict[int, dict[int, int]] = {}
    place = 0

    def copy(node: Node, same_step: dict[int, int], step: int | None) -> None:
        if node.target == LAST_STEP:
            (value,) = node.refs()
            args: tuple[Any, ...] = ([Ref(place) for place in at.get(value, {}).values()],)
            flat.nodes.append(replace(node, id=len(flat), args=args, steps=None))
            last[node.id] = len(flat) - 1
            return
        if node.kind == "stop" and (step := node.kwargs.get("step", step)) is not None:
            last[node.id] = len(flat)
            flat.nodes.append(replace(node, id=len(flat), kwargs={"after": above(node, step)}, steps=None))
            return
        site = node.target if isinstance(node.target, Site) and node.gradient_of is None else None
        calls = step * calls_each(site.path) if site is not None and step else 0
        last[node.id] = _copy(node, flat, last, same_step, step, calls)

    def above(stop: Node, step: int) -> list[Ref]:
        """The reads and writes above a stop, those of each step as far as the one at which it stands."""
        found = [node for node in graph.nodes[: stop.id] if node.kind in ("read", "write")]
        places = [[last[node.id]] if node.steps is None else _until(step, at.get(node.id, {})) for node in found]
        return [Ref(place) for each in places for place in each]

    while place < len(graph):
        steps = graph[place].steps
        if steps is None:
            copy(graph[place], {}, None)
            place += 1
            continue
        end = place
        while end < len(graph) and graph[end].steps == steps:
            end += 1
        for node in graph.nodes[place:end]:
            if node.kind == "cache":  # collects at many calls anyway, and knows which
                copy(node, {}, None)
                flat.nodes[-1].steps = steps
        for step in steps.of(total):
            for node in graph.nodes[place:end]:
                if node.kind == "cache":
                    continue
                same = {ref: at[ref][step] for ref in node.refs() if graph[ref].steps == steps}
                copy(node, same, step)
                at.setdefault(node.id, {})[step] = last[node.id]
        place = end
    return Unrolled(flat, last, at)


def _until(step: int, copies: dict[int, int]) -> list[int]:
    return [copy for each, copy in copies.items() if each <= step]


def _copy(
    node: Node, flat: Graph, last: dict[int, int], same_step: dict[int, int], step: int | None, calls: int
) -> int:
    places = last | same_step if same_step else last

    def moved(leaf: object) -> object:
        return Ref(places[leaf.node]) if type(leaf) is Ref else leaf

    target = node.target
    if isinstance(target, Site):
        if node.gradient_of is not None:
            target = target._replace(path=f"%{places[node.gradient_of]}")
        elif step is not None:
            target = target._replace(call=target.call + calls)
    elif node.kind == "save" and step is not None:
        target = step_name(target, step)
    new = replace(
        node,
        id=len(flat.nodes),
        target=target,
        args=tuple(map_argument(arg, moved) for arg in node.args),
        kwargs={key: map_argument(arg, moved) for key, arg in node.kwargs.items()},
        steps=None,
    )
    flat.nodes.append(new)
    return new.id


def step_name(name: str, step: int) -> str:
    """The name under which a step-wise saved value is kept at one step."""
    return f"{name}@{step}"
