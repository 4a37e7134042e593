"""Decide which blocks of a session run together: those of one kind that do not need each other."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Sequence
from dataclasses import dataclass, field

from loupe.graph.merge import Alone


@dataclass(frozen=True, slots=True)
class Candidate:
    """A block that is to run: what it has to have in common with others that run with it, and whose values it takes.

    `alone` says why it runs by itself, where it has to.
    """

    kind: Hashable
    takes: Collection[int] = ()
    alone: Alone | None = None


@dataclass(slots=True)
class Group:
    """Blocks that run together, by their places; `reason` says why one runs alone, where something is in its way."""

    members: list[int] = field(default_factory=list)
    reason: str | None = None


def group(blocks: Sequence[Candidate]) -> list[Group]:
    """Put blocks into groups, in an order in which every value is there before it is taken.

    A block joins the first group of its kind that runs after all that it takes from. One that keeps the order is a
    wall: what stands above it runs before it, and what stands below it afterwards.

    >>> [each.members for each in group([Candidate("a"), Candidate("a"), Candidate("a", takes=[0])])]
    [[0, 1], [2]]
    """
    groups: list[Group] = []
    kinds: list[Hashable] = []
    where: dict[int, int] = {}
    wall = 0
    for place, block in enumerate(blocks):
        earliest = max([wall, *(where[each] + 1 for each in block.takes if each in where)])
        found = None
        if block.alone is None:
            found = next((n for n in range(earliest, len(groups)) if kinds[n] == (block.kind,)), None)
        if found is None:
            found = len(groups)
            groups.append(Group(reason=None if block.alone is None else block.alone.reason))
            kinds.append((block.kind,) if block.alone is None else None)
        groups[found].members.append(place)
        where[place] = found
        if block.alone is not None and block.alone.keeps_order:
            wall = len(groups)
    return groups
