"""Run one pass of a model with a plan attached: from the call, through its taps, to where nothing is left to do."""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import nn

from loupe.errors import LoupeError, WriteError
from loupe.graph.node import RESULT, Event, Node, constants_in, is_within
from loupe.runtime.aliasing import Tap
from loupe.runtime.batching import Rows
from loupe.runtime.host import Batch, Host
from loupe.runtime.interpreter import Interpreter, Surroundings
from loupe.runtime.plan import Plan
from loupe.runtime.taps import Axes, OpenSite, Taps
from loupe.runtime.tensors import share_memory, storages_of, summary, tensors_in
from loupe.runtime.worker import PausedCall


class StopPass(BaseException):
    """Ends a pass in which nothing is left to do; no model code catches it."""


class Pass:
    """One pass of a host with a plan.

    A pausable one goes on in a worker thread, stands still once its plan is satisfied, and can be given a longer plan.
    The other kind stays in the caller's thread and stops the model there.
    """

    def __init__(
        self,
        host: Host,
        modules: Callable[[str], nn.Module],
        batch: Batch,
        axes: Axes,
        attached: Collection[str] = (),
        *,
        pausable: bool,
    ) -> None:
        self.ended = False
        self.stopped_early = False
        self._host = host
        self._modules = modules
        self._batch = batch
        self._rows = Rows(batch.rows, batch.total)
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
        self._taps = Taps(modules, self._visit)
        self.interpreter = Interpreter(
            Surroundings(modules, self._parameter, self._calling, self._stand_at), keep_values=pausable
        )

    # -- from the block's side -----------------------------------------------------------------------------------------

    def run(self, plan: Plan, *, last: bool) -> None:
        """Go on until nothing of the plan is wanted any more, or until the model has returned.

        `last` says that no longer plan will come: the model is stopped rather than paused.
        """
        self._plan = plan
        self._last = last
        if self.ended:
            self.interpreter.load(plan)
            self.interpreter.drain()
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

    def can_take(self, plan: Plan) -> bool:
        """Whether a longer plan can be met from here, or names something that has already passed."""
        if not self._with_grad and needs_grad(plan):
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
        return [read for read in plan.changed_sites(node_id) if read in values and share_memory(values[read], storages)]

    def _has_passed(self, event: Event) -> bool:
        if any(site.event == event for site in self._open):
            return False
        if self.ended:
            return True
        if event.phase == "grad":
            backwards = self._plan.graph.backwards if self._plan is not None else []
            return event.call < len(backwards) and backwards[event.call] in self.interpreter.done
        if event.op is not None and self._plan is not None and event not in self._plan.gates:
            return self._reached.get((event.path, "in"), -1) >= event.call  # its watch had to be there from the start
        key = (event.path, event.phase) if event.op is None else (str(event), event.phase)
        return self._reached.get(key, -1) >= event.call

    # -- inside the pass -----------------------------------------------------------------------------------------------

    def _whole(self) -> None:
        plan = self._plan
        assert plan is not None
        host = self._host
        try:
            with host.settings(plan.graph, host.module), self._grad_mode(plan):
                stand_ins = {s.event: other.event for s in plan.graph.sites if (other := host.stand_in(s)) is not None}
                if self._pausable:
                    self._taps.attach_everywhere(host.module, host.prefix)
                self._taps.attach(set(plan.gates), stand_ins, hooked=self._pausable)
                self.interpreter.load(plan)
                self.interpreter.drain()
                self._rest()
                self._call_host()
        except StopPass:
            self.stopped_early = True
        finally:
            self._taps.detach()
            self._open.clear()
            self.ended = True

    def _call_host(self) -> None:
        try:
            result = self._host.call(self._batch)
        except LoupeError:
            raise
        except Exception as error:
            if not self._written:
                raise
            raise _cannot_go_on(self._written, error) from error
        self._visit(Event(RESULT, "out", 0), result)

    def _visit(self, event: Event, value: Any) -> OpenSite | None:
        """What a tap does: stop here if the plan names this moment, do what is due, and give the changed value back."""
        plan = self._plan
        assert plan is not None
        if self._paused is not None:
            self._paused.check()
        site: OpenSite | None = None
        if event in plan.gates:
            site = OpenSite(event, value, self._rows, self._axes)
            self._stand_at(site)
            for node, before, after in site.changed:
                self._note_change(node, before, after)
        if self._pausable:
            self._reached[(event.path, event.phase) if event.op is None else (str(event), event.phase)] = event.call
        return site

    def _stand_at(self, site: Tap) -> None:
        """Open a site, do what is due there, stand still where the block asks for it, and close it."""
        self._open.append(site)
        try:
            self.interpreter.open(site)
            self._rest()
            self.interpreter.close(site)
        finally:
            self._open.remove(site)

    def _rest(self) -> None:
        """Where nothing is wanted any more: stop the model, or stand still for a block that is still being written."""
        while True:
            plan = self._plan
            assert plan is not None
            if not plan.wanted or self.interpreter.wanted:
                return
            if self._last:
                raise StopPass
            assert self._paused is not None
            self._paused.pause()
            assert self._plan is not None  # the longer plan with which the pass was resumed
            self.interpreter.load(self._plan)
            self.interpreter.drain()

    def _note_change(self, node: Node, before: Any, after: Any) -> None:
        """Remember a write for the error that it may lead to: as text, so that no tensor is kept for it."""
        old = [(tensor.shape, tensor.dtype) for tensor in tensors_in(before)]
        kept = old == [(tensor.shape, tensor.dtype) for tensor in tensors_in(after)]
        self._written.append((node, "" if kept else f" by {summary(after)} where it was {summary(before)}"))

    def _grad_mode(self, plan: Plan) -> AbstractContextManager[Any]:
        """Autograd runs only where a gradient is asked for."""
        self._with_grad = needs_grad(plan)
        return torch.enable_grad() if self._with_grad else torch.no_grad()

    def _parameter(self, path: str) -> Any:
        owner, _, name = path.rpartition(".")
        value = getattr(self._modules(owner), name)
        return value if self._with_grad else value.detach()

    @contextmanager
    def _calling(self, node: Node) -> Generator[None]:
        """A call that the block makes has no sites, unless the module is attached: then all rows there are its own."""
        if not is_within(node.target, self._attached):
            with self._taps.silence():
                yield
            return
        outer = self._rows
        if node.invoke is not None:
            slices = tuple((0, int(invoke == node.invoke)) for invoke in range(len(outer.slices)))
            self._rows = Rows(slices, 1)
        try:
            yield
        finally:
            self._rows = outer


