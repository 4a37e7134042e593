"""Run one pass of a model with a plan attached: from the call, through its taps, to where nothing is left to do."""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Iterable
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from loupe.errors import LoupeError, OperationError, OrderError, WriteError
from loupe.graph.node import RESULT, Event, Node, Phase, Site, is_within
from loupe.ops.gradients import without_history
from loupe.runtime.aliasing import Tap
from loupe.runtime.batching import Axes, Rows
from loupe.runtime.branching import Branch, Branching, grow
from loupe.runtime.collect import Collector, cached_events, counting_events
from loupe.runtime.gradients import WITHOUT_CHECKPOINT
from loupe.runtime.host import Batch, Host
from loupe.runtime.interpreter import Interpreter, Surroundings
from loupe.runtime.leaves import Leaves, Untracked
from loupe.runtime.lookup import place_of
from loupe.runtime.offloaded import parameter_at, send_away
from loupe.runtime.order import Order
from loupe.runtime.plain import modules_of, set_plain
from loupe.runtime.plan import Plan
from loupe.runtime.rows import RowsFirst
from loupe.runtime.taps import OpenSite, OpenSkip, Taps, never
from loupe.runtime.tensors import map_tensors, share_memory, storages_of, summary, tensors_in
from loupe.runtime.tree import Tree
from loupe.runtime.weights import Weights, as_before
from loupe.runtime.worker import PausedCall

_NOTHING_TO_SET: AbstractContextManager[None] = nullcontext()


class StopPass(BaseException):
    """Ends a pass in which nothing is left to do; no model code catches it."""


