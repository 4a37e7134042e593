"""Run the graph of one block in this process: pass by pass while the block is being written, and to its end."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from loupe.errors import BlockError, InputError, Line, LoupeError, NotReachedError, OperationError, WriteError
from loupe.graph.graph import Graph
from loupe.graph.merge import kind_of_run
from loupe.graph.node import RESULT, Event, Node, Site, constants_of
from loupe.graph.opset import TRACKING
from loupe.graph.passes import Root
from loupe.graph.steps import Unrolled, unroll
from loupe.ops.views import first_input
from loupe.runtime.batching import Along, Rows
from loupe.runtime.budget import is_out_of_memory
from loupe.runtime.collect import Collector, cached_events
from loupe.runtime.describe import Describer, Undescribed
from loupe.runtime.forward import Pass
from loupe.runtime.given import Given, Opened
from loupe.runtime.growing import Growing
from loupe.runtime.host import Batch, Host, Input
from loupe.runtime.lookup import strictly, with_lines_of
from loupe.runtime.meta import Scan, Scanner
from loupe.runtime.missed import Missed, no_step
from loupe.runtime.offloaded import devices_of
from loupe.runtime.ops_tap import Operation, listing
from loupe.runtime.order import Order
from loupe.runtime.plain import plainly
from loupe.runtime.plan import Plan, make_plan
from loupe.runtime.replay import Start, aside
from loupe.runtime.rows import SiteAxes
from loupe.runtime.scanning import ConstantsWithoutData, for_want_of_values, has_no_data
from loupe.runtime.together import Joining, Together, neighbours, reason_of


@dataclass(frozen=True, slots=True)
class Outcome:
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
        self._given: Given = Opened(graph) if given is None else given
        self._came_in: dict[str, Any] = {}
        self._attached = attached
        self._modules = strictly(modules)
        self._graph = graph
        graph.events = scanner.events
        self._scanner = scanner
        self._inputs: list[Input] = []
        self._generation: dict[str, Any] | None = None
        self._batch: Batch | None = None
        self._axes: SiteAxes | None = None
        self._pass: Pass | None = None
        self._start: Start | None = None
        self._collects = False
        self._failed: set[int] = set()
        self._scanned = False
        self._stepwise = False
        self._called: set[str] = set()
        self._looked_through = 0
        self._flat: Unrolled | None = None
        self._describer: Describer | None = None
        self._growing = Growing(graph, self._changing)
        self._locked = False

    describes = True

    # -- what the block asks -------------------------------------------------------------------------------------------

    def add_input(self, args: tuple[Any, ...], kwargs: dict[str, Any], line: Line) -> int:
        """Take one input into the batch; a pass that stands still with fewer is given up."""
        self._inputs.append(Input(args, kwargs, line))
        alone = self._alone(self._inputs[-1])  # what cannot be used is refused here, on its own line
        self._batch = alone if len(self._inputs) == 1 else None
        self._end_pass()
        if self._start is not None:
            self._start.restore()
            self._start = None
        self._axes = None
        self._describer = None
        return len(self._inputs) - 1

    def _alone(self, given: Input) -> Batch:
        """The call of one input; token ids that were given last, and are as they were, make the same call again."""
        ids = given.args[0] if len(given.args) == 1 and not given.kwargs else None
        if type(ids) is not torch.Tensor or ids.is_floating_point() or ids.is_inference():
            return self._host.merge([given])
        module, again = self._host.module, self._scanner.again
        where = (ids._version, id(module), next((each.device for each in module.parameters()), None))
        if again is not None and again[0] is ids and again[1] == where:
            return again[2]
        batch = self._host.merge([given])
        self._scanner.again = (ids, where, batch)
        return batch

    def collect_weights(self) -> None:
        """Let the model's own weights collect gradients, in backward passes after the block too."""
        self._collects = True

    def generate(self, options: dict[str, Any]) -> None:
        """Turn the run into a generation with these options of the host."""
        if self._inputs:
            self._host.merge(self._inputs, options)
        self._generation = options
        self._end_pass()

    def steps(self) -> int:
        """The most steps that the run can have."""
        if not self._inputs:
            raise InputError(
                "the block has no input yet, so that its steps cannot be counted",
                remedy="open tracer.invoke(prompt) first, or give the loop an end: tracer.iter[:5]",
            )
        return self._host.steps(self._run_batch())

    def calls_each(self, path: str) -> int:
        """How often one step calls a module: a generation's steps are told apart by it."""
        if self._generation is None or not self._inputs:
            return 1
        passed = self._scan(self._merged(), ()).values
        return max(sum(event.path == path and event.phase == "in" and event.op is None for event in passed), 1)

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
        if not self._scans and not self._is_stepwise():
            return self._value(self._graph, node)
        flat = self._unrolled()
        if node not in flat.last:
            raise no_step(self._graph[node].line)
        return self._value(flat.graph, flat.last[node])

    def _value(self, graph: Graph, node: int) -> Any:
        if self._pass is not None and node in self._pass.interpreter.values:
            return self._pass.interpreter.values[node]
        with with_lines_of(graph, self._modules):
            plan = self._growing.look(node) if graph is self._graph and not self._failed else None
            if plan is None:
                keep = set(range(len(graph))) - graph.users_of(self._failed)  # what has failed once is not tried again
                plan = make_plan(graph, wanted=[node], keep=keep, changing=self._changing())
            self._proceed(plan, last=False)
        assert self._pass is not None
        if node not in self._pass.interpreter.done and self._pass.order is not None:
            self._without_order()
            self._proceed(plan, last=False)
        if node not in self._pass.interpreter.done:
            raise self._missed().behind(plan, self._pass.interpreter.done, node)
        return self._pass.interpreter.values[node]

    def describe(self, node: int) -> Any:
        """The value of a node without data, or the real one where only a run can tell its shape.

        A value of each step is described as it is at the first of them.
        """
        steps = self._graph[node].steps
        if steps is not None and not steps.has(0):
            return self._at_first_step(node)
        if not self._is_stepwise() and self._pass is not None and node in self._pass.interpreter.values:
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
            if self._describer is None:
                self._describer = Describer(self._graph, self._scanner, self._given.describe)
            with with_lines_of(self._graph, self._modules):
                return self._describer.describe(node, scan, Rows(batch.rows, batch.total), self._site_axes())
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
        key = (site.path, site.port, site.op)
        known = self._scanner.kinds.get(key)
        if known is None and self._inputs:
            known = self._scanner.kinds[key] = self._scan_for_tensor(site)
        return known is not False

    def _scan_for_tensor(self, site: Site) -> bool:
        if self._host.stand_in(site) is not None:
            return site.port != "inputs"  # a dropout takes one tensor and gives one: no need of a scan for each layer
        scan = self._scan(self._merged(), (site.path,) if site.op is not None else ())
        if site.event not in scan.values:
            return site.port != "inputs"
        value = scan.values[site.event]
        return isinstance(first_input(value) if site.port == "input" else value, torch.Tensor)

    def operations(self, path: str, call: int) -> list[Operation]:
        """The torch operations of one call of a module, in order, as in a block that taps one of them.

        Known without data, but for modules that go on as their data decides.
        """
        tapping = Graph()
        tapping.nodes.append(Node(0, "read", Site(path, "output", call, "any")))
        if self._host.reorders(tapping[0].site.event):
            found = self._run_operations(path, tapping)
            if call in found:
                return found[call]
        scan = self._scan(self._merged(), (path,), tapping)
        if (path, call) not in scan.operations:
            raise NotReachedError(
                f"{path or 'the model'} is not called in this pass, so it has no operations to list",
                remedy=self._missed().what_ran(path),
            )
        return scan.operations[path, call]

    def _run_operations(self, path: str, tapping: Graph) -> dict[int, list[Operation]]:
        self._end_pass()  # a pass that stands still has its taps on the model
        host, batch, found = self._host, self._merged(), dict[int, list[Operation]]()
        host.load()
        with host.lock, aside(host.module), host.settings(tapping, host.module), plainly(host.module):
            with listing(self._modules(path), found):
                host.module(*batch.args, **batch.kwargs)
        return found

    def begun(self) -> bool:
        """Whether a pass stands still, and keeps the model, until the run goes on."""
        return self._pass is not None

    def finish(self) -> Outcome:
        """Run the graph to its end."""
        try:
            if not self._inputs:
                if not len(self._graph):
                    return Outcome({})
                raise InputError(
                    "the block has no input", remedy="pass a prompt to trace(...), or use tracer.invoke(prompt)"
                )
            with with_lines_of(self._graph, self._modules):
                graph = self._graph if not self._scans and not self._is_stepwise() else self._unrolled().graph
                plan = self._scanner.plans.of(graph, changing=self._changing(), everything=self._scans)
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
        finally:
            self._came_in.clear()
            self._end_pass()
            self._release()

    def kind(self) -> Hashable:
        """What this run has to have in common with others to be run with them; None where it has to run alone."""
        graph = self._graph
        if self._scans or self._collects or self._pass is not None or not self._inputs:
            return None
        if not graph.backwards and any(getattr(value, "requires_grad", False) for value in graph.constants):
            return None  # what is saved may be differentiated after the block, each by itself
        if any(node.kind == "apply" and node.target in TRACKING for node in graph):
            return None
        batch = self._merged()
        form = tuple(
            (name, tuple(value.shape[1:]), value.dtype) if isinstance(value, torch.Tensor) else (name, repr(value))
            for name, value in (*enumerate(batch.args), *batch.kwargs.items())
        )
        return id(self._host.module), self._host.prefix, form, kind_of_run(graph), self._host.settings_key(graph)

    def together(self, runs: Sequence[LocalRun], most: int | None) -> tuple[list[Outcome | None], str | None]:
        """What runs of one kind give when they are run as batches of at most so many rows.

        None stands for a run that has to be done alone; the text says why.
        """
        changing = {path for run in runs for path in run._changing()}
        joint = Together(
            self._host, self._modules, self._scanner, self._scan, self._attached, self._given.value, changing
        )
        left = [Joining(run._unrolled().graph, tuple(run._inputs), run._merged().total) for run in runs]
        self._given.before(self)
        if most is None:
            most = joint.rows_that_fit(left)
        outcomes: list[Outcome | None] = []
        reason: str | None = None
        while left:
            count = neighbours(left, most)
            try:
                outcomes += map(Outcome, joint.run(left[:count]))
            except (NameError, AttributeError):
                raise  # a mistake in a program, and none that would go away block by block
            except Exception as error:  # each alone says what is wrong with it, on its own line
                if is_out_of_memory(error) and count > 1:
                    most = joint.fewer(left[:count])
                    continue
                outcomes += [None] * count
                reason = reason_of(error)
            left = left[count:]
        return outcomes, reason

    def _error(self, plan: Plan, ended: Pass) -> LoupeError | None:
        """What kept a pass that has ended from a node."""
        done = ended.interpreter.done
        if plan.live <= done:
            return None
        if ended.interpreter.stopped:
            return self._missed().below_stop(plan, done)
        if ended.stopped_early:
            return self._missed().never_reached(plan, done, self._attached)
        return self._missed().first(plan, done)

    def abandon(self) -> None:
        """The block ended with an exception: end the pass, keep nothing."""
        try:
            self._came_in.clear()
            self._end_pass()
        finally:
            self._release()

    # -- passes --------------------------------------------------------------------------------------------------------

    def _proceed(self, plan: Plan, *, last: bool) -> None:
        if self._pass is None:
            self._given.before(self)
        for name in [plan.graph[node].target for node in plan.given]:
            if name not in self._came_in:  # in this thread, before a pass is on its way
                self._came_in[name] = self._given.value(name)
        if (plan.written or (plan.given and plan.memory.mutates)) and not self._scans:
            self._keep_originals(plan)
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
        except BaseException as error:
            self._failed |= self._pass.interpreter.failed
            self._end_pass()
            if self._scans and isinstance(error, Exception):
                self._explain(error)
            raise

    def _keep_originals(self, plan: Plan) -> None:
        """The graph is to say what it was recorded with, although its run changes some of its constants."""
        originals = self._graph.originals
        roots = {root for changed in plan.memory.mutates.values() for root in changed if root[0] == "node"}
        defaults = {index for root in roots for index in self._constants_behind(plan, root)}
        for index in (plan.written | defaults) - originals.keys():
            value = plan.graph.constants[index]
            if isinstance(value, torch.Tensor):
                originals[index] = value.detach().clone().requires_grad_(value.requires_grad)

    def _without_order(self) -> None:
        """Give up a pass that did not come to what it should have, by the order that a scan has told."""
        self._scanner.distrust()
        self._end_pass()

    def _constants_behind(self, plan: Plan, root: Root) -> list[int]:
        """The constants that are the default of an open parameter."""
        node = plan.graph[root[1]]
        opened = self._graph.parameters.get(node.target) if node.kind == "given" else None
        return [] if opened is None else [constant.index for constant in constants_of(opened.default)]

    def _explain(self, error: Exception) -> None:
        """Raise BlockError where a scan has failed because it has no values."""
        if isinstance(error, OperationError) and for_want_of_values(error):
            raise BlockError(
                f"a scan has shapes and dtypes, and no values, which this line needs: {error.fact}",
                remedy="leave it out of the scan, or run the block with model.trace(...)",
                line=error.line,
            ) from error
        own = self._scan(self._merged(), ()).error
        if own is not None and (isinstance(error, WriteError) or not isinstance(error, LoupeError)):
            raise BlockError(
                f"the model cannot be run to its end without data: {type(own).__name__}: {own}",
                remedy="save values from before that place only, or run the block with model.trace(...)",
                line=self._inputs[-1].line,
            ) from error

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
            self._start = Start(self._scanner.tree.modules(self._host.module), self._run_batch())
        self._pass = Pass(
            self._host,
            self._modules,
            self._run_batch(),
            self._site_axes(),
            self._attached,
            self._came_in.__getitem__,
            self._collector(plan, pausable=pausable) if plan.caches else None,
            self._scanner.tree,
            self._order(plan) if pausable else None,
            collects=self._collects,
            pausable=pausable,
        )

    def _order(self, plan: Plan) -> Order | None:
        """The order of the pass that is about to begin, where a scan can tell."""
        if plan.caches:
            return None
        return self._told_by_scan(self._scanner.order)

    def _told_by_scan(self, order: Callable[..., Order | None]) -> Order | None:
        if self._generation is not None or self._scans or self._attached:
            return None
        with self._host.lock:
            self._refresh()
            key = self._host.settings_key(self._graph)

            def settings(module: nn.Module) -> AbstractContextManager[None]:
                return self._host.settings(self._graph, module)

            return order(self._merged(), settings, key)

    def _collector(self, plan: Plan, *, pausable: bool) -> Collector:
        """What collects the caches of a plan; it copies where the model, or the block, may change a tensor later."""
        if self._scanner.overwritten is None:
            self._scan(self._merged(), ())
        changes = pausable or any(plan.changed_sites(node) for node in plan.memory.mutates if node in plan.live)
        overwritten = None if changes else self._scanner.overwritten
        return Collector(plan, self._site_axes(), overwritten, self._host.prefix, self._expected(plan))

    def _expected(self, plan: Plan) -> list[Event] | None:
        """What the caches of a plan collect, where a scan can tell and the pass need not go to its end for it."""
        places = {(event.path, event.phase) for event in cached_events(plan)}
        if (self._host.prefix, "out") in places:
            return None
        order = self._told_by_scan(self._scanner.course)
        return None if order is None else [event for event in order.places if (event.path, event.phase) in places]

    def _know_rows(self, plan: Plan) -> None:
        """Find the rows of every site that one prompt of several is about, before a pass needs them."""
        if len(self._inputs) < 2:
            return
        batch = self._merged()
        rows = Rows(batch.rows, batch.total)
        split = [e for e, nodes in plan.gates.items() if any(not rows.covers_all(plan.graph[n].invoke) for n in nodes)]
        split = [e for e in split if e.path != RESULT or self._generation is None]
        split = [e if e.phase != "skip" else e._replace(phase="out") for e in split]
        self._site_axes().prepare(split)
        if any(not rows.covers_all(plan.graph[cache].invoke) for cache in plan.caches):
            self._site_axes().prepare(cached_events(plan), probe=False)

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

    def _merged(self) -> Batch:
        if not self._inputs:
            raise Undescribed("the block has no input yet")
        if self._batch is None:
            self._batch = self._host.merge(self._inputs)
        return self._batch

    def _run_batch(self) -> Batch:
        return self._merged() if self._generation is None else self._host.merge(self._inputs, self._generation)

    def _is_stepwise(self) -> bool:
        """Whether a node of the graph is about several steps."""
        self._look_through()
        return self._stepwise

    def _look_through(self) -> None:
        """Take down of the nodes that are new what is asked at each turn: the steps, the modules that are called."""
        nodes = self._graph.nodes
        for place in range(self._looked_through, len(nodes)):
            node = nodes[place]
            if node.steps is not None:
                self._stepwise = True
            if node.kind == "call":
                self._called.add(node.target)
        self._looked_through = len(nodes)

    def _unrolled(self) -> Unrolled:
        """The graph without step-wise nodes; a pass that knows their copies by other numbers is given up."""
        if self._scans:
            flat = unroll(self._graph, 1)
            assert self._constants is not None
            return replace(flat, graph=self._constants.graph(flat.graph))
        if not self._is_stepwise():
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

    def _missed(self) -> Missed:
        return Missed(lambda watch: self._scan(self._merged(), watch), self._host, self._generation is not None)

    def _changing(self) -> set[str]:
        """The modules called by the block that change their arguments in place, as `nn.ReLU(inplace=True)` does."""
        self._look_through()
        called = self._called
        return called and {
            path for path in called if any(getattr(m, "inplace", False) for m in self._modules(path).modules())
        }

    def _site_axes(self) -> SiteAxes:
        if self._axes is None:
            self._axes = SiteAxes(
                self._host,
                self._modules,
                self._graph,
                self._inputs,
                self._scan,
                self._end_pass,
                self._attached,
                told=self._told,
            )
        return self._axes

    def _told(self, batch: Batch) -> dict[Event, Along]:
        with self._host.lock:
            self._refresh()
            return self._scanner.axes(batch, self._host.settings_key(self._graph))

    def _refresh(self) -> None:
        if not self._scanned:
            self._scanner.refresh()
            self._scanned = True

    def _scan(self, batch: Batch, watch: Sequence[str], graph: Graph | None = None) -> Scan:
        graph = self._graph if graph is None else graph

        def settings(module: nn.Module) -> AbstractContextManager[None]:
            return self._host.settings(graph, module)

        with self._host.lock:
            self._refresh()
            return self._scanner.scan(batch, settings, self._host.settings_key(graph), tuple(watch))