def _cannot_go_on(written: list[tuple[Node, str]], error: Exception) -> WriteError:
    """The model failed after sites were replaced: name them, those with another shape or dtype first."""
    reshaped = any(change for _, change in written)
    shown = []
    for node, change in sorted(written, key=lambda each: not each[1])[:3]:
        shown.append(f"{node.site} was replaced{change}" + (f" (at {node.line})" if node.line else ""))
    return WriteError(
        f"the model could not go on after {'; '.join(shown)}: {type(error).__name__}: {error}",
        remedy="write a value of the shape and dtype that is read there"
        if reshaped
        else "write values that the model can use there; without the write it fails as it always does",
        line=written[0][0].line if len(written) == 1 else None,
    )


def needs_grad(plan: Plan) -> bool:
    """Whether a gradient could be asked for: by a backward pass, or after the block by a tensor that requires one."""
    graph = plan.graph
    if graph.backwards:
        return True
    if (
        not graph.constants
        or not torch.is_grad_enabled()
        or not any(isinstance(value, torch.Tensor) and value.requires_grad for value in graph.constants)
    ):
        return False
    used = {const.index for node in graph if node.id in plan.live for const in constants_in(node)}
    return any(isinstance(graph.constants[i], torch.Tensor) and graph.constants[i].requires_grad for i in used)
