"""Follow the graph of a block while it is being written: whether it has steps, and what the modules it calls change."""

from __future__ import annotations

from collections.abc import Set

from loupe.graph.graph import Graph
from loupe.runtime.lookup import Modules

_NONE: Set[str] = frozenset()


class Recorded:
    """What a run asks at each turn about a graph that grows; every node is looked at once."""

    def __init__(self, graph: Graph, modules: Modules) -> None:
        self._graph = graph
        self._modules = modules
        self._looked_through = 0
        self._stepwise = False
        self._called: set[str] = set()

    def is_stepwise(self) -> bool:
        """Whether a node of the graph is about several steps."""
        self._look_through()
        return self._stepwise

    def changing(self) -> Set[str]:
        """The modules called by the block that change their arguments in place, as `nn.ReLU(inplace=True)` does."""
        self._look_through()
        if not self._called:
            return _NONE
        return {
            path for path in self._called if any(getattr(m, "inplace", False) for m in self._modules(path).modules())
        }

    def _look_through(self) -> None:
        nodes = self._graph.nodes
        if self._looked_through == len(nodes):
            return
        for place in range(self._looked_through, len(nodes)):
            node = nodes[place]
            if node.steps is not None:
                self._stepwise = True
            if node.kind == "call":
                self._called.add(node.target)
        self._looked_through = len(nodes)