class Pass:
    """One pass of a host with a plan.

    A pausable one goes on in a worker thread, stands still once its plan is satisfied, and can be given a longer plan.
    The other kind stays in the caller's thread and stops the model there. `tree` knows the modules of the host's model.
    With `order` sites are tapped when the block names them; without, a pausable pass taps every module.
    """

    def __init__(
        self,
        host: Host,
        modules: Callable[[str], nn.Module],
        batch: Batch,
        axes: Axes,
        attached: Collection[str],
        given: Callable[[str], Any],
        collector: Collector | None,
        tree: Tree,
        order: Order | None,
        branching: Branching | None = None,
        *,
        collects: bool,
        pausable: bool,
    ) -> None:
        self.ended = False
        self.stopped_early = False
        self._host = host
        self._modules = modules
        self._batch = batch
        self._rows = Rows(batch.rows, batch.total) if branching is None else branching.first
        self._branching = branching
        self._branch: Branch | None = None
        self._axes = axes
        self._attached = attached
        self._pausable = pausable
        self._last = not pausable
        self._paused: PausedCall | None = None
        self._open: list[Tap] = []
        self._with_grad = False
        self._reached: dict[tuple[str, str], int] = {}
        self._written: list[tuple[Node, str]] = []
        self._plan: Plan | None = None
        self._collector = collector
        self._tree = tree
        self.order = order
        self._place = -1
        self._taken_up = 0
        self._settings_key = ""
        self._calling_host = False
        self._set_aside: list[tuple[dict[str, Any], str, Any]] = []
        self._weights_asked: frozenset[str] | None = frozenset()
        self._leaves = Leaves(modules, attached, given, self._parts, collects=collects)
        self._memory = Weights(modules, attached, self._set_aside)
        passed = never if order is None else self._times_passed
        self._taps = Taps(modules, self._visit, self._refuse_second_run, self._keep_weight, passed)
        self.interpreter = Interpreter(
            Surroundings(
                modules,
                self._parameter,
                self._set_parameter,
                given,
                self._calling,
                self._stand_at,
                self._leaves.weights,
                self._memory,
            ),
            keep_values=pausable,
        )

    # -- from the block's side -----------------------------------------------------------------------------------------

    def run(self, plan: Plan, *, last: bool) -> None:
        """Go on until nothing of the plan is wanted any more, or until the model has returned.

        `last` says that no longer plan will come: the model is stopped rather than paused.
        """
        self._plan = plan
        self._last = last
        if self.ended:
            self._exchange_parameters()
            try:
                with self._settings(plan, self._host.module), self._tracking():
                    self.interpreter.load(plan)
                    self.interpreter.drain()
            finally:
                self._exchange_parameters(back=True)
        elif not self._pausable:
            self._whole()
        else:
            if self._paused is None:
                self._paused = PausedCall(lambda _call: self._whole())
            self._paused.resume()

    def cancel(self) -> None:
        """End the pass where it stands; its hooks come off."""
        if self._paused is not None and not self._paused.finished:
            self._paused.cancel()

    def forget(self) -> None:
        """Let go of all values: what is left of a pass refers to itself, and would keep them for a while."""
        self.interpreter.forget()
        self._set_aside.clear()

    def can_take(self, plan: Plan) -> bool:
        """Whether a longer plan can be met from here, or names something that has already passed."""
        if not self._tracks(plan):
            return False
        if self._key_of(plan) != self._settings_key:
            return False
        if self._plan is None or plan.caches != self._plan.caches:
            return False  # a cache is about the pass from its start
        for node_id in plan.live - self.interpreter.done:
            node = plan.graph[node_id]
            if node.kind in ("read", "write") and self._has_passed(node.site.event):
                return False
            if any(self._has_passed(plan.graph[read].site.event) for read in self._sites_changed_by(plan, node_id)):
                return False
        return True

    def _tracks(self, plan: Plan) -> bool:
        """Whether the pass tracks what a longer plan asks gradients of; what has passed untracked is too late."""
        if not self._with_grad:
            return not self._leaves.needs_grad(plan, self._batch)
        asked = self._leaves.asked(plan)
        if self._weights_asked is not None and (asked is None or not asked <= self._weights_asked):
            return False
        values = [self.interpreter.values.get(node) for nodes in plan.gradients.values() for node in nodes]
        return all(v.requires_grad or not v.is_floating_point() for v in values if isinstance(v, torch.Tensor))

    def _sites_changed_by(self, plan: Plan, node_id: int) -> list[int]:
        """The sites whose tensors an in-place node really changes, as far as the values are known."""
        if node_id not in plan.memory.mutates:
            return []
        values = self.interpreter.values
        refs = [ref for ref in plan.graph[node_id].refs() if ref in values]
        storages = {found for ref in refs for found in storages_of(values[ref])}
        return [read for read in plan.changed_sites(node_id) if read in values and share_memory(values[read], storages)]

    def _has_passed(self, event: Event) -> bool:
        if any(site.event == event for site in self._open):
            return False
        if self.ended:
            return True
        if event.phase == "grad":
            backwards = self._plan.backwards if self._plan is not None else ()
            return event.call < len(backwards) and backwards[event.call] in self.interpreter.done
        if event.op is not None and not self._taps.is_watched(event):
            return self._reached.get((event.path, "in"), -1) >= event.call  # its tap had to be there before the call
        if self.order is not None and self.order.has_passed(event, self._place):
            return True
        key = (event.path, event.phase) if event.op is None else (str(event), event.phase)
        return self._reached.get(key, -1) >= event.call

    def _times_passed(self, path: str, phase: Phase) -> int:
        assert self.order is not None
        return self.order.passed(path, phase, self._place)

    # -- inside the pass -----------------------------------------------------------------------------------------------

    def _whole(self) -> None:
        plan = self._plan
        assert plan is not None
        model = self._host.module
        self._settings_key = self._key_of(plan)
        try:
            with self._settings(plan, model):
                unusual = self._tree.unusual(model)
                put_back = set_plain(unusual) if unusual else None
                try:
                    with self._grad_mode(plan):
                        self._attach_and_call(plan, model)
                except BaseException:
                    if self._tree.has_own("_hf_hook"):
                        send_away(self._tree.modules(model))
                    raise
                finally:
                    self._taps.detach()
                    if put_back is not None:
                        put_back()
        except StopPass:
            self.stopped_early = True
        finally:
            if self._set_aside:
                self._exchange_parameters(back=True)
            self._open.clear()
            if self._collector is not None:
                self.interpreter.results.update(self._collector.results)
            self.interpreter.wanted.difference_update(plan.caches)
            self.ended = True
        if self._collector is not None:
            self._collector.check()

    def _attach_and_call(self, plan: Plan, model: nn.Module) -> None:
        prefix = self._host.prefix
        if self._pausable and self.order is None:
            self._taps.attach_everywhere(model, prefix, skippable=True)
        if self._branching is not None:
            self._taps.attach(self._branching.events, {})
        if plan.caches:
            self._taps.attach([*cached_events(plan), *counting_events(plan, prefix)], {})
        self._take_up(plan)
        self._rest()
        self._call_host()

    def _parts(self) -> Iterable[nn.Module]:
        """The modules of the whole model, of which the host's may be one."""
        return modules_of(self._modules("")) if self._host.prefix else self._tree.modules(self._host.module)

    def _key_of(self, plan: Plan) -> str:
        """Names what a run of this plan sets on the model."""
        answers = plan.answers
        if answers.settings_key is None:
            answers.settings_key = self._host.settings_key(plan.graph)
        return answers.settings_key

    def _settings(self, plan: Plan, model: nn.Module) -> AbstractContextManager[None]:
        """What a run of this plan sets on the model."""
        if plan.answers.sets_nothing:
            return _NOTHING_TO_SET
        found = self._host.settings(plan.graph, model)
        plan.answers.sets_nothing = type(found) is nullcontext
        return found

    def _take_up(self, plan: Plan) -> None:
        """Attach what a plan needs beyond what is attached, and do what can be done at once."""
        new = plan.graph.nodes[self._taken_up :] if plan.grows else plan.graph.nodes
        self._taken_up = len(plan.graph.nodes)
        stand_ins = plan.answers.stand_ins
        if stand_ins is None:
            sites = dict.fromkeys(n.site for n in new if n.kind in ("read", "write") and n.gradient_of is None)
            others = [(s.event, self._host.stand_in(s)) for s in sites if s.path != RESULT]
            stand_ins = {event: other.event for event, other in others if other is not None}
            plan.answers.stand_ins = stand_ins
        events = [plan.events[n.id] for n in new if n.id in plan.events] if plan.grows else plan.gates
        if self.order is not None:
            self._taps.attach(self.order.around(events), {})
        self._taps.attach(events, stand_ins)
        self.interpreter.load(plan)
        self.interpreter.drain()

    def _call_host(self) -> None:
        self._calling_host = True
        try:
            result = self._host.call(self._tracked_apart() if self._with_grad else self._batch)
        except LoupeError:
            raise
        except Exception as error:
            if not self._written:
                raise
            raise _cannot_go_on(self._written, error) from error
        self.interpreter.settle_last_steps()
        self._visit(Event(RESULT, "out", 0), result)

    def _tracked_apart(self) -> Batch:
        """The call with tensors of its own, so that the user's do not require a gradient when the run is over."""
        batch = self._batch
        return replace(
            batch, args=map_tensors(batch.args, without_history), kwargs=map_tensors(batch.kwargs, without_history)
        )

    def _visit(self, event: Event, value: Any) -> OpenSite | OpenSkip | None:
        """What a tap does: stop here if the plan names this moment, do what is due, and give the changed value back."""
        plan = self._plan
        assert plan is not None
        if self._paused is not None:
            self._paused.check()
        if self.order is not None:
            self._place = self.order.places.get(event, self._place)
        site: OpenSite | OpenSkip | None = None
        if self._branching is not None and (event in self._branching.at or event in self._branching.blocks):
            value = self._grown(self._branching, event, value)
            site = OpenSite(event, value, self._rows, self._axes, replaced=True)
        if event in plan.gates:
            if event.phase == "skip":
                site = OpenSkip(event, self._rows, self._axes)
            elif site is None:
                result = event.path == RESULT and self._batch.method == "generate"
                site = OpenSite(event, value, self._rows, RowsFirst(value) if result else self._axes)
            self._stand_at(site)
            for node, before, after in site.changed or ():
                self._note_change(node, before, after)
            value = site.value
        if self._collector is not None and event.op is None:
            self._collector.take(event, value, self._rows)
            if self._collector.complete and self._last:
                self.interpreter.wanted.difference_update(plan.caches)
                self._rest()
        if self._pausable:
            self._reached[(event.path, event.phase) if event.op is None else (str(event), event.phase)] = event.call
        return site

    def _grown(self, branching: Branching, event: Event, value: Any) -> Any:
        """What passes at a moment at which the batch grows, or may have grown since the model made it."""
        branch, before = branching.at.get(event), self._rows
        if branch is not None:
            self._branch, self._rows = branch, branch.rows
        if self._branch is None:
            return value
        return grow(value, self._axes, before, self._branch, branching.first.total, event)

    def _refuse_second_run(self, path: str) -> None:
        """A checkpointed module runs again in the backward pass; what the block has changed there would be missing."""
        plan = self._plan
        assert plan is not None
        changed = {read for node in plan.memory.mutates if node in plan.live for read in plan.changed_sites(node)}
        for node in (plan.graph[place] for places in plan.gates.values() for place in places):
            there = isinstance(node.target, Site) and node.gradient_of is None and node.site.path == path
            if there and (node.kind == "write" or node.id in changed):
                raise OperationError(
                    f"{node.site.lands} is changed, and lies in a part that the backward pass computes a second "
                    "time (torch.utils.checkpoint), without the change",
                    remedy=WITHOUT_CHECKPOINT,
                    line=node.line,
                )

    def _keep_weight(self, events: Iterable[Event], tensor: torch.Tensor) -> None:
        """What a block makes of an operation that the model does in place goes into a tensor; not into a weight."""
        if self._memory.is_in(tensor):
            plan = self._plan
            assert plan is not None
            nodes = [plan.graph[node] for event in events for node in plan.gates.get(event, ())]
            self._memory.refuse(next((node for node in nodes if node.kind == "write"), nodes[0]), [tensor])

    def _stand_at(self, *sites: Tap) -> None:
        """Open the sites of one value, do what is due, stand still where the block asks for it, and close them."""
        self._open.extend(sites)
        try:
            self.interpreter.open(*sites)
            self._rest()
            for site in sites:
                self.interpreter.close(site)
        finally:
            for site in sites:
                self._open.remove(site)

    def _rest(self) -> None:
        """Where nothing is wanted any more: stop the model, or stand still for a block that is still being written."""
        while True:
            plan = self._plan
            assert plan is not None
            if self.interpreter.stopped:
                raise StopPass
            if not plan.wanted or self.interpreter.wanted:
                return
            if self._last:
                raise StopPass
            assert self._paused is not None
            self._exchange_parameters(back=True)  # the user's other lines see the model as it is
            self._leaves.require(True)
            try:
                self._paused.pause()
            finally:
                self._leaves.require(False)
                self._exchange_parameters()
            assert self._plan is not None  # the longer plan with which the pass was resumed
            self._take_up(self._plan)

    def _note_change(self, node: Node, before: Any, after: Any) -> None:
        """Remember a write for the error that it may lead to: as text, so that no tensor is kept for it."""
        if node.site.port == "skip":
            self._written.append((node, f" with {summary(after)}"))
            return
        old = [(tensor.shape, tensor.dtype) for tensor in tensors_in(before)]
        kept = old == [(tensor.shape, tensor.dtype) for tensor in tensors_in(after)]
        self._written.append((node, "" if kept else f" by {summary(after)} where it was {summary(before)}"))

    def _grad_mode(self, plan: Plan) -> AbstractContextManager[None]:
        """Autograd runs only where a gradient is asked for; gradients of gradients need an attention that has them."""
        self._with_grad = self._leaves.needs_grad(plan, self._batch)
        if not self._with_grad:
            return self._tracking()
        self._weights_asked = self._leaves.asked(plan)
        twice = any(plan.graph[node].kwargs.get("create_graph") for node in plan.backwards)
        return self._tracking_twice() if twice else self._tracking()

    @contextmanager
    def _tracking_twice(self) -> Generator[None]:
        with self._tracking(), sdpa_kernel(SDPBackend.MATH):
            yield

    def _tracking(self) -> AbstractContextManager[None]:
        """Track gradients where the pass does, of the weights that it asks about alone."""
        return self._leaves.tracked(self._weights_asked) if self._with_grad else Untracked()

    def _parameter(self, path: str) -> Any:
        value = parameter_at(self._modules, path)
        return value if self._with_grad else value.detach()

    def _set_parameter(self, node: Node, value: Any) -> None:
        """Let the model run with another parameter; the model's own is put back when the pass ends."""
        own, name = place_of(self._modules, node.target)
        before = own[name]
        if self._calling_host:
            raise OrderError(
                f"{node.target} is set to a value that the model computes only while it runs",
                remedy="set a parameter to a value made from parameters and tensors of your own",
                line=node.line,
            )
        if not isinstance(value, torch.Tensor) or not isinstance(before, torch.Tensor) or value.shape != before.shape:
            raise WriteError(
                f"{node.target} is set to {summary(value)}, where it is {summary(before)}",
                remedy="set it to a tensor of its own shape",
                line=node.line,
            )
        if parameter_at(self._modules, node.target) is not before:
            raise WriteError(
                f"{node.target} is offloaded: its data is brought anew for each call, and what is set here is lost",
                remedy="load the model with a device_map that keeps this module on a device",
                line=node.line,
            )
        new: Any = self._memory.apart(value.to(device=before.device, dtype=before.dtype), ())
        self._set_aside.append((own, name, before))
        own[name] = new

    def _exchange_parameters(self, *, back: bool = False) -> None:
        """Put what the run has set in place of the model's own parameters, or those back."""
        places = range(len(self._set_aside))
        for place in reversed(places) if back else places:
            parameters, name, value = self._set_aside[place]
            self._set_aside[place] = (parameters, name, parameters[name])
            parameters[name] = value

    @contextmanager
    def _calling(self, node: Node) -> Generator[None]:
        """A call that the block makes has no sites, unless the module is attached: then all rows there are its own."""
        if not is_within(node.target, self._attached):
            with self._taps.silence(), as_before(self._modules(node.target)):
                yield
            return
        outer = self._rows
        if node.invoke is not None:
            slices = tuple((0, int(invoke == node.invoke)) for invoke in range(len(outer.slices)))
            self._rows = Rows(slices, 1)
        try:
            with self._taps.first_run():
                yield
        finally:
            self._rows = outer


def _cannot_go_on(written: list[tuple[Node, str]], error: Exception) -> WriteError:
    """The model failed after sites were replaced: name them, those with another shape or dtype first."""
    reshaped = any(change for _, change in written)
    shown = []
    for node, change in sorted(written, key=lambda each: not each[1])[:3]:
        what = f"{node.site.module} was skipped" if node.site.port == "skip" else f"{node.site} was replaced"
        shown.append(what + change + (f" (at {node.line})" if node.line else ""))
    return WriteError(
        f"the model could not go on after {'; '.join(shown)}: {type(error).__name__}: {error}",
        remedy="write a value of the shape and dtype that is read there"
        if reshaped
        else "write values that the model can use there; without the write it fails as it always does",
        line=written[0][0].line if len(written) == 1 else None,
    )
