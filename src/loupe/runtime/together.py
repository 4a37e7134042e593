"""Run the graphs of several blocks as one batch, in which rows with equal inputs are one row until they differ."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from loupe.errors import RowsError
from loupe.graph.graph import Graph
from loupe.graph.merge import Merged, Part, merge
from loupe.graph.node import RESULT, Event
from loupe.graph.structure import memory_of
from loupe.runtime.batching import Along
from loupe.runtime.branching import START, Branching, Cuts, first_change, plan_branching
from loupe.runtime.budget import note_failure, rows_that_fit, surely_fit
from loupe.runtime.forward import Pass
from loupe.runtime.host import Batch, Host, Input
from loupe.runtime.meta import Scan, Scanner
from loupe.runtime.plan import Plan
from loupe.runtime.rows import SiteAxes, rows_are_apart
from loupe.runtime.tensors import tensors_in

Results = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Joining:
    """A block that is to run with others: its graph without steps, its inputs, and how many rows these have."""

    graph: Graph
    inputs: tuple[Input, ...]
    rows: int


class Together:
    """Runs blocks on one model as one batch; all have the same kind of run, and inputs of one form.

    `scan` runs the model without data for a graph. Nothing is kept but what the scanner remembers.
    """

    def __init__(
        self,
        host: Host,
        modules: Callable[[str], nn.Module],
        scanner: Scanner,
        scan: Callable[[Batch, tuple[str, ...], Graph], Scan],
        attached: Collection[str],
        given: Callable[[str], Any],
        changing: Collection[str],
    ) -> None:
        self._host = host
        self._modules = modules
        self._scanner = scanner
        self._scan = scan
        self._attached = attached
        self._given = given
        self._changing = changing

    def run(self, blocks: Sequence[Joining]) -> list[Results]:
        """What each block saves, by name.

        Raises LoupeError, or what the model raises, where the blocks cannot be run together: nothing of the user's has
        been changed then.
        """
        if any(module.training for module in self._scanner.tree.modules(self._host.module)):
            raise RowsError("the model is training", remedy="call model.eval() first, or run the blocks one by one")
        if self._scanner.apart is None:
            self._scanner.apart = rows_are_apart(self._host, blocks[0].inputs[0])
        if not self._scanner.apart:
            raise RowsError("the rows of a batch depend on each other in this model", remedy="run blocks one by one")
        cuts = self._cuts(blocks[0])
        changes = [_first_change(block, cuts) for block in blocks]
        inputs, parts = _distinct(blocks, changes)
        merged = merge(parts)
        plan = self._scanner.plans.of(merged.graph, changing=self._changing)
        batch = self._host.merge(inputs)
        branching = self._branching(cuts, merged, parts, changes, batch)
        axes = self._axes(plan, branching, blocks[0].inputs, batch)
        results = self._pass(plan, batch, axes, branching)
        return [{name: results[known] for name, known in names.items() if known in results} for names in merged.names]

    def rows_that_fit(self, blocks: Sequence[Joining]) -> int:
        """How many rows of these blocks may run together, by an estimate of what they take."""
        block, rows = blocks[0], sum(each.rows for each in blocks)
        scan = self._scan(self._host.merge(block.inputs), (), block.graph)
        if scan.error is None and surely_fit(self._host, scan.values.values(), rows):
            return rows
        return rows_that_fit(self._host, self._scanner, block.graph, block.inputs[0], self._form(block))

    def fewer(self, blocks: Sequence[Joining]) -> int:
        """How many rows to try where those of these blocks did not fit."""
        note_failure(self._scanner, blocks[0].graph, self._form(blocks[0]))
        return max(1, sum(block.rows for block in blocks) // 2)

    def _form(self, block: Joining) -> object:
        batch = self._host.merge(block.inputs[:1])
        return tuple(tuple(tensor.shape) for tensor in tensors_in((batch.args, batch.kwargs)))

    def _cuts(self, block: Joining) -> Cuts:
        """The moments at which the batch can grow, by a scan with the inputs of one block."""
        scan = self._scan(self._host.merge(block.inputs), (), block.graph)
        if scan.error is not None:
            raise RowsError(
                "only data can tell how this model goes on, so its rows cannot be told apart",
                remedy="run the blocks one by one",
            )
        return Cuts.of(scan.order().places, self._host.blocks())

    def _branching(
        self, cuts: Cuts, merged: Merged, parts: Sequence[Part], changes: Sequence[int | None], batch: Batch
    ) -> Branching:
        slices: list[tuple[int, int]] = []
        shared: list[int | None] = []
        taken = [part.inputs[0] for part in parts]
        for scope in merged.scopes:
            rows = batch.rows[scope.first : scope.first + scope.count]
            slices.append((rows[0][0], sum(size for _, size in rows)))
            alone = taken.count(scope.first) == 1 or len(parts[scope.part].inputs) > 1
            shared.append(None if alone else scope.first)
        own = [changes[scope.part] for scope in merged.scopes]
        return plan_branching(cuts, own, slices, shared, batch.total)

    def _axes(self, plan: Plan, branching: Branching, inputs: Sequence[Input], batch: Batch) -> SiteAxes:
        events = [event if event.phase != "skip" else event._replace(phase="out") for event in plan.gates]
        events = [event for event in events if event.path != RESULT]
        if any(self._host.reorders(event) for event in events):
            raise RowsError(
                "what passes inside experts is sorted by expert, whichever prompt it belongs to",
                remedy="run the blocks one by one",
            )

        def scan(rows: Batch, watch: tuple[str, ...]) -> Scan:
            return self._scan(rows, watch, plan.graph)

        least = min(len(batch.rows), 2)

        def told(rows: Batch) -> dict[Event, Along]:
            return self._scanner.axes(rows, self._host.settings_key(plan.graph))

        axes = SiteAxes(self._host, self._modules, plan.graph, inputs, scan, lambda: None, self._attached, least, told)
        axes.prepare([*events, *branching.events], probe=False)
        return axes

    def _pass(self, plan: Plan, batch: Batch, axes: SiteAxes, branching: Branching) -> Results:
        came_in = {plan.graph[node].target: self._given(plan.graph[node].target) for node in plan.given}
        self._host.load()
        with self._host.lock:
            run = Pass(
                self._host,
                self._modules,
                batch,
                lambda: axes,
                self._attached,
                came_in.__getitem__,
                None,
                self._scanner.tree,
                None,
                branching,
                collects=False,
                pausable=False,
            )
            interpreter = run.interpreter
            try:
                run.run(plan, last=True)
                left = plan.wanted.difference(interpreter.done)
                if left:
                    raise RowsError("a block has named what does not run", remedy="run the blocks one by one")
                return dict(interpreter.results)
            except BaseException:
                for leaf, before in interpreter.collected:
                    leaf.grad = before
                raise
            finally:
                run.forget()


def _first_change(block: Joining, cuts: Cuts) -> int | None:
    return first_change(block.graph, memory_of(block.graph), cuts) if _is_shared(block) else START


def _is_shared(block: Joining) -> bool:
    """Whether a block is about one input as a whole, so that it may begin with the rows of another's."""
    return len(block.inputs) == 1 and not block.graph.invokes


