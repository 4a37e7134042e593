"""Say which sites of a block were not reached, and what ran in their place."""

from __future__ import annotations

from collections.abc import Callable, Collection

from loupe.errors import LoupeError, NotReachedError, OrderError, nearest
from loupe.graph.node import RESULT, Event, Node, is_within
from loupe.runtime.host import Host
from loupe.runtime.meta import Scan
from loupe.runtime.plan import Plan


class Missed:
    """Finds the error of a run in which nodes were left over; `scan` tells what the model calls, without a run.

    In a generation only the first step is certain to happen: what is missed at a later one is no mistake.
    """

    def __init__(self, scan: Callable[[tuple[str, ...]], Scan], host: Host, generates: bool) -> None:
        self._scan = scan
        self._host = host
        self._generates = generates

    def first(self, plan: Plan, done: Collection[int]) -> LoupeError | None:
        """After a pass that went to its end: the first site that it did not come to."""
        return next((self._error(node) for node in self._left(plan, done)), None)

    def never_reached(self, plan: Plan, done: Collection[int], attached: Collection[str]) -> LoupeError | None:
        """After a pass that stopped before its end: the first site to which no pass would come.

        Nobody waits for a write, so a pass may stop before it; one at a module that never runs is a mistake.
        """
        for node in self._left(plan, done):
            event = node.site.event
            if event.phase == "grad" or event.path == RESULT or is_within(event.path, attached):
                continue
            if self._host.reorders(event):  # what runs inside experts is not what a scan sees
                continue
            other = self._host.stand_in(node.site)
            names = [event] if other is None else [event, other.event]
            scan = self._scan(tuple(sorted({name.path for name in names if name.op is not None})))
            if scan.error is None and not any(name in scan.values for name in names):
                return self._error(node)
        return None

    def behind(self, plan: Plan, done: Collection[int], node: int) -> LoupeError:
        """After a pass that went to its end: the site for want of which a node was not done."""
        stack, seen = [node], set()
        while stack:
            each = stack.pop()
            if each in seen or each in done:
                continue
            seen.add(each)
            if plan.graph[each].kind in ("read", "write"):
                return self._error(plan.graph[each])
            stack.extend(plan.needs.get(each, ()))
        return NotReachedError("a value was not reached", remedy="report this", line=plan.graph[node].line)

    def _left(self, plan: Plan, done: Collection[int]) -> list[Node]:
        left = [plan.graph[node] for node in sorted(plan.live.difference(done))]
        return [node for node in left if node.kind in ("read", "write") and not (self._generates and node.site.call)]

    def _error(self, node: Node) -> LoupeError:
        site = node.site
        return NotReachedError(
            f"{site} did not run in this pass, so it could not be {'read' if node.kind == 'read' else 'written'}",
            remedy=self.what_ran(site.path, site.event),
            line=node.line,
        )

    def what_ran(self, path: str, event: Event | None = None) -> str:
        """A sentence about what did run in place of a module, an operation or a call of it."""
        try:
            scan = self._scan((path,) if event is not None and event.op is not None else ())
        except Exception:
            return "name a module that the forward pass calls"
        if event is not None and event.op is not None and (path, event.call) in scan.operations:
            names = [f"{op.name}[{op.index}]" for op in scan.operations[path, event.call]]
            return f"its operations in this pass: {', '.join(names)}"
        times = len({e.call for e in scan.values if e.path == path and e.op is None})
        if times:
            return f"it is called {times} time{'s' if times > 1 else ''} in a pass; calls count from 0"
        parent = path.rpartition(".")[0]
        beside = [name for name in scan.calls() if name.startswith(parent) and name not in (path, parent)]
        return "what does run there: " + nearest(path, beside or scan.calls())


def late_write(plan: Plan, done: Collection[int], node: Node) -> OrderError:
    """The error of a write that still waits for a value when the model goes on from its site."""
    later = _latest_site(plan, done, node.id, set())
    return OrderError(
        f"{node.site} is written with a value that the model computes only after it"
        + (f" (it needs {later})" if later else ""),
        remedy="use values from earlier modules, or take the later value from a first trace",
        line=node.line,
    )


def _latest_site(plan: Plan, done: Collection[int], node_id: int, seen: set[int]) -> str:
    for need in plan.needs[node_id]:
        if need in done or need in seen:
            continue
        seen.add(need)
        node = plan.graph[need]
        found = str(node.site) if node.kind in ("read", "write") else _latest_site(plan, done, need, seen)
        if found:
            return found
    return ""
