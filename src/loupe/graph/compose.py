"""Put the nodes of one graph into another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from loupe.graph.graph import Graph
from loupe.graph.node import Const, Node, Ref, Site, map_argument


def append(graph: Graph, other: Graph, change: Callable[[Node], Node] = lambda node: node) -> None:
    """Put the nodes of `other` at the end of `graph`, with numbers and constants of their own; `change` alters each.

    Gradients and names of saved values have to be told apart by `change` where both graphs have some.
    """
    first, constants = len(graph.nodes), len(graph.constants)
    graph.constants.extend(other.constants)
    graph.functions.update(other.functions)

    def moved(leaf: object) -> object:
        if type(leaf) is Ref:
            return Ref(leaf.node + first)
        return Const(leaf.index + constants) if type(leaf) is Const else leaf

    for node in other:
        target = node.target
        if node.gradient_of is not None and isinstance(target, Site):
            target = target._replace(path=f"%{node.gradient_of + first}")
        new = replace(
            node,
            id=node.id + first,
            target=target,
            args=tuple(map_argument(arg, moved) for arg in node.args),
            kwargs={key: map_argument(arg, moved) for key, arg in node.kwargs.items()},
        )
        graph.nodes.append(change(new))
