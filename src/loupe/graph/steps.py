"""Unroll what a block says of each step of a generation into what happens at single steps."""

from __future__ import annotations

from dataclasses import dataclass, replace

from loupe.graph.graph import Graph
from loupe.graph.node import Node, Ref, Site, map_argument


@dataclass(frozen=True, slots=True)
class Unrolled:
    """A graph without step-wise nodes, and where the nodes of the recorded one went.

    `last[n]` is the copy of node n that happens last; `at[n]` are its copies by step, for step-wise nodes only.
    """

    graph: Graph
    last: dict[int, int]
    at: dict[int, dict[int, int]]


def unroll(graph: Graph, total: int) -> Unrolled:
    """Instantiate the step-wise nodes of a graph at each of `total` steps; a graph without such nodes stays as it is.

    The nodes of one `with tracer.iter[...]` block are repeated together, step by step, as the lines of a loop would be.
    """
    if all(node.steps is None for node in graph):
        same = {node.id: node.id for node in graph}
        return Unrolled(graph, same, {})
    flat = Graph()
    flat.constants, flat.functions = graph.constants, graph.functions
    last: dict[int, int] = {}
    at: dict[int, dict[int, int]] = {}
    place = 0
    while place < len(graph):
        steps = graph[place].steps
        if steps is None:
            last[place] = _copy(graph[place], flat, last, {}, None)
            place += 1
            continue
        end = place
        while end < len(graph) and graph[end].steps == steps:
            end += 1
        for step in steps.of(total):
            for node in graph.nodes[place:end]:
                same = {ref: at[ref][step] for ref in node.refs() if graph[ref].steps == steps}
                last[node.id] = _copy(node, flat, last, same, step)
                at.setdefault(node.id, {})[step] = last[node.id]
        place = end
    return Unrolled(flat, last, at)


def _copy(node: Node, flat: Graph, last: dict[int, int], same_step: dict[int, int], step: int | None) -> int:
    places = last | same_step if same_step else last

    def moved(leaf: object) -> object:
        return Ref(places[leaf.node]) if type(leaf) is Ref else leaf

    target = node.target
    if isinstance(target, Site):
        if node.gradient_of is not None:
            target = target._replace(path=f"%{places[node.gradient_of]}")
        elif step is not None:
            target = target._replace(call=target.call + step)
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
