"""Name what of a graph decides how it is planned: two graphs with one structure have one plan."""

from __future__ import annotations

from typing import Any

from loupe.graph.graph import Graph
from loupe.graph.node import Const, Node, Ref
from loupe.graph.opset import effect_of
from loupe.graph.passes import Memory, is_opaque, trace_memory

_MOST = 512
_FLAGS = frozenset((bool, int, float))
_memories: dict[tuple[Any, ...], Memory] = {}


def memory_of(graph: Graph) -> Memory:
    """Who may share memory with whom in a graph that nobody is writing any more; graphs of one structure are alike."""
    known = graph.memory
    if known is not None and known[0] is graph.nodes and known[1] == len(graph.nodes):
        return known[2]
    key = structure(graph)
    found = _memories.get(key)
    if found is None:
        if len(_memories) >= _MOST:
            _memories.clear()
        found = _memories[key] = trace_memory(graph)
    graph.memory = (graph.nodes, len(graph.nodes), found)
    return found


def structure(graph: Graph) -> tuple[Any, ...]:
    """What the nodes are, and take, without the values of constants and numbers, and without lines.

    >>> structure(one.graph) == structure(other.graph)
    True
    """
    if graph.structure_key is not None:
        return graph.structure_key
    return tuple([_of_node(graph, node) for node in graph.nodes])


def _of_node(graph: Graph, node: Node) -> tuple[Any, ...]:
    target, kind, args = node.target, node.kind, node.args
    if args:
        args = tuple([arg.node if type(arg) is Ref else _of_argument(arg) for arg in args])
    kwargs = tuple([(name, _of_argument(arg)) for name, arg in node.kwargs.items()]) if node.kwargs else ()
    if kind == "apply" and target == "operator.getitem":
        target = (target, type(node.args[1]) is int and node.args[1] != 0)  # an attention's later items are patterns
    elif kind == "apply" and effect_of(target) == "unknown":
        target = (target, is_opaque(graph, node))
    elif kind == "cache":
        args = node.args
    return kind, target, args, kwargs, node.invoke, node.steps


def _of_argument(arg: Any) -> Any:
    """An argument; of a number or a flag whether it is there, and on: it may decide (`inplace`, `max_norm`)."""
    if arg is None:
        return "none"
    return "off" if type(arg) in _FLAGS and not arg else _of_item(arg)


def _of_item(arg: Any) -> Any:
    """A reference as its node, a constant as a negative number, everything else as None."""
    kind = type(arg)
    if kind is Ref:
        return arg.node
    if kind is Const:
        return -1 - arg.index
    if kind is tuple or kind is list:
        return tuple([_of_item(item) for item in arg])
    if kind is dict:
        return tuple([_of_item(item) for item in arg.values()])
    if kind is slice:
        return "slice", _of_item(arg.start), _of_item(arg.stop), _of_item(arg.step)
    return None
