"""Run one pass of a model with a plan attached: from the call, through its taps, to where nothing is left to do."""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Iterable, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
from torch import nn

from loupe.errors import LoupeError
from loupe.graph.node import RESULT, Event, Node, is_within
from loupe.ops.gradients import without_history
from loupe.runtime.aliasing import Tap
from loupe.runtime.answered import settings, settings_key, stand_ins
from loupe.runtime.batching import Axes, Rows
from loupe.runtime.branching import Branch, Branching, grow
from loupe.runtime.checkpoints import refuse_second_run
from loupe.runtime.collect import Collector, cached_events, counting_events
from loupe.runtime.host import Batch, Host
from loupe.runtime.interpreter import Interpreter
from loupe.runtime.offloaded import send_away
from loupe.runtime.open_sites import OpenSite, OpenSkip
from loupe.runtime.order import Order
from loupe.runtime.own_parameters import OwnParameters
from loupe.runtime.plain import on_the_way, set_plain, unusual_among
from loupe.runtime.plan import Plan
from loupe.runtime.progress import Progress
from loupe.runtime.replaced import Replaced
from loupe.runtime.rows import RowsFirst
from loupe.runtime.taps import Taps, never
from loupe.runtime.tensors import map_tensors, share_memory, storages_of
from loupe.runtime.tree import Tree
from loupe.runtime.weights import as_before
from loupe.runtime.worker import PausedCall

_RETURNED = Event(RESULT, "out", 0)


class StopPass(BaseException):
    """Ends a pass in which nothing is left to do; no model code catches it."""


