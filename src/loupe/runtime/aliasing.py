"""Change tensors in place as the block's lines would in order, although the lines run when the model comes by."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Protocol

import torch

from loupe.errors import Line, OrderError, OverwrittenWarning, RowsError, WriteError
from loupe.graph.node import Event, Node, collect_refs
from loupe.graph.passes import is_opaque
from loupe.runtime.plan import Plan
from loupe.runtime.tensors import map_tensors, share_memory, storages_of, tensors_in, version_of


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


Arguments = tuple[list[Any], dict[str, Any]]


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
    weights: Callable[[], Mapping[int, torch.Tensor]]
    snapshots: dict[int, dict[int, Any]] = field(default_factory=dict)
    _pending: int = 0
    _saved: dict[int, list[str]] = field(default_factory=dict)
    _looked_through: int = 0

    def apply(self, plan: Plan, node: Node, arguments: Arguments, run: Callable[[Arguments], Any]) -> Any:
        """Run a node that may change its arguments in place."""
        if node.kind == "call" or is_opaque(plan.graph, node):
            return self._apply_opaque(plan, node, arguments, run)
        found: list[int] = []
        collect_refs(node.kwargs["out"] if "out" in node.kwargs else node.args[:1] or node.kwargs.get("input"), found)
        changed = [self.values.get(ref) for ref in found]
        storages = storages_of(changed)
        if storages:
            self._check_parameters(plan, node, storages)
            self._check_sites(plan, node, storages, storages_of([v for v in changed if isinstance(v, torch.Tensor)]))
            self._snapshot_earlier_readers(plan, node, storages)
        before = self._saved_before(plan, node, storages)
        result = run(arguments)
        _warn_overwritten(node, before)
        return result

    def _apply_opaque(self, plan: Plan, node: Node, arguments: Arguments, run: Callable[[Arguments], Any]) -> Any:
        """A function that may change anything is watched: what it did change has to be something that it may."""
        storages = storages_of(arguments)
        self._snapshot_earlier_readers(plan, node, storages)
        before = self._saved_before(plan, node, storages)
        arguments, copies = self._without_parameters(plan, node, arguments)
        versions = [(tensor, version_of(tensor)) for tensor in tensors_in(arguments)]
        result = run(arguments)
        changed = [tensor for tensor, version in versions if version_of(tensor) != version]
        if changed:
            for copy, name in copies:
                if any(tensor is copy for tensor in changed):
                    raise _parameter_changed(name, node)
            storages = storages_of(changed)
            self._check_sites(plan, node, storages, storages)
        _warn_overwritten(node, before)
        return result

    # -- what may be changed -------------------------------------------------------------------------------------------

    def _parameters(self, plan: Plan, node: Node) -> list[Node]:
        roots = [plan.graph[index] for kind, index in sorted(plan.memory.mutates[node.id]) if kind == "node"]
        return [root for root in roots if root.kind == "parameter"]

    def _check_parameters(self, plan: Plan, node: Node, storages: set[int]) -> None:
        for root in self._parameters(plan, node):
            if share_memory(self.parameter(root.target), storages):
                raise _parameter_changed(root.target, node)
        came_in = any(
            kind == "node" and plan.graph[index].kind == "given" for kind, index in plan.memory.mutates[node.id]
        )
        if came_in and any(share_memory(weight, storages) for weight in self.weights().values()):
            raise _parameter_changed("weight", node)

    def _without_parameters(
        self, plan: Plan, node: Node, arguments: Arguments
    ) -> tuple[Arguments, list[tuple[torch.Tensor, str]]]:
        """Arguments with copies in place of the model's parameters, and whose copies they are."""
        copies: list[tuple[torch.Tensor, str]] = []
        for root in self._parameters(plan, node):
            own = storages_of(self.parameter(root.target))

            def copied(tensor: torch.Tensor, own: set[int] = own, name: str = root.target) -> torch.Tensor:
                if not share_memory(tensor, own):
                    return tensor
                copies.append((tensor.clone(), name))
                return copies[-1][0]

            arguments = map_tensors(arguments, copied)
        return arguments, copies

    def _check_sites(self, plan: Plan, node: Node, storages: set[int], tensors: set[int]) -> None:
        """A tensor of the model may be changed only while the model has not gone on with it, and in one's own rows."""
        taps = {tap.event: tap for tap in self.taps}
        held = [read for read in plan.changed_sites(node.id) if share_memory(self.values.get(read), storages)]
        passing = {
            found for read in held if plan.graph[read].site.event in taps for found in storages_of(self.values[read])
        }
        for read in held:
            origin = plan.graph[read]
            tap = taps.get(origin.site.event)
            if tap is None:
                if storages_of(self.values[read]) <= passing:
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
        names = dict.fromkeys(name for storage in storages for name in self._saved.get(storage, ()))
        saves = [plan.graph[plan.saves[name]] for name in names if plan.saves.get(name, node.id) < node.id]
        values = [self.results[saved.target] for saved in saves]
        return [
            (saved, value, map_tensors(value, torch.Tensor.clone)) for saved, value in zip(saves, values, strict=True)
        ]


def _parameter_changed(name: str, node: Node) -> WriteError:
    return WriteError(
        f"the model's own {name} is changed in place, which would outlast the block",
        remedy=f"change a copy of it: {name.rpartition('.')[2]}.clone(); or change the model for good in model.edit()",
        line=node.line,
    )


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
    return all(
        torch.equal(a, b) or bool(((a == b) | ((a != a) & (b != b))).all())
        for a, b in zip(tensors_in(now), tensors_in(before), strict=True)
    )
