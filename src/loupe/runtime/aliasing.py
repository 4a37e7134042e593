"""Change tensors in place as the block's lines would in order, although the lines run when the model comes by."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Protocol

import torch

from loupe.errors import Line, OrderError, OverwrittenWarning, RowsError
from loupe.graph.changes import changed_by
from loupe.graph.node import Event, Node
from loupe.graph.opset import TRACKING
from loupe.runtime.plan import Change, Plan
from loupe.runtime.tensors import agree, map_tensors, share_memory, storages_of, tensors_in, version_of
from loupe.runtime.weights import Arguments, Weights, is_changed


class Tap(Protocol):
    """An open site: what passes there now, and a way to change it."""

    event: Event

    def read(self, node: Node) -> Any:
        """The value at the node's port, narrowed to the rows of its invoke."""
        ...

    def write(self, node: Node, value: Any) -> None:
        """Let the model go on with another value."""
        ...

    def shares(self, node: Node, storages: set[int]) -> bool:
        """Whether one of these storages is a tensor of the site that all prompts have in common, and not the node's."""
        ...


@dataclass(slots=True)
class Aliasing:
    """Knows which values of a run live in one memory; shares the tables of the interpreter that it belongs to.

    `snapshots[n]` holds values as they were before an in-place change, for a node n that stands above the change and
    runs after it.
    """

    values: dict[int, Any]
    results: dict[str, Any]
    done: set[int]
    taps: Sequence[Tap]
    parameter: Callable[[str], Any]
    weights: Weights
    snapshots: dict[int, dict[int, Any]]
    _pending: int = 0
    _saved: dict[int, list[str]] = field(default_factory=dict)
    _looked_through: int = 0

    def apply(self, plan: Plan, node: Node, arguments: Arguments, run: Callable[[Arguments], Any]) -> Any:
        """Run a node that may change its arguments in place."""
        change = plan.change(node.id)
        if change.opaque:
            return self._apply_opaque(plan, node, arguments, run)
        self._check_weights(change, node, arguments)
        changed = [self.values.get(ref) for ref in change.refs]
        storages = storages_of(changed)
        if storages:
            tensors = [value for value in changed if isinstance(value, torch.Tensor)]
            self._check_sites(plan, node, storages, storages if len(tensors) == len(changed) else storages_of(tensors))
            self._snapshot_earlier_readers(plan, node, storages)
        before = self._saved_before(plan, node, storages)
        known = node.target not in plan.graph.functions
        result = run(arguments) if known else self.weights.spare(node, arguments, run)
        _warn_overwritten(node, before)
        return result

    def _apply_opaque(self, plan: Plan, node: Node, arguments: Arguments, run: Callable[[Arguments], Any]) -> Any:
        """A function that may change anything is watched: what it did change has to be something that it may."""
        storages = storages_of(arguments)
        self._snapshot_earlier_readers(plan, node, storages)
        before = self._saved_before(plan, node, storages)

        def watched(arguments: Arguments) -> Any:
            versions = [(tensor, version_of(tensor)) for tensor in tensors_in(arguments)]
            result = run(arguments)
            changed = storages_of([tensor for tensor, version in versions if version_of(tensor) != version])
            if changed:
                self._check_sites(plan, node, changed, changed)
            return result

        result = self.weights.spare(node, arguments, watched)
        _warn_overwritten(node, before)
        return result

    # -- what may be changed -------------------------------------------------------------------------------------------

    def _check_weights(self, change: Change, node: Node, arguments: Arguments) -> None:
        """A weight of the model stays as it is; one that an edit has set is read anew for each block, and stays too."""
        args, kwargs = arguments
        changed = changed_by(node.target, args, kwargs)
        if node.target in TRACKING:
            tracked = bool(args[1] if len(args) > 1 else kwargs.get("tracked", True))
            for value in changed:
                self.weights.track(node, value, tracked=tracked)
            return
        if kwargs.get("out") is not None:
            changed = list(tensors_in(changed))
        self.weights.refuse(node, changed)
        for path in change.parameters:
            own = self.weights.is_own_path(path)
            if own and share_memory(self.parameter(path), storages_of(changed)):
                raise is_changed(path, node)

    def _check_sites(self, plan: Plan, node: Node, storages: set[int], tensors: set[int]) -> None:
        """A tensor of the model may be changed only while the model has not gone on with it, and in one's own rows."""
        held = [read for read in plan.change(node.id).sites if share_memory(self.values.get(read), storages)]
        taps = {tap.event: tap for tap in self.taps} if held else {}
        for read in held:
            origin = plan.graph[read]
            tap = taps.get(origin.site.event)
            if tap is None:
                at_taps = [self.values[each] for each in held if plan.graph[each].site.event in taps]
                if storages_of(self.values[read]) <= storages_of(at_taps):
                    continue  # a line above let the model go on with it at the site that is open
                raise OrderError(
                    f"{origin.site} is changed in place with a value that the model computes only after it",
                    remedy="change a copy (`x = x.clone()`), or use values from earlier modules",
                    line=node.line,
                )
            if tap.shares(origin, tensors):
                raise RowsError(
                    f"{origin.site} is shared by all prompts of the batch, so one of them cannot change it in place",
                    remedy="change it in tracer.invoke() without input, for the whole batch, or change a .clone()",
                    line=node.line,
                )

    # -- what the lines above see --------------------------------------------------------------------------------------

    def _snapshot_earlier_readers(self, plan: Plan, node: Node, storages: set[int]) -> None:
        """Lines above an in-place change see the tensor as it was, even where they run later."""
        copies: dict[int, Any] = {}
        while self._pending in self.done or (self._pending < node.id and self._pending not in plan.live):
            self._pending += 1
        if self._pending == node.id:
            return
        for reader in plan.earlier_readers(node.id, self._pending) if storages else ():
            if reader in self.done or reader == node.id:
                continue
            for ref in plan.graph[reader].refs():
                known = self.snapshots.get(reader, {})
                if ref in self.values and ref not in known and share_memory(self.values[ref], storages):
                    if ref not in copies:
                        copies[ref] = map_tensors(self.values[ref], torch.Tensor.clone)
                    self.snapshots.setdefault(reader, {})[ref] = copies[ref]

    def _saved_before(self, plan: Plan, node: Node, storages: set[int]) -> list[tuple[Node, Any, Any]]:
        """What lines above have saved in the memory that is about to be changed, as it is and as a copy."""
        for name in islice(self.results, self._looked_through, None):
            for storage in storages_of(self.results[name]):
                self._saved.setdefault(storage, []).append(name)
        self._looked_through = len(self.results)
        if not self._saved:
            return []
        names = dict.fromkeys(name for storage in storages for name in self._saved.get(storage, ()))
        saves = [plan.graph[plan.saves[name]] for name in names if plan.saves.get(name, node.id) < node.id]
        values = [self.results[saved.target] for saved in saves]
        return [
            (saved, value, map_tensors(value, torch.Tensor.clone)) for saved, value in zip(saves, values, strict=True)
        ]


def _warn_overwritten(node: Node, before: list[tuple[Node, Any, Any]]) -> None:
    for saved, value, old in before:
        if _same(value, old):
            continue
        line = node.line or Line("<unknown>", 0)
        warnings.warn_explicit(
            OverwrittenWarning(
                f"the value saved at {saved.line} is overwritten in place at {line}; "
                "to keep it as it was, save a copy: .clone().save()"
            ),
            category=OverwrittenWarning,
            filename=line.filename,
            lineno=line.number,
        )


def _same(now: Any, before: Any) -> bool:
    return all(agree(a, b) for a, b in zip(tensors_in(now), tensors_in(before), strict=True))
