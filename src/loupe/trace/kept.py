"""Keep what outlasts a block: what is saved, and what its session passes on; give it to the user when it has run."""

from __future__ import annotations

import weakref
from typing import Any

from loupe.errors import BlockError, Line
from loupe.graph.graph import Graph
from loupe.graph.steps import step_name
from loupe.trace.cache import Cache
from loupe.trace.containers import find_proxies, replace_proxies
from loupe.trace.execution import Execution
from loupe.trace.handles import isinstance_proxy
from loupe.trace.proxy import Cell, Proxy, set_slot, settle


class Kept:
    """The values of one block that outlast it, by name: those in cells, and those that caches collect.

    `for_session` names what the user has not saved, and a later block of the session may take. `containers` are the
    lists and dicts whose values are saved when the block ends.
    """

    def __init__(self, graph: Graph, execution: Execution, containers: list[Any]) -> None:
        self._graph = graph
        self._execution = execution
        self._cells: dict[str, Cell] = {}
        self._handles: list[weakref.ref[Proxy]] = []
        self.caches: dict[str, Cache] = {}
        self.containers = containers
        self.for_session: set[str] = set()

    # -- names ---------------------------------------------------------------------------------------------------------

    def free_name(self, stem: str) -> str:
        """A name for what the user has given none, which is not the user's name for something else."""
        number = len(self._graph.nodes)
        while (name := f"{stem}{number}") in self._cells or name in self.caches:
            number += 1
        return name

    def has(self, name: str) -> bool:
        """Whether something is kept under a name."""
        return name in self._cells or name in self.caches

    def add(self, name: str, proxy: Proxy) -> None:
        """Give a value, of which a node is saved under a name, the cell in which it will be."""
        cell = self._cells[name] = Cell(proxy, name)
        set_slot(proxy, "_cell", cell)

    # -- what the user holds -------------------------------------------------------------------------------------------

    def hand_out(self, proxy: Proxy) -> None:
        """Note a value that the user gets, and may use in a later block."""
        self._handles.append(weakref.ref(proxy))

    def held(self) -> list[Proxy]:
        """The values that are still in the user's hands."""
        held = [handle() for handle in self._handles]
        return [proxy for proxy in held if proxy is not None and isinstance_proxy(proxy)]

    def in_containers(self) -> list[Proxy]:
        """The values of the block inside the saved containers."""
        found: list[Proxy] = []
        for container in self.containers:
            find_proxies(container, self._is_own, found)
        return found

    def _is_own(self, proxy: Proxy) -> bool:
        return proxy._recorder.kept is self

    # -- when the block has run ----------------------------------------------------------------------------------------

    def fill(self, results: dict[str, Any]) -> None:
        """Give the saved values to the user's handles, and put them into saved containers."""
        if not (self._cells or self.caches or self.containers):
            return
        missing = [cell for cell in self._cells.values() if not cell.fill(results)]
        if missing:
            self._fill_steps(missing, results)
        for name, cache in self.caches.items():
            if name in results:
                cache.fill(results[name])
        for container in self.containers:
            replace_proxies(container, self._is_own)
        for name, cell in self._cells.items():
            proxy = cell.proxy() if cell.proxy is not None and cell.filled else None
            if proxy is not None and name not in self.for_session:
                settle(proxy)

    def _fill_steps(self, cells: list[Cell], results: dict[str, Any]) -> None:
        """What was saved at each step of a generation: a cell has the values of all that came, and is the last."""
        each = {node.target for node in self._graph.nodes if node.steps is not None and node.kind == "save"}
        most = self._execution.steps() if each else 0
        for cell in cells:
            if cell.name in each:
                names = [(step, step_name(cell.name, step)) for step in range(most)]
                cell.steps = {step: results[name] for step, name in names if name in results}
            if cell.steps:
                cell.value, cell.filled = cell.steps[max(cell.steps)], True

    def let_go(self) -> None:
        """The block has run: what was kept for its session is the business of those who use it."""
        for name in self.for_session:
            self._cells.pop(name, None)

    def forget(self) -> None:
        """The session is over: what was kept for it, and not saved, is gone."""
        for proxy in self.held():
            if proxy._cell is not None and proxy._cell.name in self.for_session:
                proxy._cell.value, proxy._cell = None, None
        self._handles.clear()


def named_twice(name: str, line: Line) -> BlockError:
    """The error of a name that is given to two values."""
    return BlockError(f"two values are saved as {name!r}", remedy="give each its own name", line=line)
