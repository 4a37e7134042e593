"""Name what of a graph decides how it is planned: two graphs with one structure have one plan."""

from __future__ import annotations

from typing import Any

from loupe.graph.graph import Graph
from loupe.graph.node import Const, Node, Ref
from loupe.graph.opset import effect_of
from loupe.graph.passes import Memory, is_opaque, trace_memory

_MOST = 512
_memories: dict[tuple[Any, ...], Memory] = {}


def memory_of(graph: Graph) -> Memory:
    """Who may share memory with whom in a graph that nobody is writing any more; graphs of one structure are alike."""
    key = structure(graph)
    found = _memories.get(key)
    if found is None:
        if len(_memories) >= _MOST:
            _memories.clear()
        found = _memories[key] = trace_memory(graph)
    return found


def structure(graph: Graph, since: int = 0) -> tuple[Any, ...]:
    """What the nodes from `since` on are, and take, without the values of constants and numbers, and without lines.

    >>> structure(one.graph) == structure(other.graph)
    True
    """
    return tuple([_of_node(graph, node) for node in graph.nodes[since:]])


def _of_node(graph: Graph, node: Node) -> tuple[Any, ...]:
    target, kind, args = node.target, node.kind, node.args
    if args:
        args = tuple([arg.node if type(arg) is Ref else _of_argument(arg) for arg in args])
    kwargs = tuple([(name, _of_option(arg)) for name, arg in node.kwargs.items()]) if node.kwargs else ()
    if kind == "apply" and target == "operator.getitem":
        target = (target, type(node.args[1]) is int and node.args[1] != 0)  # an attention's later items are patterns
    elif kind == "apply" and effect_of(target) == "unknown":
        target = (target, is_opaque(graph, node))
    elif kind == "cache":
        args = node.args
    return kind, target, args, kwargs, node.invoke, node.steps


def _of_argument(arg: Any) -> Any:
    """A reference as its node, a constant as a negative number, everything else as None."""
    kind = type(arg)
    if kind is Ref:
        return arg.node
    if kind is Const:
        return -1 - arg.index
    if kind is tuple or kind is list:
        return tuple([_of_argument(item) for item in arg])
    if kind is dict:
        return tuple([_of_argument(item) for item in arg.values()])
    if kind is slice:
        return "slice", _of_argument(arg.start), _of_argument(arg.stop), _of_argument(arg.step)
    return None


def _of_option(arg: Any) -> Any:
    """An argument by name; a flag may decide (`inplace`, `create_graph`)."""
    return ("on" if arg else "off") if type(arg) in (bool, int) else _of_argument(arg)
