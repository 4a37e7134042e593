"""Put the nodes of one graph into another."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Any

from loupe.graph.graph import Graph
from loupe.graph.node import Const, Node, Ref, Site, map_argument
from loupe.graph.passes import trace_memory


def append(graph: Graph, other: Graph, change: Callable[[Node], Node] = lambda node: node) -> None:
    """Put the nodes of `other` at the end of `graph`, with numbers and constants of their own; `change` alters each.

    Gradients and names of saved values have to be told apart by `change` where both graphs have some; the node that it
    gets is a copy already.
    """
    first, constants = len(graph.nodes), len(graph.constants)
    graph.constants.extend(other.constants)
    names = _take_functions(graph, other)
    places = {node.id: node.id + first for node in other}
    for node in other:
        graph.nodes.append(change(moved(node, places, constants, names)))


def select(graph: Graph, nodes: Collection[int]) -> Graph:
    """A graph of some of the nodes of another, with all that they take among them."""
    part = Graph()
    part.constants, part.functions = graph.constants, graph.functions
    places: dict[int, int] = {}
    for node in graph:
        if node.id in nodes:
            places[node.id] = len(part)
            part.nodes.append(moved(node, places))
    return part


def moved(node: Node, places: dict[int, int], constants: int = 0, names: dict[str, str] | None = None) -> Node:
    """A node with other numbers, constants that begin elsewhere in the table, and other names of functions."""

    def placed(leaf: object) -> object:
        if type(leaf) is Ref:
            return Ref(places[leaf.node])
        return Const(leaf.index + constants) if type(leaf) is Const else leaf

    target = node.target
    if node.gradient_of is not None and isinstance(target, Site):
        target = target._replace(path=f"%{places[node.gradient_of]}")
    elif node.kind == "apply" and names:
        target = names.get(target, target)
    return Node(
        places[node.id],
        node.kind,
        target,
        tuple([map_argument(arg, placed) for arg in node.args]),
        {key: map_argument(arg, placed) for key, arg in node.kwargs.items()},
        node.invoke,
        node.line,
        node.steps,
        node.modes,
    )


def _take_functions(graph: Graph, other: Graph) -> dict[str, str]:
    """Take the user's functions of another graph; gives new names where one is taken by another function."""
    names: dict[str, str] = {}
    for name, function in other.functions.items():
        free = name
        while graph.functions.setdefault(free, function) is not function:
            free = f"{free}'"
        if free != name:
            names[name] = free
    return names


def bind(graph: Graph, values: Mapping[str, Any]) -> Graph:
    """A graph in which what takes an open parameter takes its value: the one that is given, or the default."""
    bound = Graph()
    bound.__dict__.update(graph.__dict__)
    bound.constants = list(graph.constants)
    known: dict[int, Any] = {}
    for node in graph:
        if node.kind != "given" or node.target not in graph.parameters:
            continue
        opened = graph.parameters[node.target]
        if node.target in values:
            known[node.id] = _as_argument(values[node.target], bound.constants)
        elif not opened.required:
            known[node.id] = opened.default

    def filled(leaf: object) -> object:
        return known.get(leaf.node, leaf) if type(leaf) is Ref else leaf

    if known:
        bound.nodes = [
            node
            if node.kind == "save" or known.keys().isdisjoint(node.refs())
            else replace(
                node,
                args=tuple([map_argument(arg, filled) for arg in node.args]),
                kwargs={key: map_argument(arg, filled) for key, arg in node.kwargs.items()},
            )
            for node in graph
        ]
    return bound


def _as_argument(value: Any, constants: list[Any]) -> Any:
    """A value as an argument: simple data as it is, anything else as a constant that is added to the table."""

    def leaf(item: Any) -> Any:
        if item is None or item is Ellipsis or type(item) in (bool, int, float, complex, str):
            return item
        constants.append(item)
        return Const(len(constants) - 1)

    return map_argument(value, leaf)


def with_own_constants(graph: Graph) -> Graph:
    """A graph that can be run without changing another: it has copies of the constants which it changes in place."""
    own = Graph()
    own.__dict__.update(graph.__dict__)
    own.constants = list(graph.constants)
    changed = {index for roots in trace_memory(graph).mutates.values() for kind, index in roots if kind == "const"}
    for index in changed:
        value = graph.originals.get(index, graph.constants[index])
        if hasattr(value, "detach"):
            own.constants[index] = value.detach().clone().requires_grad_(value.requires_grad)
    return own
