"""Run the graph of one block in this process: pass by pass while the block is being written, and to its end."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import nn

from loupe.errors import BlockError, InputError, Line, LoupeError, UnknownModuleError
from loupe.graph.graph import Graph
from loupe.graph.node import Site
from loupe.graph.steps import Unrolled, unroll
from loupe.runtime.describe import Undescribed
from loupe.runtime.descriptions import Descriptions
from loupe.runtime.foresight import Foresight
from loupe.runtime.forward import Pass
from loupe.runtime.given import Given, Opened
from loupe.runtime.growing import Growing
from loupe.runtime.host import Host
from loupe.runtime.inputs import Inputs
from loupe.runtime.joined import has_to_run_alone, kind_of, run_joined
from loupe.runtime.lookup import strictly, with_line
from loupe.runtime.meta import Scanner
from loupe.runtime.missed import no_step
from loupe.runtime.offloaded import devices_of
from loupe.runtime.ops_tap import Operation
from loupe.runtime.originals import keep_originals
from loupe.runtime.plan import Plan, make_plan
from loupe.runtime.recorded import Recorded
from loupe.runtime.replay import Start
from loupe.runtime.rows import SiteAxes
from loupe.runtime.scanning import ConstantsWithoutData, explain, has_no_data
from loupe.runtime.together import Joining, Together


class Outcome(NamedTuple):
    """What a run gives back: the saved values that were reached, and the error that kept others from it."""

    results: dict[str, Any]
    error: LoupeError | None = None


class LocalRun:
    """The run of one block: takes its inputs, answers peeks, and ends it.

    A block without peeks is one pass in the caller's thread. With peeks the pass stands still in a worker thread
    between them; what has passed already is reached by a new pass with the same random numbers. `attached` are the
    paths of modules that the model itself does not call: calls that the block makes of them have sites. `given` has the
    values that come into the run from outside, by name. `scans` says that the host has shapes and no values.
    """

    def __init__(
        self,
        host: Host,
        modules: Callable[[str], nn.Module],
        graph: Graph,
        scanner: Scanner,
        attached: Collection[str] = (),
        given: Given | None = None,
        *,
        scans: bool = False,
    ) -> None:
        self._scans = scans
        self._constants = ConstantsWithoutData() if scans else None
        self._host = host
        self._from_outside = given
        self._came_in: dict[str, Any] = {}
        self._attached = attached
        self._modules = strictly(modules)
        self._graph = graph
        graph.events = scanner.events
        self._scanner = scanner
        self._inputs = Inputs(host)
        self._recorded = Recorded(graph, self._modules)
        self._pass: Pass | None = None
        self._start: Start | None = None
        self._collects = False
        self._failed: set[int] = set()
        self._flat: Unrolled | None = None
        self._locked = False

    describes = True

    @cached_property
    def _given(self) -> Given:
        return Opened(self._graph) if self._from_outside is None else self._from_outside

    @cached_property
    def _foresight(self) -> Foresight:
        return Foresight(
            self._host,
            self._modules,
            self._graph,
            self._inputs,
            self._scanner,
            self._attached,
            self._end_pass,
            scans=self._scans,
        )

    def _axes(self) -> SiteAxes:
        return self._foresight.axes()

    @cached_property
    def _descriptions(self) -> Descriptions:
        return Descriptions(
            self._host,
            self._modules,
            self._graph,
            self._inputs,
            self._scanner,
            self._foresight,
            self._given.describe,
            self._end_pass,
        )

    @cached_property
    def _growing(self) -> Growing:
        return Growing(self._graph, self._recorded.changing)

    # -- what the block asks -------------------------------------------------------------------------------------------

    def add_input(self, args: tuple[Any, ...], kwargs: dict[str, Any], line: Line) -> int:
        """Take one input into the batch; a pass that stands still with fewer is given up."""
        number = self._inputs.add(args, kwargs, line)
        self._end_pass()
        if self._start is not None:
            self._start.restore()
            self._start = None
        if number:  # before the first nothing was known
            self._foresight.forget()
            self._descriptions.forget()
        return number

    def collect_weights(self) -> None:
        """Let the model's own weights collect gradients, in backward passes after the block too."""
        self._collects = True

    def generate(self, options: dict[str, Any]) -> None:
        """Turn the run into a generation with these options of the host."""
        self._inputs.generate(options)
        self._end_pass()

    def steps(self) -> int:
        """The most steps that the run can have."""
        return self._inputs.steps()

    def calls_each(self, path: str) -> int:
        """How often one step calls a module: a generation's steps are told apart by it."""
        return self._foresight.calls_each(path)

    def peek(self, node: int) -> Any:
        """The real value of a node, by letting the pass proceed to it."""
        value = self._reach(node)
        if self._scans and has_no_data(value):
            raise BlockError(
                "a scan has shapes and dtypes, and no values",
                remedy="decide by shapes in a scan; look at values in model.trace(...)",
                line=self._graph[node].line,
            )
        return value

    def _reach(self, node: int) -> Any:
        if not self._scans and not self._recorded.is_stepwise():
            return self._value(self._graph, node)
        flat = self._unrolled()
        if node not in flat.last:
            raise no_step(self._graph[node].line)
        return self._value(flat.graph, flat.last[node])

    def _value(self, graph: Graph, node: int) -> Any:
        if self._pass is not None and node in self._pass.interpreter.values:
            return self._pass.interpreter.values[node]
        try:
            plan = self._growing.look(node) if graph is self._graph and not self._failed else None
            if plan is None:
                keep = set(range(len(graph))) - graph.users_of(self._failed)  # what has failed once is not tried again
                plan = make_plan(graph, wanted=[node], keep=keep, changing=self._recorded.changing())
            self._proceed(plan, last=False)
        except UnknownModuleError as unknown:
            raise with_line(unknown, graph, self._modules) from None
        assert self._pass is not None
        if node not in self._pass.interpreter.done and self._pass.order is not None:
            self._without_order()
            self._proceed(plan, last=False)
        if node not in self._pass.interpreter.done:
            raise self._foresight.missed().behind(plan, self._pass.interpreter.done, node)
        return self._pass.interpreter.values[node]

    def describe(self, node: int) -> Any:
        """The value of a node without data, or the real one where only a run can tell its shape.

        A value of each step is described as it is at the first of them.
        """
        steps = self._graph[node].steps
        if steps is not None and not steps.has(0):
            return self._at_first_step(node)
        if not self._recorded.is_stepwise() and self._pass is not None and node in self._pass.interpreter.values:
            return self._pass.interpreter.values[node]
        try:
            return self._descriptions.value(node)
        except Undescribed:
            return self._reach(node) if steps is None else self._at_first_step(node)

    def device(self, node: int) -> torch.device:
        """Where the value of a node will be."""
        value = self.describe(node)
        if isinstance(value, torch.Tensor) and not value.is_meta:
            return value.device
        self._host.load()
        devices = set(devices_of(self._host.module))
        if len(devices) == 1:
            return devices.pop()
        return self._reach(node).device

    def is_tensor(self, site: Site) -> bool:
        """Whether the value at a site is a tensor, by one scan of the model; true where that cannot tell."""
        kinds, key = self._scanner.kinds, (site.path, site.port, site.op)
        known = kinds.get(key)
        if known is None and self._inputs.taken:
            known = kinds[key] = self._descriptions.is_tensor(site)
        return known is not False

    def operations(self, path: str, call: int) -> list[Operation]:
        """The torch operations of one call of a module, in order, as in a block that taps one of them."""
        return self._descriptions.operations(path, call)

    def begun(self) -> bool:
        """Whether a pass stands still, and keeps the model, until the run goes on."""
        return self._pass is not None

    def finish(self) -> Outcome:
        """Run the graph to its end."""
        try:
            if not self._inputs.taken:
                if not len(self._graph):
                    return Outcome({})
                raise InputError(
                    "the block has no input", remedy="pass a prompt to trace(...), or use tracer.invoke(prompt)"
                )
            graph = self._graph if not self._scans and not self._recorded.is_stepwise() else self._unrolled().graph
            plan = self._scanner.plans.of(graph, changing=self._recorded.changing(), everything=self._scans)
            if self._pass is not None and not plan.wanted and plan.live <= self._pass.interpreter.done:
                return Outcome({})  # peeks were all that the block was about
            self._proceed(plan, last=True)
            assert self._pass is not None
            error = self._error(plan, self._pass)
            if error is not None and self._pass.order is not None:
                self._without_order()
                self._proceed(plan, last=True)
                error = self._error(plan, self._pass)
            return Outcome(dict(self._pass.interpreter.results), error)
        except UnknownModuleError as unknown:
            raise with_line(unknown, self._graph, self._modules) from None
        finally:
            self._came_in.clear()
            self._end_pass()
            self._release()

    def kind(self) -> Hashable:
        """What this run has to have in common with others to be run with them; None where it has to run alone."""
        if self._scans or self._collects or self._pass is not None or not self._inputs.taken:
            return None
        return None if has_to_run_alone(self._graph) else kind_of(self._host, self._graph, self._inputs.batch())

    def together(self, runs: Sequence[LocalRun], most: int | None) -> tuple[list[Outcome | None], str | None]:
        """What runs of one kind give when they are run as batches of at most so many rows.

        None stands for a run that has to be done alone; the text says why.
        """
        changing = {path for run in runs for path in run._recorded.changing()}
        scan, given = self._foresight.scan, self._given.value
        joint = Together(self._host, self._modules, self._scanner, scan, self._attached, given, changing)
        blocks = [run._joining() for run in runs]
        self._given.before(self)
        saved, reason = run_joined(joint, blocks, most)
        return [None if results is None else Outcome(results) for results in saved], reason

    def _joining(self) -> Joining:
        return Joining(self._unrolled().graph, tuple(self._inputs.taken), self._inputs.batch().total)

    def _error(self, plan: Plan, ended: Pass) -> LoupeError | None:
        """What kept a pass that has ended from a node."""
        done = ended.interpreter.done
        if plan.live <= done:
            return None
        if ended.interpreter.stopped:
            return self._foresight.missed().below_stop(plan, done)
        if ended.stopped_early:
            return self._foresight.missed().never_reached(plan, done, self._attached)
        return self._foresight.missed().first(plan, done)

    def abandon(self) -> None:
        """The block ended with an exception: end the pass, keep nothing."""
        try:
            self._came_in.clear()
            self._end_pass()
        finally:
            self._release()

    # -- passes --------------------------------------------------------------------------------------------------------

    def _proceed(self, plan: Plan, *, last: bool) -> None:
        if self._pass is None and self._from_outside is not None:
            self._from_outside.before(self)
        for name in [plan.graph[node].target for node in plan.given]:
            if name not in self._came_in:  # in this thread, before a pass is on its way
                self._came_in[name] = self._given.value(name)
        if (plan.written or (plan.given and plan.memory.mutates)) and not self._scans:
            keep_originals(self._graph, plan)
        if len(self._inputs.taken) > 1:
            self._foresight.know_rows(plan)
        if self._pass is not None and not self._pass.can_take(plan):
            self._end_pass()
        if self._pass is None:
            self._begin_pass(plan, pausable=not last)
        assert self._pass is not None
        if self._start is not None:
            self._start.keep_changed(plan)
        try:
            self._pass.run(plan, last=last)
        except BaseException as error:
            self._failed |= self._pass.interpreter.failed
            self._end_pass()
            if self._scans and isinstance(error, Exception):
                explain(error, self._foresight, self._inputs.taken[-1].line)
            raise

    def _without_order(self) -> None:
        """Give up a pass that did not come to what it should have, by the order that a scan has told."""
        self._foresight.distrust()
        self._end_pass()

    def _begin_pass(self, plan: Plan, *, pausable: bool) -> None:
        if not self._inputs.taken:
            raise InputError(
                "the block has no input yet", remedy="pass a prompt to trace(...), or use tracer.invoke(prompt)"
            )
        self._host.load()
        self._acquire()
        if self._start is not None:
            self._start.restore()
        elif pausable:
            self._start = Start(self._scanner.tree.modules(self._host.module), self._inputs.call())
        self._pass = Pass(
            self._host,
            self._modules,
            self._inputs.call(),
            self._axes,
            self._attached,
            self._came_in.__getitem__,
            self._foresight.collector(plan, pausable=pausable) if plan.caches else None,
            self._scanner.tree,
            self._foresight.order(plan) if pausable else None,
            collects=self._collects,
            pausable=pausable,
        )

    def _end_pass(self) -> None:
        if self._pass is not None:
            self._pass.cancel()
            if self._start is not None:
                self._start.keep_gradients(self._pass.interpreter.collected)
            self._pass.forget()
            self._pass = None

    def _acquire(self) -> None:
        if not self._locked:
            self._host.lock.acquire()
            self._locked = True

    def _release(self) -> None:
        if self._locked:
            self._locked = False
            self._host.lock.release()

    def _unrolled(self) -> Unrolled:
        """The graph without step-wise nodes; a pass that knows their copies by other numbers is given up."""
        if self._scans:
            flat = unroll(self._graph, 1)
            assert self._constants is not None
            return replace(flat, graph=self._constants.graph(flat.graph))
        if not self._recorded.is_stepwise():
            return unroll(self._graph, 1)
        before, self._flat = self._flat, unroll(self._graph, self.steps(), self.calls_each)
        if before is not None and not self._flat.extends(before):
            self._failed.clear()
            self._end_pass()
        return self._flat

    def _at_first_step(self, node: int) -> Any:
        """The real value of a node at the first of its steps."""
        flat = self._unrolled()
        if not flat.at.get(node):
            raise no_step(self._graph[node].line)
        return self._value(flat.graph, min(flat.at[node].values()))
