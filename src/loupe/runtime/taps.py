"""Attach to the sites of a plan for the length of one pass: hooks for modules, a watch for operations."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from typing import Any, Protocol

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from loupe.errors import RowsError
from loupe.graph.node import RESULT, Event, Node
from loupe.ops.views import first_input
from loupe.runtime.batching import SHARED, Rows, narrow, widen
from loupe.runtime.gradients import Slice
from loupe.runtime.ops_tap import OnOperation, OperationWatch, watching
from loupe.runtime.tensors import share_memory


class Axes(Protocol):
    """Knows which axis of each leaf of a site's value is the batch."""

    def of(self, event: Event) -> tuple[int, ...]:
        """The axes of the value that passes at an event: an output, or `(args, kwargs)`."""
        ...


class OpenSite:
    """A site while the model stands there: reads are narrowed to an invoke's rows, writes are put among the others'."""

    __slots__ = ("_axes", "_rows", "changed", "event", "value")

    def __init__(self, event: Event, value: Any, rows: Rows, axes: Axes) -> None:
        self.event = event
        self.value = value
        self.changed: list[tuple[Node, Any, Any]] = []
        self._rows = rows
        self._axes = axes

    def read(self, node: Node) -> Any:
        """What passes at the node's port: the output, the first input, or `(args, kwargs)`."""
        value = self.value
        if not self._rows.covers_all(node.invoke):
            assert node.invoke is not None
            try:
                axes = self._axes.of(self.event)
                value = narrow(value, axes, self._rows, node.invoke, self.event)
                self._remember_rows(value, axes, node.invoke)
            except RowsError as error:
                raise RowsError(error.fact, remedy=error.remedy, line=node.line) from None
        return first_input(value) if node.site.port == "input" else value

    def shares(self, node: Node, storages: set[int]) -> bool:
        """Whether one of these storages is a tensor that all prompts have in common, where the node is about one."""
        if self._rows.covers_all(node.invoke):
            return False
        leaves = zip(tree_leaves(self.value), self._axes.of(self.event), strict=True)
        return any(axis == SHARED and share_memory(leaf, storages) for leaf, axis in leaves)

    def _remember_rows(self, part: Any, axes: tuple[int, ...], invoke: int) -> None:
        """The model goes on with the whole tensor, so that is where the gradient of these rows arrives."""
        start, size = self._rows.slices[invoke]
        for whole, leaf, axis in zip(tree_leaves(self.value), tree_leaves(part), axes, strict=True):
            if isinstance(leaf, torch.Tensor) and leaf is not whole and leaf.requires_grad:
                each = whole.shape[axis] // self._rows.total
                leaf.__dict__["_loupe_rows"] = Slice(whole, axis, start * each, size * each)

    def write(self, node: Node, value: Any) -> None:
        """Let the model go on with another value at the node's port."""
        before = self.value
        new = self._with_first(before, value) if node.site.port == "input" else value
        if not self._rows.covers_all(node.invoke):
            assert node.invoke is not None
            try:
                axes = self._axes.of(self.event)
                if node.site.port == "input":
                    part = narrow(before, axes, self._rows, node.invoke, self.event)
                    new = self._with_first(part, value)
                new = widen(before, new, axes, self._rows, node.invoke, self.event)
            except RowsError as error:
                raise RowsError(error.fact, remedy=error.remedy, line=node.line) from None
        self.value = new
        self.changed.append((node, before, new))

    @staticmethod
    def _with_first(inputs: Any, value: Any) -> Any:
        args, kwargs = inputs
        if args or not kwargs:
            return (value, *args[1:]), kwargs
        first = next(iter(kwargs))
        return args, {**kwargs, first: value}


Visit = Callable[[Event, Any], OpenSite | None]


