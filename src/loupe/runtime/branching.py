"""Let a batch grow on its way through a model: rows with equal inputs are one row up to where their blocks differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._pytree import tree_flatten, tree_unflatten

from loupe.errors import RowsError
from loupe.graph.graph import Graph
from loupe.graph.node import RESULT, Event, Site
from loupe.graph.opset import TRACKING
from loupe.graph.passes import Memory
from loupe.runtime.batching import MIXED, SHARED, Axes, Rows

START = -1  # the place of a branch that is there before the pass begins


@dataclass(frozen=True, slots=True)
class Branch:
    """A moment at which the batch grows: the rows `(start, size)` that are copied behind the others, and all rows then.

    `origins` are for each row then the row of the first batch from which it comes.
    """

    sources: tuple[tuple[int, int], ...]
    rows: Rows
    origins: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Branching:
    """How a batch grows in a pass: `first` are its rows at the start, `at` the moments at which some are added.

    `blocks` are the moments at which a block of the model is called, where what the model made before is brought to the
    size that the batch has by then.
    """

    first: Rows
    at: Mapping[Event, Branch]
    blocks: frozenset[Event]

    @property
    def events(self) -> set[Event]:
        """The moments at which something has to be done."""
        return {*self.at, *self.blocks} if self.at else set()

    def __str__(self) -> str:
        rows = [f"start: {self.first.total} rows"]
        rows += [f"{event}: {branch.rows.total} rows" for event, branch in self.at.items()]
        return "\n".join(rows)


@dataclass(frozen=True, slots=True)
class Cuts:
    """The moments at which a batch can grow, in order, and the places of all moments of a pass.

    All that a model computes has to pass through its blocks, one after the other: then their calls are such moments.
    """

    places: Mapping[Event, int]
    cuts: tuple[Event, ...]

    @classmethod
    def of(cls, places: Mapping[Event, int], blocks: Sequence[str]) -> Cuts:
        """The calls of these blocks, where each is called once, one after the other; none where that is not so."""
        cuts = [Event(path, phase, 0) for path in blocks for phase in ("in", "out")]
        twice = any(Event(path, "in", 1) in places for path in blocks)
        found = [places.get(cut, START) for cut in cuts]
        if twice or START in found or found != sorted(found):
            return cls(places, ())
        return cls(places, tuple(cuts))

    def cut_before(self, event: Event) -> int:
        """The place among the cuts of the last one that comes no later than an event; START where there is none."""
        if event.path == RESULT:
            return len(self.cuts) - 1
        if event.op is not None or event.phase == "skip":
            event = Event(event.path, "in", event.call)
        place = self.places.get(event, START)
        found = START
        for number, cut in enumerate(self.cuts):
            if self.places[cut] > place:
                break
            found = number
        return found


def first_change(graph: Graph, memory: Memory, cuts: Cuts) -> int | None:
    """The last cut before a block does what others must not see; None for a block that only reads."""
    events: list[Event] = []
    everything = bool(graph.backwards) or any(n.kind == "apply" and n.target in TRACKING for n in graph)
    changed = {index for roots in memory.mutates.values() for kind, index in roots if kind == "node"}
    for node in graph:
        if not isinstance(node.target, Site) or node.gradient_of is not None:
            continue
        if node.kind == "write" or node.id in changed or everything:
            events.append(node.site.event)
    return min((cuts.cut_before(event) for event in events), default=None)


def plan_branching(
    cuts: Cuts,
    changes: Sequence[int | None],
    slices: Sequence[tuple[int, int]],
    shared: Sequence[int | None],
    total: int,
) -> Branching:
    """Plan how a batch of `total` rows grows: scope s begins with the rows `slices[s]`.

    Scopes with the same number in `shared` begin with the same rows, and need rows of their own from the cut
    `changes[s]` on; the last of them to change keeps those of the beginning, unless one only reads. None in `shared`
    says that nobody else has the rows.
    """
    keepers: dict[int, int | None] = {}
    for scope, given in enumerate(shared):
        if given is None:
            continue
        change, held = changes[scope], keepers.get(given, scope)
        if change is None or held is None:
            keepers[given] = None
        elif (changes[held] or 0) <= change:
            keepers[given] = scope
        else:
            keepers[given] = held
    leaving: dict[int, list[int]] = {}
    for scope, (change, given) in enumerate(zip(changes, shared, strict=True)):
        if given is not None and change is not None and keepers[given] != scope:
            assert change != START, "rows that differ from the start are given an input of their own"
            leaving.setdefault(change, []).append(scope)
    now, origins = list(slices), list(range(total))
    first = Rows(tuple(slices), total)
    at: dict[Event, Branch] = {}
    for cut in sorted(leaving):
        for scope in leaving[cut]:
            start, size = slices[scope]
            now[scope] = (len(origins), size)
            origins += range(start, start + size)
        sources = tuple(slices[scope] for scope in leaving[cut])
        at[cuts.cuts[cut]] = Branch(sources, Rows(tuple(now), len(origins)), tuple(origins))
    blocks = frozenset(cut for cut in cuts.cuts if cut.phase == "in") if at else frozenset[Event]()
    return Branching(first, at, blocks)


def grow(value: Any, axes: Axes, before: Rows, branch: Branch, first: int, event: Event) -> Any:
    """What passes at a moment, with the rows that a batch has from there on.

    `first` is the number of rows with which the pass began: leaves that the model made back then have them still.
    """
    leaves, spec = tree_flatten(value)
    along = axes.along(event)
    if len(leaves) != len(along.axes):
        raise _untold(event)
    grown: list[Any] = []
    for leaf, axis, entries in zip(leaves, *along, strict=True):
        if not isinstance(leaf, torch.Tensor) or axis == SHARED:
            grown.append(leaf)
            continue
        if axis == MIXED:
            raise _untold(event)
        size = leaf.shape[axis] / entries
        if size == branch.rows.total:
            grown.append(leaf)
        elif size == before.total:
            parts = [leaf.narrow(axis, start * entries, count * entries) for start, count in branch.sources]
            grown.append(torch.cat([leaf, *parts], dim=axis))
        elif size == first:
            grown.append(_from_first(leaf, axis, entries, branch))
        else:
            raise _untold(event)
    return tree_unflatten(grown, spec)


def _from_first(leaf: torch.Tensor, axis: int, entries: int, branch: Branch) -> torch.Tensor:
    """A leaf with the rows of the first batch, with those that the batch has now."""
    if leaf.shape[axis] == 1:
        return leaf.expand(*leaf.shape[:axis], branch.rows.total, *leaf.shape[axis + 1 :])
    rows = torch.tensor(branch.origins, device=leaf.device)
    if entries > 1:
        rows = (rows[:, None] * entries + torch.arange(entries, device=leaf.device)).flatten()
    return leaf.index_select(axis, rows)


def _untold(event: Event) -> RowsError:
    return RowsError(
        f"the rows of the batch cannot be told apart at {event}, so it cannot grow there",
        remedy="run these blocks outside a session, one by one",
    )
