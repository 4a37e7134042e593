"""Find the order in which a model comes to the sites of a graph, for a picture of both."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from loupe.graph.node import RESULT, Event, Site, Steps, is_within


class Place(NamedTuple):
    """When something is due in a run; places compare as times do.

    `part` is 0 before the model runs, 1 in its forward passes, 2 after them, 3 in backward passes. `step` is the number
    of the forward pass, or of the backward pass; `group` the block about several steps that begins with it; `index` the
    order inside.
    """

    part: int = 0
    step: int = 0
    group: int = 0
    index: tuple[float, ...] = ()


BEFORE = Place()
AFTER = Place(part=2, index=(0.0,))


def begin(steps: Steps) -> Place:
    """When the first of these steps begins."""
    return Place(1, steps.listed[0] if steps.listed else steps.start, steps.group, (-1.0,))


class Order:
    """Knows the place of every site: from the events of one forward pass, or from names where none are known.

    `events` are those of one forward pass in order; `sites` are the graph's. In a guess children with numbers for names
    come in the order of these, others in that of the graph.
    """

    def __init__(self, events: Iterable[Event], sites: Iterable[Site]) -> None:
        found = list(dict.fromkeys(sites))
        known = list(events)
        self.known = bool(known)
        known = known or list(_guessed(found))
        self._at = {event: place for place, event in enumerate(known)}
        self._calls: dict[tuple[Any, ...], int] = {}
        for event in known:
            key = event._replace(call=0)
            self._calls[key] = max(self._calls.get(key, 0), event.call + 1)
        self._first = {site: place for place, site in enumerate(found)}
        self.anchors: dict[str, Place] = {}  # called modules, and when the block calls them

    def place(self, site: Site, steps: Steps | None) -> Place:
        """When a site is open."""
        if site.path == RESULT:
            return AFTER
        step, call = divmod(site.call, self._calls.get(site.event._replace(call=0), 1))
        first = (self._first.get(site, -1),)
        at = self._moment(site.event._replace(call=call))
        if at is None:
            for path, called in self.anchors.items():
                if is_within(site.path, (path,)):
                    return called._replace(index=(*called.index, 0.5, *first))
            at = self._end_of(site) - 0.25
        if steps is not None:
            return begin(steps)._replace(index=(at, *first))
        return Place(1, step, 0, (at, *first))

    def call_in_step(self, site: Site) -> int:
        """Which call of its module a site is about, counted in its forward pass."""
        return site.call % self._calls.get(site.event._replace(call=0), 1)

    def _moment(self, event: Event) -> float | None:
        if event.phase == "skip" and event not in self._at:
            begun = self._at.get(event._replace(phase="in"))
            return None if begun is None else begun + 0.5
        return self._at.get(event)

    def _end_of(self, site: Site) -> float:
        """The end of the innermost module around a site that is known to run."""
        path = site.path if site.op is not None else site.path.rpartition(".")[0]
        while path and Event(path, "out", 0) not in self._at:
            path = path.rpartition(".")[0]
        return self._at.get(Event(path, "out", 0), len(self._at))


def _guessed(sites: list[Site]) -> Iterator[Event]:
    """The events of modules that the sites are about, by the tree of their names."""
    tree: dict[str, Any] = {}
    for site in sites:
        below = tree
        for name in filter(None, site.path.split(".")):
            below = below.setdefault(name, {})

    def walk(path: str, children: dict[str, Any]) -> Iterator[Event]:
        yield Event(path, "in", 0)
        for name in sorted(children, key=lambda name: int(name) if name.isdecimal() else -1):
            yield from walk(f"{path}.{name}" if path else name, children[name])
        yield Event(path, "out", 0)

    return walk("", tree)
