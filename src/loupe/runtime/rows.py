"""Find out which axis of each site's value is the batch, by looking at passes with different numbers of rows."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_flatten

from loupe.graph.graph import Graph
from loupe.graph.node import RESULT, Event, is_within
from loupe.runtime.batching import MIXED, NOWHERE, SHARED, Along, leaf_shapes
from loupe.runtime.host import Batch, Host, Input
from loupe.runtime.meta import Scan
from loupe.runtime.open_sites import OpenSite
from loupe.runtime.plain import plainly
from loupe.runtime.replay import aside
from loupe.runtime.taps import Taps
from loupe.runtime.tensors import map_tensors, tensors_in


class RowsFirst:
    """The axes of what a generation returns: every tensor of it has its rows first."""

    def __init__(self, value: Any) -> None:
        self._leaves = len(tree_flatten(value)[0])

    def of(self, event: Event) -> tuple[int, ...]:
        """The first axis of each leaf."""
        return (0,) * self._leaves

    def along(self, event: Event) -> Along:
        """Every row has one entry of each."""
        return Along((0,) * self._leaves, (1,) * self._leaves)


class SiteAxes:
    """The axes of sites for one set of inputs: from scans without data, or real passes where data decides the flow.

    Scans have the inputs `least` times and more: several inputs may be called with a mask that one alone does without.
    `told` keeps what scans have told about such inputs from run to run.
    """

    def __init__(
        self,
        host: Host,
        modules: Callable[[str], nn.Module],
        graph: Graph,
        inputs: Sequence[Input],
        scan: Callable[[Batch, tuple[str, ...]], Scan],
        before_probe: Callable[[], None],
        attached: Collection[str] = (),
        least: int = 1,
        told: Callable[[Batch], dict[Event, Along]] = lambda _batch: {},
    ) -> None:
        self._host = host
        self._modules = modules
        self._graph = graph
        self._inputs = list(inputs)
        self._scan = scan
        self._before_probe = before_probe
        self._attached = attached
        self._least = least
        self._told = told
        self._known: dict[Event, Along] = {}
        self._untold: set[Event] = set()

    def of(self, event: Event) -> tuple[int, ...]:
        """The axes of the leaves of what passes at an event."""
        return self.along(event).axes

    def along(self, event: Event) -> Along:
        """The axes of the leaves of what passes at an event, and how many entries each row has along them."""
        event = self._passing(event)
        if event._replace(call=0) in self._untold and event not in self._known:
            return NOWHERE
        if event not in self._known:
            self.prepare([event])
        return self._known[event]

    def _passing(self, event: Event) -> Event:
        """What a trace returns is what its model returns."""
        return event._replace(path=self._host.prefix) if event.path == RESULT else event

    def prepare(self, events: Iterable[Event], *, probe: bool = True) -> None:
        """Find the axes of several events together; without `probe` as far as scans that come to their end can tell."""
        events = [self._passing(event) for event in events]
        for event in events:
            if event.phase == "grad" or is_within(event.path, self._attached):  # the block calls it with its own rows
                self._known[event] = NOWHERE
            elif event.call and event.op is None:  # a later step has the same axes as the first call
                first = event._replace(call=0)
                self._known[event] = self.along(first)
        missing = [event for event in dict.fromkeys(events) if event not in self._known]
        if not missing:
            return
        plain = self._host.merge(self._inputs * self._least)
        told = self._told(plain)
        self._known.update((event, told[event]) for event in missing if event in told)
        missing = [event for event in missing if event not in told]
        if not missing:
            return
        stand_ins = {s.event: o.event for s in self._graph.sites if (o := self._host.stand_in(s)) is not None}
        asked = {event: [event, stand_ins[event]] if event in stand_ins else [event] for event in missing}
        watch = tuple(sorted({event.path for names in asked.values() for event in names if event.op is not None}))
        batches = [plain, *(self._host.merge(self._inputs * (self._least + more)) for more in (1, 2))]
        scans = [self._scan(batch, watch) for batch in batches]
        unseen = []
        for event in missing:
            name = next((n for n in asked[event] if all(n in scan.values for scan in scans)), None)
            if name is None and event.call:  # an operation of a later step, which a scan does not come to
                self._known[event] = self.along(event._replace(call=0))
                continue
            if name is None or self._host.reorders(name):
                unseen.append(event)
                continue
            shapes = [leaf_shapes(scan.values[name]) for scan in scans]
            totals = [batch.total for batch in batches]
            self._known[event] = told[event] = Along.of(shapes, totals)
        if not probe and all(scan.error is None for scan in scans):
            self._untold.update(unseen)
        elif unseen:
            self._probe(unseen, {event: stand_ins[event] for event in unseen if event in stand_ins})

    def _probe(self, events: list[Event], stand_ins: dict[Event, Event]) -> None:
        """Real passes: one as it is, one with the last prompt changed, one with it twice.

        An axis counts as the batch if it grows in proportion, and if only the last prompt's part of it changes with
        that prompt.
        """
        self._before_probe()  # a pass that stands still has its taps on the model
        last = self._inputs[-1]
        plain = self._host.merge(self._inputs)
        longer = self._host.merge([*self._inputs, last])
        start, _ = plain.rows[-1]
        passed = [self._observe(batch, events, stand_ins) for batch in (plain, _changed(plain, start), longer)]
        for event in events:
            values = [seen.get(event) for seen in passed]
            if any(value is None for value in values):
                self._known[event] = NOWHERE
                continue
            along = Along.of([leaf_shapes(values[0]), leaf_shapes(values[2])], [plain.total, longer.total])
            axes = _confirmed(along.axes, values[0], values[1], start, plain.total)
            self._known[event] = along._replace(axes=axes)

    def _observe(self, batch: Batch, events: list[Event], stand_ins: dict[Event, Event]) -> dict[Event, Any]:
        seen: dict[Event, Any] = {}

        def visit(event: Event, value: Any) -> OpenSite | None:
            if event in events:
                seen[event] = map_tensors(value, lambda tensor: tensor.detach().clone())
            return None

        host = self._host
        host.load()
        taps = Taps(self._modules, visit)
        taps.attach(set(events), stand_ins)
        try:
            settings = host.settings(self._graph, host.module)
            with aside(host.module), settings, plainly(host.module):
                host.module(*batch.args, **batch.kwargs)
        finally:
            taps.detach()
        return seen


def rows_are_apart(host: Host, given: Input) -> bool:
    """Whether a row gives what it gives whatever stands beside it, tried with an input and a changed copy of it.

    A module that compares the rows of a batch, or takes their mean, has rows that are not.
    """
    plain = host.merge([given, given])
    _, size = plain.rows[0]
    host.load()
    with aside(host.module), plainly(host.module):
        passed = [host.module(*b.args, **b.kwargs) for b in (plain, _changed(plain, size))]
    pairs = zip(*(list(tensors_in(output)) for output in passed), strict=True)
    return all(
        one.shape == other.shape and torch.allclose(one[:size], other[:size], rtol=1e-4, atol=1e-5, equal_nan=True)
        for one, other in pairs
        if one.dim() and one.shape[0] == plain.total
    )


def _changed(batch: Batch, start: int) -> Batch:
    """The batch with other rows from `start` on: reversed along their last axis (integers) or mirrored (numbers)."""

    def change(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.dim() == 0 or tensor.shape[0] != batch.total:
            return tensor
        tail = tensor[start:]
        if tensor.is_floating_point():
            tail = 0.5 - tail
        elif tensor.dim() > 1 and not bool((tail == tail.flip(-1)).all()) and tensor.dtype != torch.bool:
            tail = tail.flip(-1)
        return torch.cat([tensor[:start], tail])

    return Batch(map_tensors(batch.args, change), map_tensors(batch.kwargs, change), batch.rows, batch.total)


def _confirmed(axes: tuple[int, ...], plain: Any, changed: Any, start: int, total: int) -> tuple[int, ...]:
    found = []
    for axis, one, other in zip(axes, tree_flatten(plain)[0], tree_flatten(changed)[0], strict=False):
        if axis in (SHARED, MIXED) or not isinstance(one, torch.Tensor) or not isinstance(other, torch.Tensor):
            found.append(axis)
            continue
        if one.shape != other.shape:
            found.append(MIXED)
            continue
        before = start * (one.shape[axis] // total)
        kept = torch.allclose(
            one.narrow(axis, 0, before).float(), other.narrow(axis, 0, before).float(), atol=1e-4, equal_nan=True
        )
        found.append(axis if kept else MIXED)
    return tuple(found)