def _distinct(blocks: Sequence[Joining], changes: Sequence[int | None]) -> tuple[list[Input], list[Part]]:
    """The inputs of all blocks, each once where blocks share it for a while, and which are whose."""
    inputs: list[Input] = []
    parts: list[Part] = []
    seen: list[int] = []
    for block, change in zip(blocks, changes, strict=True):
        known = None
        if change != START and _is_shared(block):
            known = next((place for place in seen if same_input(inputs[place], block.inputs[0])), None)
        first = len(inputs) if known is None else known
        if known is None:
            inputs += block.inputs
            if change != START and _is_shared(block):
                seen.append(first)
        parts.append(Part(block.graph, tuple(range(first, first + len(block.inputs)))))
    return inputs, parts


def same_input(one: Input, other: Input) -> bool:
    """Whether two inputs are the same to a model."""
    return _same(one.args, other.args) and _same(one.kwargs, other.kwargs)


def _same(one: Any, other: Any) -> bool:
    if one is other:
        return True
    if type(one) is not type(other):
        return False
    if isinstance(one, torch.Tensor):
        return one.shape == other.shape and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, dict):
        return list(one) == list(other) and all(_same(value, other[key]) for key, value in one.items())
    return isinstance(one, (str, int, float, bool)) and bool(one == other)
