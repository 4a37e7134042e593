"""Attach to the sites of a plan for the length of one pass: hooks for modules, a watch for operations."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import ExitStack, contextmanager
from functools import cached_property
from sys import _getframe
from threading import get_ident
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from loupe.graph.node import RESULT, Event, Phase
from loupe.runtime.open_sites import OpenSite, OpenSkip
from loupe.runtime.operation_taps import OperationTaps
from loupe.runtime.ops_tap import OperationWatch, put_forward
from loupe.runtime.plain import named_parts

_MODULE: Any = nn.modules.module
_CALL = nn.Module._call_impl.__code__
_CALLERS = (_CALL, *(each for each in _CALL.co_consts if type(each) is type(_CALL)), nn.Module._slow_forward.__code__)

_NOTHING: Mapping[str, nn.Module] = MappingProxyType({})
_current_backward = torch._C._current_graph_task_id

Visit = Callable[[Event, Any], OpenSite | OpenSkip | None]


def _unseen(path: str) -> None:
    """Let a second run of a module pass."""


def never(path: str, phase: Phase) -> int:
    """Taps are there from the start, so that nothing has passed before them."""
    return 0


class _Wrapped:
    """A module whose forward is wrapped: the paths at which it is tapped, by moment, each with a count of its calls."""

    __slots__ = ("begins", "ends", "skips")

    def __init__(self) -> None:
        self.begins: list[str] = []
        self.skips: list[str] = []
        self.ends: dict[str, int] = {}


def _has_hooks(own: dict[str, Any]) -> bool:
    """Whether torch calls a module with these attributes by way of its hooks."""
    return bool(
        own["_forward_hooks"] or own["_forward_pre_hooks"] or own["_backward_hooks"] or own["_backward_pre_hooks"]
    )


def _all_have_hooks() -> bool:
    """Whether torch calls every module by way of hooks."""
    return bool(
        _MODULE._global_forward_hooks
        or _MODULE._global_forward_pre_hooks
        or _MODULE._global_backward_hooks
        or _MODULE._global_backward_pre_hooks
    )


def _any(events: Iterable[Event], tensor: torch.Tensor) -> None:
    """Let an operation be changed that the model does in place."""


class Taps:
    """The taps of one pass. `visit` is called at each named moment with what passes, and gives the open site back.

    A module that has no hooks of anybody's is tapped by wrapping its forward, which leaves torch its short way of
    calling it; one that has is tapped by hooks too, which come after those that are there.

    A checkpointed module runs a second time, in a backward pass. Those calls are none of the pass: `second_run` is told
    the module's path, and no site opens. `keep` is told the tensor that the model changes in place, where the block
    has made something else of it at one of the events. `passed` tells how often a moment has passed before its tap is
    put.
    """

    def __init__(
        self,
        modules: Callable[[str], nn.Module],
        visit: Visit,
        second_run: Callable[[str], None] = _unseen,
        keep: Callable[[Iterable[Event], torch.Tensor], None] = _any,
        passed: Callable[[str, Phase], int] = never,
    ) -> None:
        self._modules = modules
        self._visit = visit
        self._second_run = second_run
        self._passed = passed
        self._backward: int | None = None
        self._keep = keep
        self._undo: list[Callable[[], None]] = []
        self._silent = 0
        self._thread = get_ident()
        self._started: dict[str, int] = {}
        self._tapped: set[tuple[str, Phase]] = set()
        self._wrapped: dict[int, _Wrapped] = {}
        self._watches: list[OperationWatch] = []
        self._all_hooked = False

    @cached_property
    def _operations(self) -> OperationTaps:
        return OperationTaps(self._modules, self._shown, self._times_begun, self._is_silent, self._keep, self._watches)

    def attach(
        self, events: Iterable[Event], stand_ins: Mapping[Event, Event], found: Mapping[str, nn.Module] = _NOTHING
    ) -> None:
        """Put taps where the events are and none is yet; a stand-in is tapped beside what it may stand for.

        `found` are modules that have been looked up already, by path.
        """
        self._begin()
        if stand_ins:
            self._operations.stand_in((other, event) for event, other in stand_ins.items())
            events = (*events, *stand_ins.values())
        for event in events:
            path, phase = event.path, event.phase
            if phase == "grad" or path == RESULT:
                continue
            if event.op is not None:
                self._attach_inside(event)
            elif (path, phase) not in self._tapped:
                self._tap(found[path] if path in found else self._modules(path), path, phase)

    def attach_everywhere(self, root: nn.Module, prefix: str, *, skippable: bool = False) -> None:
        """Put taps before and after every module: for a pass that stands still while the block may name any of them."""
        phases: tuple[Phase, ...] = ("in", "skip", "out") if skippable else ("in", "out")
        self._begin()
        for name, module in named_parts(root):
            path = f"{prefix}.{name}" if prefix and name else prefix or name
            for phase in phases:
                if (path, phase) not in self._tapped:
                    self._tap(module, path, phase)

    def is_watched(self, event: Event) -> bool:
        """Whether an operation is tapped."""
        return self._operations.is_watched(event)

    def _attach_inside(self, event: Event) -> None:
        watch = self._operations.attach(event)
        if watch is None:
            return
        watch.__enter__()

        def end() -> None:
            watch.__exit__(None, None, None)

        self._undo.append(end)

    def _times_begun(self, path: str) -> int:
        return self._started[path] if path in self._started else self._passed(path, "in")

    def detach(self) -> None:
        """Take everything off again, the last first."""
        while self._undo:
            self._undo.pop()()

    @contextmanager
    def silence(self) -> Generator[None]:
        """Let calls of modules pass unseen: those that nodes of the block make."""
        self._silent += 1
        try:
            yield
        finally:
            self._silent -= 1

    @contextmanager
    def first_run(self) -> Generator[None]:
        """Let calls that the block makes at a gradient be seen: they are no second run of anything."""
        outer, self._backward = self._backward, _current_backward()
        try:
            yield
        finally:
            self._backward = outer

    def _begin(self) -> None:
        self._thread = get_ident()
        self._all_hooked = _all_have_hooks()
        if self._backward is None:
            self._backward = _current_backward()

    def _is_silent(self, path: str) -> bool:
        """Whether a call is none of the pass.

        So it is where a node makes it, where another thread does while the pass stands still, and in a second run.
        """
        if self._silent:
            return True
        if _current_backward() != self._backward:
            self._second_run(path)
            return True
        return get_ident() != self._thread

    def _stop_at(self, event: Event, value: Any) -> OpenSite | OpenSkip | None:
        """Visit a moment with the watches paused: what the block does there is no operation of the module."""
        if not self._watches:
            return self._visit(event, value)
        with ExitStack() as stack:
            for watch in self._watches:
                stack.enter_context(watch.paused())
            return self._visit(event, value)

    def _tap(self, module: nn.Module, path: str, phase: Phase) -> None:
        """Put the tap of one moment on a module."""
        self._tapped.add((path, phase))
        if phase == "skip" and (path, "in") not in self._tapped:
            self._tap(module, path, "in")  # it counts the calls
        if phase == "in":
            self._started[path] = self._passed(path, "in")
        own = module.__dict__
        if phase != "skip" and (self._all_hooked or _has_hooks(own)):
            self._hook(module, path, phase)
            return
        wrapped = self._wrapped.get(id(module))
        if wrapped is None:
            wrapped = self._wrapped[id(module)] = _Wrapped()
            forward = module.forward
            self._undo.append(put_forward(own, forward, self._passing(own, wrapped, forward)))
        if phase == "skip":
            wrapped.skips.append(path)
        elif phase == "in":
            wrapped.begins.append(path)
        else:
            wrapped.ends[path] = self._passed(path, "out")

    def _hook(self, module: nn.Module, path: str, phase: Phase) -> None:
        finished = [self._passed(path, "out")]

        def before(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            site = self._begins(path, args, kwargs)
            return site.value if site is not None and (site.changed or site.replaced) else None

        def after(_module: nn.Module, _args: Any, output: Any) -> Any:
            if self._is_silent(path):
                return None
            call, finished[0] = finished[0], finished[0] + 1
            site = self._stop_at(Event(path, "out", call), output)
            return site.value if site is not None and (site.changed or site.replaced) else None

        if phase == "in":
            self._undo.append(module.register_forward_pre_hook(before, with_kwargs=True).remove)
            if (path, "skip") not in self._tapped and self._passed is not never:
                self._tap(module, path, "skip")  # where the pass stands still at its hooks, that would be too late
        else:
            self._undo.append(module.register_forward_hook(after).remove)

    def _passing(self, own: dict[str, Any], wrapped: _Wrapped, forward: Callable[..., Any]) -> Callable[..., Any]:
        """A forward that is tapped. Where code calls it, and not the module, that is no call of the module."""
        begins, skips, ends = wrapped.begins, wrapped.skips, wrapped.ends

        def passing(*args: Any, **kwargs: Any) -> Any:
            caller = _getframe(1).f_code
            if caller is not _CALL and caller not in _CALLERS and own.get("forward") is passing:
                return forward(*args, **kwargs)
            for path in begins:
                site = self._begins(path, args, kwargs)
                if site is not None and (site.changed or site.replaced):
                    args, kwargs = site.value
            output = self._skipping(skips, forward, args, kwargs) if skips else forward(*args, **kwargs)
            for path, call in ends.items():
                # what `_is_silent` asks, without a call where it says no
                odd = self._silent or _current_backward() != self._backward or get_ident() != self._thread
                if odd and self._is_silent(path):
                    continue
                ends[path] = call + 1
                event = Event(path, "out", call)
                site = self._stop_at(event, output) if self._watches else self._visit(event, output)
                if site is not None and (site.changed or site.replaced):
                    output = site.value
            return output

        return passing

    def _begins(self, path: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> OpenSite | OpenSkip | None:
        if self._is_silent(path):
            return None
        call = self._started[path]
        self._started[path] = call + 1
        return self._stop_at(Event(path, "in", call), (args, kwargs))

    def _skipping(
        self, paths: list[str], forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if not paths or self._is_silent(paths[-1]):
            return forward(*args, **kwargs)
        path, others = paths[-1], paths[:-1]
        site = self._stop_at(Event(path, "skip", self._started.get(path, 0) - 1), None)
        if type(site) is not OpenSkip or not site.changed:
            return self._skipping(others, forward, args, kwargs)
        return site.output(lambda: self._skipping(others, forward, args, kwargs))

    def _shown(self, event: Event, value: Any) -> Any:
        """Visit a moment; gives what the model goes on with."""
        site = self._visit(event, value)
        return site.value if site is not None and (site.changed or site.replaced) else value