class Pass:
    """One pass of a host with a plan.

    A pausable one goes on in a worker thread, stands still once its plan is satisfied, and can be given a longer plan.
    The other kind stays in the caller's thread and stops the model there. `tree` knows the modules of the host's model.
    `axes` looks up where the rows are, in the few passes that ask. With `order` sites are tapped when the block names
    them; without, a pausable pass taps every module.
    """

    def __init__(
        self,
        host: Host,
        modules: Callable[[str], nn.Module],
        batch: Batch,
        axes: Callable[[], Axes],
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
        self._given = given
        self._pausable = pausable
        self._last = not pausable
        self._paused: PausedCall | None = None
        self._plan: Plan | None = None
        self._collector = collector
        self._tree = tree
        self.order = order
        self._taken_up = 0
        self._found: dict[str, nn.Module] = {}
        self._is_simple = False
        self._replaced: Replaced | None = None
        self.own = OwnParameters(host, modules, attached, given, tree, batch, collects=collects)
        passed = never if order is None else self._progress.times_passed
        self._taps = Taps(modules, self._visit, self._refuse_second_run, self._keep_weight, passed)
        self.interpreter = Interpreter(self, keep_values=pausable)

    @cached_property
    def _progress(self) -> Progress:
        return Progress(self.order)

    # -- what nodes need beside values ---------------------------------------------------------------------------------

    def module(self, path: str) -> nn.Module:
        """The module at a path."""
        return self._modules(path)

    def given(self, name: str) -> Any:
        """What comes into the run from outside."""
        return self._given(name)

    @contextmanager
    def calling(self, node: Node) -> Generator[None]:
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

    def stand_at(self, *sites: Tap) -> None:
        """Open the sites of one value, do what is due, stand still where the block asks for it, and close them."""
        interpreter = self.interpreter
        try:
            interpreter.open(*sites)
            self._rest()
            for site in sites:
                interpreter.close(site)
        except BaseException:
            interpreter.leave(sites)
            raise

    # -- from the block's side -----------------------------------------------------------------------------------------

    def run(self, plan: Plan, *, last: bool) -> None:
        """Go on until nothing of the plan is wanted any more, or until the model has returned.

        `last` says that no longer plan will come: the model is stopped rather than paused.
        """
        self._plan = plan
        self._last = last
        if self.ended:
            self.own.put()
            try:
                with settings(self._host, plan, self._host.module), self.own.track_again():
                    self.interpreter.load(plan)
                    self.interpreter.drain()
            finally:
                self.own.put_back()
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
        self.own.forget()

    def can_take(self, plan: Plan) -> bool:
        """Whether a longer plan can be met from here, or names something that has already passed."""
        if not self.own.are_tracked_for(plan, self.interpreter.values):
            return False
        if self._plan is None or plan.caches != self._plan.caches:
            return False  # a cache is about the pass from its start
        if settings_key(self._host, plan) != settings_key(self._host, self._plan):
            return False
        for node_id in plan.live - self.interpreter.done:
            node = plan.graph[node_id]
            if node.kind in ("read", "write") and self._has_passed(node.site.event):
                return False
            if any(self._has_passed(plan.graph[read].site.event) for read in self._sites_changed_by(plan, node_id)):
                return False
        return True

    def _sites_changed_by(self, plan: Plan, node_id: int) -> list[int]:
        """The sites whose tensors an in-place node really changes, as far as the values are known."""
        if node_id not in plan.memory.mutates:
            return []
        values = self.interpreter.values
        refs = [ref for ref in plan.graph[node_id].refs() if ref in values]
        storages = {found for ref in refs for found in storages_of(values[ref])}
        return [read for read in plan.change(node_id).sites if read in values and share_memory(values[read], storages)]

    def _has_passed(self, event: Event) -> bool:
        if any(site.event == event for site in self.interpreter.taps):
            return False
        if self.ended:
            return True
        if event.phase == "grad":
            backwards = self._plan.backwards if self._plan is not None else ()
            return event.call < len(backwards) and backwards[event.call] in self.interpreter.done
        if event.op is not None and not self._taps.is_watched(event):
            return self._progress.has_begun(event)  # its tap had to be there before the call
        return self._progress.has_passed(event)

    # -- inside the pass -----------------------------------------------------------------------------------------------

    def _whole(self) -> None:
        plan = self._plan
        assert plan is not None
        model = self._host.module
        try:
            with settings(self._host, plan, model), self.own.track(plan):
                self._found, parts = self._tapped_parts(plan)
                if parts is None:
                    unusual = self._tree.unusual(model)
                else:
                    unusual = unusual_among(parts, generates=self._batch.method == "generate")
                put_back = set_plain(unusual) if unusual else None
                try:
                    self._attach_and_call(plan, model)
                except StopPass:
                    self.stopped_early = True
                    send_away(self.own.parts if parts is None else parts)
                except BaseException:
                    send_away(self.own.parts)
                    raise
                finally:
                    self._taps.detach()
                    if put_back is not None:
                        put_back()
        finally:
            self.own.put_back()
            self.interpreter.taps.clear()
            if self._collector is not None:
                self.interpreter.results.update(self._collector.results)
                self.interpreter.wanted.difference_update(plan.caches)
            self.ended = True
        if self._collector is not None:
            self._collector.check()

    def _tapped_parts(self, plan: Plan) -> tuple[dict[str, nn.Module], Collection[nn.Module] | None]:
        """The modules that are tapped by path, and with them those on the way; None where that could be all.

        Compiled code does not come by at a tap, so these run plainly. Other parts may run as they are, but where
        gradients are tracked, where operations are watched, and where the block may yet name any module.
        """
        if self._pausable or self.own.tracks or plan.looks_inside or plan.caches or self._branching is not None:
            return {}, None
        if stand_ins(self._host, plan, plan.graph.nodes):
            return {}, None
        return on_the_way(self._modules(""), plan.paths)

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
        self._is_simple = not self._pausable and self._collector is None and self._branching is None
        self._call_host(plan)

    def _take_up(self, plan: Plan) -> None:
        """Attach what a plan needs beyond what is attached, and do what can be done at once."""
        new = plan.graph.nodes[self._taken_up :] if plan.grows else plan.graph.nodes
        self._taken_up = len(plan.graph.nodes)
        others = stand_ins(self._host, plan, new)
        events = [plan.events[n.id] for n in new if n.id in plan.events] if plan.grows else plan.gates
        if self.order is not None:
            self._taps.attach(self.order.around(events), {})
        self._taps.attach(events, others, self._found)
        self.interpreter.load(plan)
        self.interpreter.drain()

    def _call_host(self, plan: Plan) -> None:
        self.own.call()
        try:
            result = self._host.call(self._tracked_apart() if self.own.tracks else self._batch)
        except LoupeError:
            raise
        except Exception as error:
            if self._replaced is None:
                raise
            raise self._replaced.error(error) from error
        self.interpreter.settle_last_steps()
        if _RETURNED in plan.gates or not self._is_simple:
            self._visit(_RETURNED, result)

    def _tracked_apart(self) -> Batch:
        """The call with tensors of its own, so that the user's do not require a gradient when the run is over."""
        batch = self._batch
        return batch._replace(
            args=map_tensors(batch.args, without_history), kwargs=map_tensors(batch.kwargs, without_history)
        )

    def _visit(self, event: Event, value: Any) -> OpenSite | OpenSkip | None:
        """What a tap does: stop here if the plan names this moment, do what is due, and give the changed value back."""
        routine = self.interpreter.routines.get(event)
        if routine is not None and self._is_simple:
            site = OpenSite(event, value, self._rows, self._axes)
            self._follow(site, routine)
            return site
        plan = self._plan
        assert plan is not None
        if self._paused is not None:
            self._paused.check()
            self._progress.come_to(event)
        site = None
        if self._branching is not None and (event in self._branching.at or event in self._branching.blocks):
            value = self._grown(self._branching, event, value)
            site = OpenSite(event, value, self._rows, self._axes, replaced=True)
        if event in plan.gates:
            if event.phase == "skip":
                site = OpenSkip(event, self._rows, self._axes)
            elif site is None:
                result = event.path == RESULT and self._batch.method == "generate"
                site = OpenSite(event, value, self._rows, (lambda: RowsFirst(value)) if result else self._axes)
            if routine is None:
                self.stand_at(site)
                self._note_replaced(site)
            else:
                self._follow(site, routine)
            value = site.value
        if self._collector is not None and event.op is None:
            self._collector.take(event, value, self._rows)
            if self._collector.complete and self._last:
                self.interpreter.wanted.difference_update(plan.caches)
                self._rest()
        if self._pausable:
            self._progress.leave(event)
        return site

    def _follow(self, site: OpenSite | OpenSkip, routine: Sequence[int]) -> None:
        """Do what is due at a site where that is known ahead."""
        interpreter = self.interpreter
        interpreter.follow(site, routine)
        if not interpreter.wanted:
            self._rest()
        interpreter.taps.pop()
        if site.changed:
            self._note_replaced(site)

    def _note_replaced(self, site: OpenSite | OpenSkip) -> None:
        for node, before, after in site.changed:
            if self._replaced is None:
                self._replaced = Replaced()
            self._replaced.note(node, before, after)

    def _grown(self, branching: Branching, event: Event, value: Any) -> Any:
        """What passes at a moment at which the batch grows, or may have grown since the model made it."""
        branch, before = branching.at.get(event), self._rows
        if branch is not None:
            self._branch, self._rows = branch, branch.rows
        if self._branch is None:
            return value
        return grow(value, self._axes(), before, self._branch, branching.first.total, event)

    def _refuse_second_run(self, path: str) -> None:
        assert self._plan is not None
        refuse_second_run(self._plan, path)

    def _keep_weight(self, events: Iterable[Event], tensor: torch.Tensor) -> None:
        """What a block makes of an operation that the model does in place goes into a tensor; not into a weight."""
        if self.own.memory.is_in(tensor):
            plan = self._plan
            assert plan is not None
            nodes = [plan.graph[node] for event in events for node in plan.gates.get(event, ())]
            self.own.memory.refuse(next((node for node in nodes if node.kind == "write"), nodes[0]), [tensor])

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
            self.own.pause()
            try:
                self._paused.pause()
            finally:
                self.own.resume()
            assert self._plan is not None  # the longer plan with which the pass was resumed
            self._take_up(self._plan)
