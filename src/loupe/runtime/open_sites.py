"""Stand at a site of the model: narrow what is read there to a prompt's rows, put what is written among the others'."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils._pytree import tree_leaves

from loupe.errors import RowsError, WriteError
from loupe.graph.node import Event, Node
from loupe.ops.gradients import Slice, remember_whole
from loupe.ops.views import first_input
from loupe.runtime.batching import SHARED, Axes, Parts, Rows, join_rows, narrow, parts_of, widen
from loupe.runtime.devices import beside
from loupe.runtime.tensors import share_memory, tensors_in, version_of

_NOBODY: frozenset[int] = frozenset()


class OpenSite:
    """A site while the model stands there: reads are narrowed to an invoke's rows, writes are put among the others'.

    Where one prompt has replaced its rows, the others still see the model's own tensor, which may be in use elsewhere.
    """

    __slots__ = ("_axes", "_own", "_parts", "_passed", "_rows", "_value", "changed", "event", "replaced")

    def __init__(
        self, event: Event, value: Any, rows: Rows, axes: Callable[[], Axes], *, replaced: bool = False
    ) -> None:
        self.event = event
        self._value = value
        self._passed: tuple[Any, list[int]] | None = None  # what passed, as it was when a prompt replaced its rows
        self._own: frozenset[int] = _NOBODY  # the invokes that have replaced theirs
        self.replaced = replaced  # whether the value is another than the one that passed, without a write
        self.changed: list[tuple[Node, Any, Any]] = []
        self._rows = rows
        self._axes = axes
        self._parts: tuple[Any, Parts] | None = None

    @property
    def value(self) -> Any:
        """What the model goes on with."""
        if self._passed is not None:
            passed, before = self._passed
            now = _versions(passed)
            if now != before or -1 in now:
                self._passed = passed, now
                axes = self._axes().of(self.event)
                for invoke in set(range(len(self._rows.slices))) - self._own:
                    part = narrow(passed, axes, self._rows, invoke, self.event)
                    self._value = widen(self._value, part, axes, self._rows, invoke, self.event)
        return self._value

    def _seen_by(self, invoke: int) -> Any:
        return self._value if self._passed is None or invoke in self._own else self._passed[0]

    def read(self, node: Node) -> Any:
        """What passes at the node's port: the output, the first input, or `(args, kwargs)`."""
        if node.invoke is None or self._rows.covers_all(node.invoke):
            value = self.value
        else:
            whole = value = self._seen_by(node.invoke)
            try:
                axes = self._axes().of(self.event)
                if self._parts is None or self._parts[0] is not value:  # many prompts read one value
                    self._parts = (value, parts_of(value))
                value = narrow(value, axes, self._rows, node.invoke, self.event, self._parts[1])
                self._remember_rows(whole, value, axes, node.invoke)
            except RowsError as error:
                raise RowsError(error.fact, remedy=error.remedy, line=node.line) from None
        return first_input(value) if node.target.port == "input" else value

    def shares(self, node: Node, storages: set[int]) -> bool:
        """Whether one of these storages is a tensor that all prompts have in common, where the node is about one."""
        if node.invoke is None or self._rows.covers_all(node.invoke):
            return False
        leaves = zip(tree_leaves(self._seen_by(node.invoke)), self._axes().of(self.event), strict=True)
        return any(axis == SHARED and share_memory(leaf, storages) for leaf, axis in leaves)

    def _remember_rows(self, value: Any, part: Any, axes: tuple[int, ...], invoke: int) -> None:
        """The model goes on with the whole tensor, so that is where the gradient of these rows arrives."""
        if not torch.is_grad_enabled():
            return
        start, size = self._rows.slices[invoke]
        for whole, leaf, axis in zip(tree_leaves(value), tree_leaves(part), axes, strict=True):
            if isinstance(leaf, torch.Tensor) and leaf is not whole:
                each = whole.shape[axis] // self._rows.total
                remember_whole(leaf, Slice(whole, axis, start * each, size * each))

    def write(self, node: Node, value: Any) -> None:
        """Let the model go on with another value at the node's port."""
        apart = node.invoke is not None and not self._rows.covers_all(node.invoke)
        before = self._value if apart else self.value
        new = beside(before, self._with_first(before, value) if node.site.port == "input" else value)
        if apart:
            assert node.invoke is not None
            try:
                axes = self._axes().of(self.event)
                if node.site.port == "input":
                    part = narrow(self._seen_by(node.invoke), axes, self._rows, node.invoke, self.event)
                    new = self._with_first(part, value)
                new = widen(before, new, axes, self._rows, node.invoke, self.event)
            except RowsError as error:
                raise RowsError(error.fact, remedy=error.remedy, line=node.line) from None
        if node.site.port == "output" and node.site.path and _is_unpacked(before) and isinstance(new, torch.Tensor):
            raise WriteError(
                f"{node.site} is a {type(before).__name__}, and is replaced by a tensor, which the model would unpack",
                remedy=f"write a {type(before).__name__}, or one item of it: module.output[0] = …",
                line=node.line,
            )
        if node.invoke is None or not apart:
            self._passed, self._own = None, _NOBODY
        else:
            self._passed = self._passed or (before, _versions(before))
            self._own |= {node.invoke}
        self._value = new
        self.changed.append((node, before, new))

    @staticmethod
    def _with_first(inputs: Any, value: Any) -> Any:
        args, kwargs = inputs
        if args or not kwargs:
            return (value, *args[1:]), kwargs
        first = next(iter(kwargs))
        return args, {**kwargs, first: value}


def _versions(value: Any) -> list[int]:
    return [version_of(tensor) for tensor in tensors_in(value)]


def _is_unpacked(value: Any) -> bool:
    return isinstance(value, (tuple, list)) and len(value) > 0


class OpenSkip:
    """A module that is about to do its work: what is written here is its output instead."""

    __slots__ = ("_axes", "_rows", "changed", "event", "value")
    replaced = False

    def __init__(self, event: Event, rows: Rows, axes: Callable[[], Axes]) -> None:
        self.event = event
        self.value: Any = None
        self.changed: list[tuple[Node, Any, Any]] = []
        self._rows = rows
        self._axes = axes

    def read(self, node: Node) -> Any:
        """Nothing passes here."""
        raise AssertionError(f"%{node.id} reads {node.site}")

    def write(self, node: Node, value: Any) -> None:
        """Spare the module its work on the rows of a node."""
        self.changed.append((node, None, value))

    def shares(self, node: Node, storages: set[int]) -> bool:
        """Nothing passes here."""
        return False

    def output(self, run: Callable[[], Any]) -> Any:
        """The module's output; `run` does its work, where some rows are not spared it."""
        whole = [place for place, (node, _, _) in enumerate(self.changed) if self._rows.covers_all(node.invoke)]
        if whole:
            output, rest = self.changed[whole[-1]][2], self.changed[whole[-1] + 1 :]
        else:
            by_invoke = {node.invoke: value for node, _, value in self.changed}
            axes = self._axes().of(self.event._replace(phase="out"))
            if len(by_invoke) == len(self._rows.slices):
                return join_rows([by_invoke[invoke] for invoke in range(len(by_invoke))], axes, self.event)
            output, rest = run(), self.changed
        for node, _, value in rest:
            event = self.event._replace(phase="out")
            assert node.invoke is not None
            try:
                output = widen(output, value, self._axes().of(event), self._rows, node.invoke, event)
            except RowsError as error:
                raise RowsError(error.fact, remedy=error.remedy, line=node.line) from None
        return output
