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
from loupe.runtime.tensors import share_memory


class OpenSite:
    """A site while the model stands there: reads are narrowed to an invoke's rows, writes are put among the others'."""

    __slots__ = ("_axes", "_parts", "_rows", "changed", "event", "replaced", "value")

    def __init__(
        self, event: Event, value: Any, rows: Rows, axes: Callable[[], Axes], *, replaced: bool = False
    ) -> None:
        self.event = event
        self.value = value
        self.replaced = replaced  # whether the value is another than the one that passed, without a write
        self.changed: list[tuple[Node, Any, Any]] = []
        self._rows = rows
        self._axes = axes
        self._parts: tuple[Any, Parts] | None = None

    def read(self, node: Node) -> Any:
        """What passes at the node's port: the output, the first input, or `(args, kwargs)`."""
        value = self.value
        if node.invoke is not None and not self._rows.covers_all(node.invoke):
            try:
                axes = self._axes().of(self.event)
                if self._parts is None or self._parts[0] is not value:  # many prompts read one value
                    self._parts = (value, parts_of(value))
                value = narrow(value, axes, self._rows, node.invoke, self.event, self._parts[1])
                self._remember_rows(value, axes, node.invoke)
            except RowsError as error:
                raise RowsError(error.fact, remedy=error.remedy, line=node.line) from None
        return first_input(value) if node.target.port == "input" else value

    def shares(self, node: Node, storages: set[int]) -> bool:
        """Whether one of these storages is a tensor that all prompts have in common, where the node is about one."""
        if self._rows.covers_all(node.invoke):
            return False
        leaves = zip(tree_leaves(self.value), self._axes().of(self.event), strict=True)
        return any(axis == SHARED and share_memory(leaf, storages) for leaf, axis in leaves)

    def _remember_rows(self, part: Any, axes: tuple[int, ...], invoke: int) -> None:
        """The model goes on with the whole tensor, so that is where the gradient of these rows arrives."""
        if not torch.is_grad_enabled():
            return
        start, size = self._rows.slices[invoke]
        for whole, leaf, axis in zip(tree_leaves(self.value), tree_leaves(part), axes, strict=True):
            if isinstance(leaf, torch.Tensor) and leaf is not whole:
                each = whole.shape[axis] // self._rows.total
                remember_whole(leaf, Slice(whole, axis, start * each, size * each))

    def write(self, node: Node, value: Any) -> None:
        """Let the model go on with another value at the node's port."""
        before = self.value
        new = beside(before, self._with_first(before, value) if node.site.port == "input" else value)
        if not self._rows.covers_all(node.invoke):
            assert node.invoke is not None
            try:
                axes = self._axes().of(self.event)
                if node.site.port == "input":
                    part = narrow(before, axes, self._rows, node.invoke, self.event)
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
        self.value = new
        self.changed.append((node, before, new))

    @staticmethod
    def _with_first(inputs: Any, value: Any) -> Any:
        args, kwargs = inputs
        if args or not kwargs:
            return (value, *args[1:]), kwargs
        first = next(iter(kwargs))
        return args, {**kwargs, first: value}


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
