"""Answer questions about a graph without running it: what shares memory, what overwrites what, what is needed."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from loupe.graph.arguments import first_argument
from loupe.graph.changes import changed_by
from loupe.graph.node import Const, Event, Node, Ref, is_within, refs_in
from loupe.graph.opset import effect_of, operation_of

if TYPE_CHECKING:
    from loupe.graph.graph import Graph

Root = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Memory:
    """Who may share memory with whom.

    `roots[n]` names the tensors that the value of node n may share memory with: ("node", id) or ("const", index).
    `mutates[n]` names the roots that node n changes in place; `after[n]` are the nodes that must have changed theirs
    before n runs.
    """

    roots: Sequence[frozenset[Root]]  # empty where no node changes anything
    mutates: dict[int, frozenset[Root]]
    after: dict[int, tuple[int, ...]]


def trace_memory(graph: Graph, changing: Collection[str] = ()) -> Memory:
    """Follow views and in-place operations through a graph, in the order of the block.

    `changing` are the paths of modules that change their arguments in place when a node calls them.
    """
    if not any(changes_something(graph, node, changing) for node in graph.nodes):
        return Memory((), {}, {})  # nobody can see who shares memory with whom
    trace = MemoryTrace(graph)
    for node in graph.nodes:
        trace.add(node, changing)
    return Memory(tuple(trace.roots), trace.mutates, trace.after)


class MemoryTrace:
    """What `Memory` says of the nodes so far, one after the other."""

    def __init__(self, graph: Graph) -> None:
        self.roots: list[frozenset[Root]] = []
        self.mutates: dict[int, frozenset[Root]] = {}
        self.after: dict[int, tuple[int, ...]] = {}
        self._graph = graph
        self._written: dict[tuple[Event, int | None], frozenset[Root]] = {}
        self._last_change: dict[Root, int] = {}

    def add(self, node: Node, changing: Collection[str]) -> None:
        """Follow one more node."""
        used = _roots_of_arguments(node, self.roots)
        changes = {self._last_change[root] for root in used if root in self._last_change}
        if changes:
            self.after[node.id] = tuple(sorted(changes))
        own = _roots_of_result(node, self.roots, used, self._written)
        self.roots.append(own)
        target = _mutated_roots(node, self.roots, used) if changes_something(self._graph, node, changing) else None
        if target:
            self.mutates[node.id] = target
            for root in target:
                self._last_change[root] = node.id
        if node.kind == "write":
            self._written[node.site.lands, node.invoke] = own


def _roots_of_arguments(node: Node, roots: list[frozenset[Root]]) -> frozenset[Root]:
    found: frozenset[Root] = frozenset()
    for arg in (*node.args, *node.kwargs.values()):
        found |= _roots_of_argument(arg, roots)
    return found


def _roots_of_argument(arg: Any, roots: list[frozenset[Root]]) -> frozenset[Root]:
    if type(arg) is Ref:
        return roots[arg.node]
    if type(arg) is Const:
        return frozenset((("const", arg.index),))
    if type(arg) in (list, tuple):
        return frozenset().union(*(_roots_of_argument(item, roots) for item in arg))
    if type(arg) is dict:
        return frozenset().union(*(_roots_of_argument(item, roots) for item in arg.values()))
    return frozenset()


def _roots_of_result(
    node: Node,
    roots: list[frozenset[Root]],
    used: frozenset[Root],
    written: dict[tuple[Event, int | None], frozenset[Root]],
) -> frozenset[Root]:
    fresh = frozenset((("node", node.id),))
    if node.kind == "read":
        return fresh | written.get((node.site.event, node.invoke), frozenset())
    if node.kind in ("write", "save", "set_parameter", "backward", "cache", "stop"):
        return used
    if node.kind in ("parameter", "given"):
        return fresh
    if node.kind == "call":
        return used | fresh
    operation = operation_of(node.target)
    changed = changed_by(node.target, node.args, node.kwargs)
    if operation is None or operation.shares == "all" or (changed and operation.effect != "inplace"):
        return used | fresh
    if operation.shares == "first":
        return _roots_of_argument(first_argument(node.target, node.args, node.kwargs), roots) or used or fresh
    return fresh


def changes_something(graph: Graph, node: Node, changing: Collection[str]) -> bool:
    """Whether a node may change one of its arguments in place."""
    if node.kind == "call":
        return node.target in changing
    if node.kind != "apply":
        return False
    return bool(changed_by(node.target, node.args, node.kwargs)) or is_opaque(graph, node)


def is_opaque(graph: Graph, node: Node) -> bool:
    """Whether a node runs a Python function that may do anything.

    Functions of torch say by their names (`hardtanh_`) and arguments whether they change something.
    """
    if node.kind != "apply" or effect_of(node.target) != "unknown":
        return False
    function = graph.functions.get(node.target)
    by_torch = (getattr(function, "__module__", None) or "").partition(".")[0] == "torch"
    return not by_torch or getattr(function, "__name__", "").endswith("_")


def _mutated_roots(node: Node, roots: list[frozenset[Root]], used: frozenset[Root]) -> frozenset[Root]:
    if node.kind == "call":
        return used
    changed = changed_by(node.target, node.args, node.kwargs)
    return _roots_of_argument(changed, roots) if changed else used


def needed(graph: Graph, memory: Memory, wanted: Iterable[int]) -> frozenset[int]:
    """The nodes that the wanted ones need, with all writes and in-place changes that could reach the model or the user.

    A call of a module stays where the graph names a site in it: sites of attached modules pass there.

    Everything else is dead: it is computed for nobody.
    """
    backwards = graph.backwards
    stack = [*wanted, *backwards]
    stack.extend(node.id for node in graph.nodes if node.kind in ("write", "set_parameter"))
    if memory.mutates:
        sources = ("read", "parameter", "given")
        outside = {root for n in graph.nodes if n.kind in sources for root in memory.roots[n.id]}
        for node_id, changed in memory.mutates.items():
            if any(root[0] == "const" or root in outside for root in changed):
                stack.append(node_id)
    calls = [node for node in graph.nodes if node.kind == "call"]
    if calls:
        paths = {site.path for site in graph.sites}
        stack.extend(node.id for node in calls if any(is_within(path, (node.target,)) for path in paths))
    found: set[int] = set()
    while stack:
        node_id = stack.pop()
        if node_id in found:
            continue
        found.add(node_id)
        stack.extend(graph.nodes[node_id].refs())
        stack.extend(memory.after.get(node_id, ()))
        if graph.nodes[node_id].gradient_of is not None:
            stack.extend(backwards[graph.nodes[node_id].site.call : graph.nodes[node_id].site.call + 1])
    return frozenset(found)


def changed_refs(node: Node) -> list[int]:
    """The nodes referred to in the arguments that an operation changes in place."""
    return refs_in(changed_by(node.target, node.args, node.kwargs))