class Taps:
    """The hooks of one pass. `visit` is called at each named moment with what passes, and gives the open site back."""

    def __init__(self, modules: Callable[[str], nn.Module], visit: Visit) -> None:
        self._modules = modules
        self._visit = visit
        self._stack = ExitStack()
        self._calls: dict[str, int] = {}
        self._silent = 0
        self._thread = threading.get_ident()
        self._watches: list[OperationWatch] = []

    def attach(self, events: set[Event], stand_ins: dict[Event, Event], *, hooked: bool = False) -> None:
        """Put taps where the events are; a stand-in is tapped beside the event that it may stand for.

        `hooked` says that every module has its hooks already.
        """
        self._thread = threading.get_ident()
        phases: dict[str, set[str]] = {}
        watched: dict[str, set[Event]] = {}
        for event in (*events, *stand_ins.values()):
            if event.phase == "grad" or event.path == RESULT:
                continue
            if event.op is not None:
                watched.setdefault(event.path, set()).add(event)
            elif not hooked:
                phases.setdefault(event.path, set()).add(event.phase)
        aliases = {other: event for event, other in stand_ins.items()}
        for path, wanted in phases.items():
            self._hook(self._modules(path), path, wanted)
        for path, ops in watched.items():

            def begin(path: str = path, wanted: set[Event] = ops) -> OnOperation | None:
                return self._begin_watch(path, wanted, aliases)

            self._stack.enter_context(watching(self._modules(path), begin, self._watches))

    def attach_everywhere(self, root: nn.Module, prefix: str) -> None:
        """Put taps before and after every module: for a pass that stands still while the block may name any of them."""
        for name, module in root.named_modules():
            self._hook(module, ".".join(part for part in (prefix, name) if part), {"in", "out"})

    def detach(self) -> None:
        """Take everything off again."""
        self._stack.close()

    @contextmanager
    def silence(self) -> Generator[None]:
        """Let calls of modules pass unseen: those that nodes of the block make."""
        self._silent += 1
        try:
            yield
        finally:
            self._silent -= 1

    def _is_silent(self) -> bool:
        """Whether a call is none of the pass: one of a node, or one from another thread while the pass stands still."""
        return self._silent > 0 or threading.get_ident() != self._thread

    def _stop_at(self, event: Event, value: Any) -> OpenSite | None:
        """Visit a moment with the watches paused: what the block does there is no operation of the module."""
        if not self._watches:
            return self._visit(event, value)
        with ExitStack() as stack:
            for watch in self._watches:
                stack.enter_context(watch.paused())
            return self._visit(event, value)

    def _hook(self, module: nn.Module, path: str, phases: set[str]) -> None:
        finished = [0]
        started = [0]

        def before(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            if self._is_silent():
                return None
            call, started[0] = started[0], started[0] + 1
            site = self._stop_at(Event(path, "in", call), (args, kwargs))
            return site.value if site is not None and site.changed else None

        def after(_module: nn.Module, _args: Any, output: Any) -> Any:
            if self._is_silent():
                return None
            call, finished[0] = finished[0], finished[0] + 1
            site = self._stop_at(Event(path, "out", call), output)
            return site.value if site is not None and site.changed else None

        if "in" in phases:
            self._stack.callback(module.register_forward_pre_hook(before, with_kwargs=True).remove)
        if "out" in phases:
            self._stack.callback(module.register_forward_hook(after).remove)

    def _begin_watch(self, path: str, wanted: set[Event], aliases: dict[Event, Event]) -> OnOperation | None:
        if self._is_silent():
            return None
        call = self._calls.get(path, 0)
        self._calls[path] = call + 1
        if not any(event.call == call for event in wanted):
            return None

        def act(name: str, index: int, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
            before = Event(path, "in", call, name, index)
            if before in wanted:
                site = self._visit(aliases.get(before, before), (args, kwargs))
                if site is not None and site.changed:
                    args, kwargs = site.value
            output = function(*args, **kwargs)
            after = Event(path, "out", call, name, index)
            if after in wanted:
                site = self._visit(aliases.get(after, after), output)
                if site is not None and site.changed:
                    output = site.value
            return output

        return act
