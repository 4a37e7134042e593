"""Keep the parameters of an edit: copies that it may change, and which of them the model is to run with."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from loupe.errors import Line
from loupe.graph.node import Node, Ref, map_argument
from loupe.graph.opset import effect_of
from loupe.graph.passes import trace_memory
from loupe.trace.handles import isinstance_proxy

if TYPE_CHECKING:
    from loupe.trace.proxy import Proxy
    from loupe.trace.recorder import Recorder


class Parameters:
    """The parameters and buffers of a model as they are after the lines of an edit so far.

    The first reading of one makes a copy, under all paths at which the model holds it (`tied_to`); what changes the
    copy in place changes it everywhere. Another tensor that is set at a path is there alone.
    """

    def __init__(self, recorder: Recorder, tied_to: Callable[[str], list[str]]) -> None:
        self._recorder = recorder
        self._tied_to = tied_to
        self._copies: dict[str, Proxy] = {}
        self._own: dict[int, int] = {}
        self._apart: set[str] = set()

    def read(self, path: str, line: Line) -> Proxy:
        """The copy of a parameter; made where there is none yet."""
        if path not in self._copies:
            recorder = self._recorder
            own = recorder.append("parameter", path, line=line)
            copy = recorder.apply("Tensor.clone", (own,))
            self._own[copy._ref.node] = own._ref.node
            shared: list[str] = [] if path in self._apart else self._tied_to(path)
            for each in (path, *(each for each in shared if each not in self._apart)):
                self._copies[each] = copy
        return self._copies[path]

    def set(self, path: str, value: Any, line: Line) -> None:
        """The model runs with another tensor at a path; `w *= 2` sets what it has changed already."""
        if path in self._copies and self._is_changed_copy(value, self._copies[path]):
            return
        self._recorder.append("set_parameter", path, (self._recorder.encode(value),), line=line)
        self._copies.pop(path, None)
        self._apart.add(path)

    def set_changed(self) -> None:
        """Record that the model runs with the copies which have been changed in place so far."""
        changes = self._changes()
        for path, copy in self._copies.items():
            change = changes.get(copy._ref.node)
            if change is not None:
                self._recorder.append("set_parameter", path, (copy._ref,), line=change.line)

    def finish(self) -> None:
        """The edit is over: set what has been changed, and read what has not without a copy."""
        self.set_changed()
        changes = self._changes()
        spared = {copy: own for copy, own in self._own.items() if copy not in changes}

        def own(leaf: Any) -> Any:
            return Ref(spared[leaf.node]) if type(leaf) is Ref and leaf.node in spared else leaf

        for node in self._recorder.graph:
            node.args = tuple(map_argument(arg, own) for arg in node.args)
            node.kwargs = {key: map_argument(arg, own) for key, arg in node.kwargs.items()}

    def _changes(self) -> dict[int, Node]:
        """The copies that are changed in place, and the last node that does it."""
        graph = self._recorder.graph
        found: dict[int, Node] = {}
        for node, roots in trace_memory(graph).mutates.items():
            found.update({root: graph[node] for kind, root in roots if kind == "node" and root in self._own})
        return found

    def _is_changed_copy(self, value: Any, copy: Proxy) -> bool:
        if not isinstance_proxy(value) or value._recorder is not self._recorder:
            return False
        graph = self._recorder.graph
        node = graph[value._ref.node]
        while node.kind == "apply" and _is_in_place(node) and type(node.args[0]) is Ref:
            node = graph[node.args[0].node]
        return node.id == copy._ref.node


def _is_in_place(node: Node) -> bool:
    return effect_of(node.target) == "inplace" and node.target != "operator.imatmul"  # torch has none in place
