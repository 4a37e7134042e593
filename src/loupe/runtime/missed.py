"""Say which sites of a block were not reached, and what ran in their place."""

from __future__ import annotations

from collections.abc import Callable, Collection

from loupe.errors import Line, LoupeError, NotReachedError, OrderError, nearest
from loupe.graph.node import RESULT, Event, Node, Site, is_within
from loupe.graph.steps import LAST_STEP
from loupe.runtime.host import Host
from loupe.runtime.meta import Scan
from loupe.runtime.plan import Plan

ENDED = (
    "the generation ended before this step: look at the steps that happen, "
    "with `for step in tracer.iter[:]`, which ends with the generation"
)


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
        return next((self._error(node, plan) for node in self._left(plan, done)), None)

    def below_stop(self, plan: Plan, done: Collection[int]) -> LoupeError | None:
        """After a pass that the block has stopped: the first site that a line below the stop is about."""
        stop = _stop_of(plan, done)
        assert stop is not None
        return next((_stopped(node, stop) for node in self._left(plan, done)), None)

    def never_reached(self, plan: Plan, done: Collection[int], attached: Collection[str]) -> LoupeError | None:
        """After a pass that stopped before its end: the first site to which no pass would come.

        Nobody waits for a write, so a pass may stop before it; one at a module that never runs is a mistake.
        """
        for node in self._left(plan, done):
            event = node.site.lands
            if event.phase == "grad" or event.path == RESULT or is_within(event.path, attached):
                continue
            if self._host.reorders(event):  # what runs inside experts is not what a scan sees
                continue
            if any(skip.invoke is None for skip in self._skips_around(plan, node.site)):
                return self._error(node, plan)
            other = self._host.stand_in(node.site)
            names = [event] if other is None else [event, other.event]
            scan = self._scan(tuple(sorted({name.path for name in names if name.op is not None})))
            if scan.error is None and not any(name in scan.values for name in names):
                return self._error(node, plan)
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
                stop = _stop_of(plan, done)
                return self._error(plan.graph[each], plan) if stop is None else _stopped(plan.graph[each], stop)
            if plan.graph[each].target == LAST_STEP and not plan.needs[each]:
                return no_step(plan.graph[each].line)
            stack.extend(plan.needs.get(each, ()))
        return NotReachedError("a value was not reached", remedy="report this", line=plan.graph[node].line)

    def _left(self, plan: Plan, done: Collection[int]) -> list[Node]:
        left = [plan.graph[node] for node in sorted(plan.live - set(done))]
        return [node for node in left if node.kind in ("read", "write") and not (self._generates and node.site.call)]

    def _error(self, node: Node, plan: Plan) -> LoupeError:
        if node.gradient_of is not None:
            return _no_gradient(node, node.gradient_of, plan)
        site = node.site
        skips = self._skips_around(plan, site)
        remedy = ""
        if skips:
            where = f" (at {skips[0].line})" if skips[0].line else ""
            remedy = f"the block skips {skips[0].site.path or 'the model'}, in which it lies{where}: name another site"
        fact = f"{site} did not run in this pass, so it could not be {'read' if node.kind == 'read' else 'written'}"
        if site.port == "skip":
            fact = f"{site.module} did not run in this pass, so it could not be skipped"
        return NotReachedError(
            fact,
            remedy=remedy or self._what_ended(site) or self.what_ran(site.path, site.lands),
            line=node.line,
        )

    def _skips_around(self, plan: Plan, site: Site) -> list[Node]:
        """The nodes that skip a module, or a call of it, in which a site lies."""
        found = []
        for node in plan.graph:
            if node.kind == "write" and node.site.port == "skip":
                path = node.site.path
                inside = site.path != path and (not path or is_within(site.path, (path,)))
                own = site.path == path and site.op is not None
                if (inside or own) and (node.site.call == site.call or self._is_called_once(path)):
                    found.append(node)
        return found

    def _is_called_once(self, path: str) -> bool:
        return not self._generates and Event(path, "in", 1) not in self._scan(()).values

    def _what_ended(self, site: Site) -> str:
        """Whether a step was not reached because the generation had ended, as a sentence."""
        if not self._generates or not site.call or site.path == RESULT:
            return ""
        try:
            scan = self._scan((site.path,) if site.op is not None else ())
        except Exception:
            return ""
        return ENDED if site.lands._replace(call=0) in scan.values else ""

    def what_ran(self, path: str, event: Event | None = None) -> str:
        """A sentence about what did run in place of a module, an operation or a call of it."""
        try:
            scan = self._scan((path,) if event is not None and event.op is not None else ())
        except Exception:
            return "name a module that the forward pass calls"
        if event is not None and event.op is not None and self._host.reorders(event):
            return f"print({path}.ops) inside a block lists its operations"
        if event is not None and event.op is not None and (path, event.call) in scan.operations:
            names = [f"{op.name}[{op.index}]" for op in scan.operations[path, event.call]]
            return f"its operations in this pass: {', '.join(names)}"
        times = len({e.call for e in scan.values if e.path == path and e.op is None})
        if times:
            return f"it is called {times} time{'s' if times > 1 else ''} in a pass; calls count from 0"
        parent = path.rpartition(".")[0]
        beside = [name for name in scan.calls() if name.startswith(parent) and name not in (path, parent)]
        return "what does run there: " + nearest(path, beside or scan.calls())


def no_step(line: Line | None) -> NotReachedError:
    """The error of a value of steps that a run cannot have."""
    return NotReachedError(
        "none of the steps that this value is about can happen in this run",
        remedy="name steps below the number of new tokens, counted from 0, or generate more tokens",
        line=line,
    )


def _no_gradient(node: Node, of: int, plan: Plan) -> LoupeError:
    """The error of a gradient at which no backward pass has come by."""
    value = plan.graph[of]
    name = str(value.site) if value.kind == "read" else f"the value of `{plan.graph.node_text(value)}`"
    if node.site.call >= len(plan.graph.backwards):
        fact, remedy = "no backward pass runs in the block", "call loss.backward() in the block"
    else:
        fact = "the loss of that backward pass does not depend on it"
        remedy = "compute the loss from it; what is detached, or no floating-point tensor, has no gradient"
        if value.kind == "given":
            remedy = "a value of an earlier block comes without its history: compute it and the loss in one block"
    return NotReachedError(f"no gradient came to {name}: {fact}", remedy=remedy, line=node.line)


def _stop_of(plan: Plan, done: Collection[int]) -> Node | None:
    """The line that has stopped the pass."""
    return next((node for node in plan.graph if node.kind == "stop" and node.id in done), None)


def _stopped(node: Node, stop: Node) -> LoupeError:
    return NotReachedError(
        f"{node.site} was not reached: the block stops the pass before it"
        + (f" (at {stop.line})" if stop.line else ""),
        remedy="move this line above tracer.stop(), or drop the stop: a pass ends by itself when all is done",
        line=node.line,
    )


def late_write(plan: Plan, done: Collection[int], node: Node) -> OrderError:
    """The error of a write that still waits for a value when the model goes on from its site."""
    later = _latest_site(plan, done, node.id, set())
    what, remedy = (
        f"{node.site} is written",
        "use values from earlier modules, or take the later value from a first trace",
    )
    if node.site.port == "skip":
        what = f"{node.site.module} is skipped"
        remedy += "; `module.output = …` lets the module run, and may use what it returns"
    return OrderError(
        f"{what} with a value that the model computes only after it" + (f" (it needs {later})" if later else ""),
        remedy=remedy,
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
