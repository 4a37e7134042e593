"""Collect what passes at many modules in one pass: the runtime's side of `tracer.cache()`."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch

from loupe.errors import OperationError, RowsError
from loupe.graph.node import Event, Node, Phase
from loupe.ops.views import first_input
from loupe.runtime.batching import Axes, Rows, narrow
from loupe.runtime.plan import Plan
from loupe.runtime.tensors import map_tensors, version_of


def phases_of(cache: Node) -> tuple[Phase, ...]:
    """The moments of a call at which a cache takes something."""
    wanted: list[Phase] = []
    if cache.kwargs.get("inputs"):
        wanted.append("in")
    if cache.kwargs.get("outputs", True):
        wanted.append("out")
    return tuple(wanted)


def cached_events(plan: Plan) -> list[Event]:
    """The first calls of everything that the caches of a plan collect."""
    return [
        Event(path, phase, 0)
        for cache in plan.caches
        for path in plan.graph[cache].args[0]
        for phase in phases_of(plan.graph[cache])
    ]


def counting_events(plan: Plan, root: str) -> list[Event]:
    """What tells the steps of a pass apart, where a cache of a plan is about some of them: the calls of the model."""
    return [Event(root, "in", 0)] if any(plan.graph[cache].steps is not None for cache in plan.caches) else []


class Collector:
    """The caches of one pass, by the moments that they are about.

    `results[name][path][call]` is a dict with "output", "input" and "inputs" where wanted; a RowsError stands for what
    cannot be given to one prompt of several. `overwritten` are the moments whose tensors the model itself changes
    later: these are copied, all of them where it is None. Each call of the module at the path `root` begins a step.
    `expected` are the moments at which a scan says that something is collected, where it can tell.
    """

    def __init__(
        self,
        plan: Plan,
        axes: Axes,
        overwritten: Collection[tuple[str, Phase]] | None,
        root: str,
        expected: Collection[Event] | None = None,
    ) -> None:
        self._left = None if expected is None else set(expected)
        self.results: dict[str, dict[str, dict[int, dict[str, Any]]]] = {}
        self._at: dict[tuple[str, Phase], list[Node]] = {}
        self._axes = axes
        self._overwritten = overwritten
        self._root = root
        self._step = 0
        self._shared: list[tuple[Node, Event, torch.Tensor, int]] = []
        for cache in (plan.graph[node] for node in plan.caches):
            self.results[cache.target] = {}
            for path in cache.args[0]:
                for phase in phases_of(cache):
                    self._at.setdefault((path, phase), []).append(cache)

    @property
    def complete(self) -> bool:
        """Whether all that is expected is there. A pass that went otherwise than a scan said never is."""
        return self._left is not None and not self._left

    def take(self, event: Event, value: Any, rows: Rows) -> None:
        """Keep what passes at a moment: an output, or `(args, kwargs)`."""
        if self._left is not None and (event.path, event.phase) in self._at:
            if event in self._left:
                self._left.remove(event)
            else:
                self._left = None
        if event.path == self._root and event.phase == "in":
            self._step = event.call
        for cache in self._at.get((event.path, event.phase), ()):
            if cache.steps is not None and not cache.steps.has(self._step):
                continue
            if cache.invoke is not None and not rows.slices[cache.invoke][1]:
                continue  # a module of the user's, which the block calls on another prompt's rows
            kept = self._kept(cache, event, self._part(cache, event, value, rows))
            entry = self.results[cache.target].setdefault(event.path, {}).setdefault(event.call, {})
            if event.phase == "out":
                entry["output"] = kept
            else:
                entry["input"], entry["inputs"] = kept if isinstance(kept, RowsError) else first_input(kept), kept

    def check(self) -> None:
        """Raise OperationError where the model has changed a tensor that was kept as it is."""
        for cache, event, tensor, version in self._shared:
            if version_of(tensor) != version:
                raise OperationError(
                    f"what the cache has kept of {event} was overwritten later in the pass",
                    remedy="save a copy there: module.output.clone().save()",
                    line=cache.line,
                )

    def _part(self, cache: Node, event: Event, value: Any, rows: Rows) -> Any:
        if rows.covers_all(cache.invoke):
            return value
        assert cache.invoke is not None
        try:
            return narrow(value, self._axes.of(event), rows, cache.invoke, event)
        except RowsError as error:
            return RowsError(error.fact, remedy=error.remedy, line=cache.line)

    def _kept(self, cache: Node, event: Event, value: Any) -> Any:
        device, dtype, detach = (cache.kwargs.get(key) for key in ("device", "dtype", "detach"))
        copied = self._overwritten is None or (event.path, event.phase) in self._overwritten

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            own = tensor.detach() if detach else tensor
            kept = own
            if dtype is not None and own.is_floating_point():
                kept = kept.to(dtype)
            if device is not None and not own.is_meta:
                kept = kept.to(device)
            if kept is own and copied:
                return own.clone()
            if kept is own:
                self._shared.append((cache, event, own, version_of(own)))
            return kept

        return map_tensors(value, keep)
