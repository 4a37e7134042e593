"""Tell what a run is going to meet, from scans without data: what passes where, in which order, with whose rows."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager

from torch import nn

from loupe.graph.graph import Graph
from loupe.graph.node import RESULT, Event
from loupe.runtime.batching import Along, Rows
from loupe.runtime.collect import Collector, cached_events
from loupe.runtime.host import Batch, Host
from loupe.runtime.inputs import Inputs
from loupe.runtime.lookup import Modules
from loupe.runtime.meta import Scan, Scanner
from loupe.runtime.missed import Missed
from loupe.runtime.order import Order
from loupe.runtime.plan import Plan
from loupe.runtime.rows import SiteAxes


class Foresight:
    """What is known of one run ahead of its passes; the module is looked at once, when the first scan is asked for.

    `end_pass` gives up a pass that stands still, before the model is called for another purpose. `attached` are the
    paths of modules that the model itself does not call. `scans` says that the run itself is without data.
    """

    def __init__(
        self,
        host: Host,
        modules: Modules,
        graph: Graph,
        inputs: Inputs,
        scanner: Scanner,
        attached: Collection[str],
        end_pass: Callable[[], None],
        *,
        scans: bool,
    ) -> None:
        self._host = host
        self._modules = modules
        self._graph = graph
        self._inputs = inputs
        self._scanner = scanner
        self._attached = attached
        self._end_pass = end_pass
        self._scans = scans
        self._axes: SiteAxes | None = None
        self._is_fresh = False

    def forget(self) -> None:
        """Inputs have changed."""
        self._axes = None

    # -- scans ---------------------------------------------------------------------------------------------------------

    def scan(self, batch: Batch, watch: Sequence[str], graph: Graph | None = None) -> Scan:
        """What passes in such a call, at the operations of the modules in `watch` too, with the settings of a graph."""
        graph = self._graph if graph is None else graph

        def settings(module: nn.Module) -> AbstractContextManager[None]:
            return self._host.settings(graph, module)

        with self._host.lock:
            self._refresh()
            return self._scanner.scan(batch, settings, self._host.settings_key(graph), tuple(watch))

    def of_run(self, watch: Sequence[str] = (), graph: Graph | None = None) -> Scan:
        """What passes in a forward pass with the inputs of the run."""
        return self.scan(self._inputs.batch(), watch, graph)

    def _refresh(self) -> None:
        if not self._is_fresh:
            self._scanner.refresh()
            self._is_fresh = True

    def calls_each(self, path: str) -> int:
        """How often one step calls a module: a generation's steps are told apart by it."""
        if not self._inputs.generates or not self._inputs.taken:
            return 1
        passed = self.of_run().values
        return max(sum(event.path == path and event.phase == "in" and event.op is None for event in passed), 1)

    def missed(self) -> Missed:
        """What finds the error of a run that has not come to a site."""
        return Missed(self.of_run, self._host, self._inputs.generates)

    # -- rows ----------------------------------------------------------------------------------------------------------

    def axes(self) -> SiteAxes:
        """Where the rows of the inputs are at each site."""
        if self._axes is None:
            self._axes = SiteAxes(
                self._host,
                self._modules,
                self._graph,
                self._inputs.taken,
                self.scan,
                self._end_pass,
                self._attached,
                told=self._told,
            )
        return self._axes

    def _told(self, batch: Batch) -> dict[Event, Along]:
        with self._host.lock:
            self._refresh()
            return self._scanner.axes(batch, self._host.settings_key(self._graph))

    def know_rows(self, plan: Plan) -> None:
        """Find the rows of every site that one prompt of several is about, before a pass needs them."""
        batch = self._inputs.batch()
        rows = Rows(batch.rows, batch.total)
        split = [e for e, nodes in plan.gates.items() if any(not rows.covers_all(plan.graph[n].invoke) for n in nodes)]
        split = [e for e in split if e.path != RESULT or not self._inputs.generates]
        split = [e if e.phase != "skip" else e._replace(phase="out") for e in split]
        self.axes().prepare(split)
        if any(not rows.covers_all(plan.graph[cache].invoke) for cache in plan.caches):
            self.axes().prepare(cached_events(plan), probe=False)

    # -- the course of a pass ------------------------------------------------------------------------------------------

    def order(self, plan: Plan) -> Order | None:
        """The order of the pass that is about to begin, where a scan can tell."""
        if plan.caches:
            return None
        return self._told_by_scan(self._scanner.order)

    def distrust(self) -> None:
        """A pass did not come to what it should have, by the order that a scan has told."""
        self._scanner.distrust()

    def _told_by_scan(self, order: Callable[..., Order | None]) -> Order | None:
        if self._inputs.generates or self._scans or self._attached:
            return None
        with self._host.lock:
            self._refresh()
            key = self._host.settings_key(self._graph)

            def settings(module: nn.Module) -> AbstractContextManager[None]:
                return self._host.settings(self._graph, module)

            return order(self._inputs.batch(), settings, key)

    def collector(self, plan: Plan, *, pausable: bool) -> Collector:
        """What collects the caches of a plan; it copies where the model, or the block, may change a tensor later."""
        if self._scanner.overwritten is None:
            self.of_run()
        changes = pausable or any(plan.change(node).sites for node in plan.memory.mutates if node in plan.live)
        overwritten = None if changes else self._scanner.overwritten
        return Collector(plan, self.axes(), overwritten, self._host.prefix, self._expected(plan))

    def _expected(self, plan: Plan) -> list[Event] | None:
        """What the caches of a plan collect, where a scan can tell and the pass need not go to its end for it."""
        places = {(event.path, event.phase) for event in cached_events(plan)}
        if (self._host.prefix, "out") in places:
            return None
        order = self._told_by_scan(self._scanner.course)
        return None if order is None else [event for event in order.places if (event.path, event.phase) in places]
