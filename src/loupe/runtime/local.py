"""Run the graph of one block in this process: pass by pass while the block is being written, and to its end."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from loupe.errors import InputError, Line, LoupeError, NotReachedError
from loupe.graph.graph import Graph
from loupe.graph.node import Node, Site
from loupe.graph.steps import Unrolled, unroll
from loupe.ops.views import first_input
from loupe.runtime.batching import Rows
from loupe.runtime.describe import Describer, Undescribed
from loupe.runtime.forward import Pass
from loupe.runtime.host import Batch, Host, Input
from loupe.runtime.meta import Scan, Scanner
from loupe.runtime.missed import Missed
from loupe.runtime.ops_tap import Operation
from loupe.runtime.plan import Plan, make_plan
from loupe.runtime.replay import Start
from loupe.runtime.rows import SiteAxes


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run gives back: the saved values that were reached, and the error that kept others from it."""

    results: dict[str, Any]
    error: LoupeError | None = None


class LocalRun:
    """The run of one block: takes its inputs, answers peeks, and ends it.

    A block without peeks is one pass in the caller's thread. With peeks the pass stands still in a worker thread
    between them; what has passed already is reached by a new pass with the same random numbers. `attached` are the
    paths of modules that the model itself does not call: calls that the block makes of them have sites.
    """

    def __init__(
        self,
        host: Host,
        modules: Callable[[str], nn.Module],
        graph: Graph,
        scanner: Scanner,
        attached: Collection[str] = (),
    ) -> None:
        self._host = host
        self._attached = attached
        self._modules = modules
        self._graph = graph
        self._scanner = scanner
        self._inputs: list[Input] = []
        self._generation: dict[str, Any] | None = None
        self._batch: Batch | None = None
        self._axes: SiteAxes | None = None
        self._pass: Pass | None = None
        self._start: Start | None = None
        self._failed: set[int] = set()
        self._describer = Describer(graph, scanner)
        self._locked = False

    # -- what the block asks -------------------------------------------------------------------------------------------

    def add_input(self, args: tuple[Any, ...], kwargs: dict[str, Any], line: Line) -> int:
        """Take one input into the batch; a pass that stands still with fewer is given up."""
        self._inputs.append(Input(args, kwargs, line))
        alone = self._host.merge(self._inputs[-1:])  # what cannot be used is refused here, on its own line
        self._batch = alone if len(self._inputs) == 1 else None
        if self._start is not None:
            self._start.restore()
            self._start = None
        self._axes = None
        self._describer.forget()
        self._end_pass()
        return len(self._inputs) - 1

    def generate(self, options: dict[str, Any]) -> None:
        """Turn the run into a generation with these options of the host."""
        if self._inputs:
            self._host.merge(self._inputs, options)
        self._generation = options
        self._end_pass()

    def steps(self) -> int:
        """The most steps that the run can have."""
        return self._host.steps(self._run_batch())

    def peek(self, node: int) -> Any:
        """The real value of a node, by letting the pass proceed to it."""
        flat = self._unrolled()
        node = flat.last[node]
        if self._pass is not None and node in self._pass.interpreter.values:
            return self._pass.interpreter.values[node]
        keep = set(range(len(flat.graph))) - flat.graph.users_of(
            self._failed
        )  # what has failed once is not tried again
        plan = make_plan(flat.graph, wanted=[node], keep=keep, changing=self._changing())
        self._proceed(plan, last=False)
        assert self._pass is not None
        if node not in self._pass.interpreter.done:
            raise self._missed().behind(plan, self._pass.interpreter.done, node)
        return self._pass.interpreter.values[node]

    def describe(self, node: int) -> Any:
        """The value of a node without data, or the real one where only a run can tell its shape."""
        if self._pass is not None and node in self._pass.interpreter.values:
            return self._pass.interpreter.values[node]
        try:
            batch = self._merged()
            watch = tuple(sorted({site.path for site in self._graph.sites if site.op is not None}))
            stand_ins = {s.event: o.event for s in self._graph.sites if (o := self._host.stand_in(s)) is not None}
            watch = tuple(sorted({*watch, *(event.path for event in stand_ins.values())}))
            scan = self._scan(batch, watch)
            for event, other in stand_ins.items():
                if event not in scan.values and other in scan.values:
                    scan.values[event] = scan.values[other]
            return self._describer.describe(node, scan, Rows(batch.rows, batch.total), self._site_axes())
        except Undescribed:
            return self.peek(node)

    def device(self, node: int) -> torch.device:
        """Where the value of a node will be."""
        value = self.describe(node)
        if isinstance(value, torch.Tensor) and not value.is_meta:
            return value.device
        self._host.load()
        devices = {parameter.device for parameter in self._host.module.parameters()}
        if len(devices) == 1:
            return devices.pop()
        return self.peek(node).device

    def is_tensor(self, site: Site) -> bool:
        """Whether the value at a site is a tensor, by one scan of the model; true where that cannot tell."""
        key = (site.path, site.port, site.op)
        known = self._scanner.kinds.get(key)
        if known is None and self._inputs:
            known = self._scanner.kinds[key] = self._scan_for_tensor(site)
        return known is not False

    def _scan_for_tensor(self, site: Site) -> bool:
        stand_in = self._host.stand_in(site)
        watch = tuple({each.path for each in (site, stand_in) if each is not None and each.op is not None})
        scan = self._scan(self._merged(), watch)
        for each in (site, stand_in):
            if each is not None and each.event in scan.values:
                value = scan.values[each.event]
                return isinstance(first_input(value) if site.port == "input" else value, torch.Tensor)
        return site.port != "inputs"

    def operations(self, path: str, call: int) -> list[Operation]:
        """The torch operations of one call of a module, in order, as in a block that taps one of them; without data."""
        tapping = Graph()
        tapping.nodes.append(Node(0, "read", Site(path, "output", call, "any")))
        scan = self._scan(self._merged(), (path,), tapping)
        if (path, call) not in scan.operations:
            raise NotReachedError(
                f"{path or 'the model'} is not called in this pass, so it has no operations to list",
                remedy=self._missed().what_ran(path),
            )
        return scan.operations[path, call]

    def finish(self) -> Outcome:
        """Run the graph to its end."""
        try:
            if not self._inputs:
                if not len(self._graph):
                    return Outcome({})
                raise InputError(
                    "the block has no input", remedy="pass a prompt to trace(...), or use tracer.invoke(prompt)"
                )
            plan = make_plan(self._unrolled().graph, changing=self._changing())
            if self._pass is not None and not plan.wanted and plan.live <= self._pass.interpreter.done:
                return Outcome({})  # peeks were all that the block was about
            self._proceed(plan, last=True)
            assert self._pass is not None
            interpreter = self._pass.interpreter
            if self._pass.stopped_early:
                error = self._missed().never_reached(plan, interpreter.done, self._attached)
            else:
                error = self._missed().first(plan, interpreter.done)
            return Outcome(interpreter.results, error)
        finally:
            self._end_pass()
            self._release()

    def abandon(self) -> None:
        """The block ended with an exception: end the pass, keep nothing."""
        try:
            self._end_pass()
        finally:
            self._release()

    # -- passes --------------------------------------------------------------------------------------------------------

    def _proceed(self, plan: Plan, *, last: bool) -> None:
        self._know_rows(plan)
        if self._pass is not None and not self._pass.can_take(plan):
            self._end_pass()
        if self._pass is None:
            self._begin_pass(plan, pausable=not last)
        assert self._pass is not None
        if self._start is not None:
            self._start.keep_changed(plan)
        try:
            self._pass.run(plan, last=last)
        except BaseException:
            self._failed |= self._pass.interpreter.failed
            self._end_pass()
            raise

    def _begin_pass(self, plan: Plan, *, pausable: bool) -> None:
        if not self._inputs:
            raise InputError(
                "the block has no input yet", remedy="pass a prompt to trace(...), or use tracer.invoke(prompt)"
            )
        self._host.load()
        self._acquire()
        if self._start is not None:
            self._start.restore()
        elif pausable:
            self._start = Start(self._host.module, self._run_batch())
        self._pass = Pass(
            self._host, self._modules, self._run_batch(), self._site_axes(), self._attached, pausable=pausable
        )

    def _know_rows(self, plan: Plan) -> None:
        """Find the rows of every site that one prompt of several is about, before a pass needs them."""
        if len(self._inputs) < 2:
            return
        batch = self._merged()
        rows = Rows(batch.rows, batch.total)
        split = [e for e, nodes in plan.gates.items() if any(not rows.covers_all(plan.graph[n].invoke) for n in nodes)]
        self._site_axes().prepare(split)

    def _end_pass(self) -> None:
        if self._pass is not None:
            self._pass.cancel()
            self._pass = None

    def _acquire(self) -> None:
        if not self._locked:
            self._host.lock.acquire()
            self._locked = True

    def _release(self) -> None:
        if self._locked:
            self._locked = False
            self._host.lock.release()

    def _merged(self) -> Batch:
        if not self._inputs:
            raise Undescribed("the block has no input yet")
        if self._batch is None:
            self._batch = self._host.merge(self._inputs)
        return self._batch

    def _run_batch(self) -> Batch:
        return self._merged() if self._generation is None else self._host.merge(self._inputs, self._generation)

    def _unrolled(self) -> Unrolled:
        stepwise = any(node.steps is not None for node in self._graph)
        return unroll(self._graph, self.steps() if stepwise else 1)

    def _missed(self) -> Missed:
        return Missed(lambda watch: self._scan(self._merged(), watch), self._host, self._generation is not None)

    def _changing(self) -> set[str]:
        """The modules called by the block that change their arguments in place, as `nn.ReLU(inplace=True)` does."""
        called = {node.target for node in self._graph if node.kind == "call"}
        return {path for path in called if any(getattr(m, "inplace", False) for m in self._modules(path).modules())}

    def _site_axes(self) -> SiteAxes:
        if self._axes is None:
            self._axes = SiteAxes(
                self._host, self._modules, self._graph, self._inputs, self._scan, self._end_pass, self._attached
            )
        return self._axes

    def _scan(self, batch: Batch, watch: Sequence[str], graph: Graph | None = None) -> Scan:
        graph = self._graph if graph is None else graph

        def settings(module: nn.Module) -> AbstractContextManager[None]:
            return self._host.settings(graph, module)

        with self._host.lock:
            return self._scanner.scan(batch, settings, self._host.settings_key(graph), tuple(watch))
