"""Check that a graph is well formed: ids in order, references backwards, constants present, names unique."""

from __future__ import annotations

from typing import get_args

from loupe.errors import GraphError
from loupe.graph.graph import Graph
from loupe.graph.node import Const, Event, Kind, Node, Ref, Site, map_argument
from loupe.graph.opset import is_portable
from loupe.graph.refusals import why_refused

KINDS = get_args(Kind)


def lint(graph: Graph) -> None:
    """Raise GraphError where a graph breaks a rule that every reader of graphs relies on.

    >>> lint(tracer.graph)
    """
    names: set[str] = set()
    for place, node in enumerate(graph.nodes):
        if node.id != place:
            raise _broken(node, f"node {place} has the id {node.id}", "number the nodes from 0 in order")
        if node.kind not in KINDS:
            raise _broken(node, f"node %{place} is of the unknown kind {node.kind!r}", f"use one of {', '.join(KINDS)}")
        if node.kind in ("read", "write") and not _is_site(node.target):
            raise _broken(node, f"node %{place} does not name a site", "give it a Site")
        if (
            node.kind in ("parameter", "set_parameter", "call", "given", "save", "cache")
            and type(node.target) is not str
        ):
            raise _broken(node, f"node %{place} ({node.kind}) names nothing", "give it a path, or a name")
        _check_arguments(graph, node)
        if node.kind == "apply" and not is_portable(node.target) and node.target not in graph.functions:
            raise _not_allowed(node)
        if node.kind in ("save", "cache"):
            if node.target in names:
                raise _broken(
                    node, f"the name {node.target!r} is saved twice", "give each saved value a name of its own"
                )
            names.add(node.target)


def _is_site(target: object) -> bool:
    return isinstance(target, Site) and target.event.__class__ is Event


def _check_arguments(graph: Graph, node: Node) -> None:
    for ref in node.refs():
        if not 0 <= ref < node.id:
            raise _broken(node, f"node %{node.id} takes %{ref}, which is not before it", "refer to earlier nodes only")

    def check(leaf: object) -> object:
        if type(leaf) is Const and not 0 <= leaf.index < len(graph.constants):
            raise _broken(
                node, f"node %{node.id} takes constant {leaf.index}, which is not there", "add the constant first"
            )
        return leaf

    for arg in (*node.args, *node.kwargs.values()):
        map_argument(arg, check)
    if node.kind in ("write", "save", "set_parameter", "cache") and len(node.args) != 1:
        raise _broken(node, f"node %{node.id} ({node.kind}) takes one value, not {len(node.args)}", "give it one value")
    if node.kind == "save" and type(node.args[0]) is not Ref:
        raise _broken(node, f"node %{node.id} saves something that is no node", "save the value of a node")


def _not_allowed(node: Node) -> GraphError:
    refusal = why_refused(node.target)
    if refusal is None:
        fact = f"node %{node.id} names the unknown operation {node.target!r}"
        return _broken(node, fact, "use an operation of the opset")
    return _broken(node, f"node %{node.id} names {node.target!r}, which is refused: {refusal.fact}", refusal.remedy)


def _broken(node: Node, fact: str, remedy: str) -> GraphError:
    return GraphError(fact, remedy=remedy, line=node.line)
