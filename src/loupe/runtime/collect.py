"""Collect what passes at many modules in one pass: the runtime's side of `tracer.cache()`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from loupe.errors import RowsError
from loupe.graph.node import Event, Node, Phase
from loupe.ops.views import first_input
from loupe.runtime.batching import Rows, Unavailable, narrow
from loupe.runtime.plan import Plan
from loupe.runtime.taps import Axes
from loupe.runtime.tensors import map_tensors


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


class Collector:
    """The caches of one pass, by the moments that they are about.

    `results[name][path]` is a list with one entry for each call: a dict with "output" and "inputs" where wanted.
    """

    def __init__(self, plan: Plan, rows: Rows, axes: Axes, *, copies: bool) -> None:
        self.results: dict[str, dict[str, list[dict[str, Any]]]] = {}
        self.at: dict[tuple[str, Phase], list[Node]] = {}
        self._rows = rows
        self._axes = axes
        self._copies = copies or bool(plan.memory.mutates)
        for cache in (plan.graph[node] for node in plan.caches):
            self.results[cache.target] = {}
            for path in cache.args[0]:
                for phase in phases_of(cache):
                    self.at.setdefault((path, phase), []).append(cache)

    def take(self, event: Event, value: Any) -> None:
        """Keep what passes at a moment: an output, or `(args, kwargs)`."""
        for cache in self.at.get((event.path, event.phase), ()):
            if cache.steps is not None and not cache.steps.has(event.call):
                continue
            entries = self.results[cache.target].setdefault(event.path, [])
            if event.phase == "in" or "in" not in phases_of(cache):
                entries.append({})
            kept = self._kept(cache, self._part(cache, event, value))
            if event.phase == "in":
                entries[-1]["input"], entries[-1]["inputs"] = first_input(kept), kept
            else:
                _unfinished(entries)["output"] = kept

    def _part(self, cache: Node, event: Event, value: Any) -> Any:
        if self._rows.covers_all(cache.invoke):
            return value
        assert cache.invoke is not None
        try:
            return narrow(value, self._axes.of(event), self._rows, cache.invoke, event)
        except RowsError:
            return Unavailable(str(event))

    def _kept(self, cache: Node, value: Any) -> Any:
        device, dtype, detach = (cache.kwargs.get(key) for key in ("device", "dtype", "detach"))

        def change(tensor: torch.Tensor) -> torch.Tensor:
            kept = tensor.detach() if detach else tensor
            if device is not None or dtype is not None:
                kept = kept.to(device=device, dtype=dtype if kept.is_floating_point() else None)
            return kept.clone() if self._copies and kept.data_ptr() == tensor.data_ptr() else kept

        return map_tensors(value, change)


def _unfinished(entries: list[dict[str, Any]]) -> dict[str, Any]:
    """The innermost call that has no output yet (a module may call itself)."""
    return next(entry for entry in reversed(entries) if "output" not in entry)


def overwrites(modules: Iterable[nn.Module]) -> bool:
    """Whether a model has modules that change their inputs in place, so that what is kept has to be copied."""
    return any(getattr(module, "inplace", False) for module in modules)
