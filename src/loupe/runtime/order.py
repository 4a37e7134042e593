"""Know in which order a pass comes to its moments, so that a tap can be put on when the pass is under way."""

from __future__ import annotations

from collections.abc import Iterable

from loupe.graph.node import RESULT, Event, Phase


class Order:
    """The moments of one pass, in order, as a scan has seen them.

    >>> order = Order([Event("a", "in", 0), Event("a.b", "in", 0), Event("a.b", "out", 0), Event("a", "out", 0)])
    >>> order.around([Event("a.b", "out", 0)])
    {Event(path='a', phase='out', call=0, op=None, index=0), Event(path='a.b', phase='out', call=0, op=None, index=0)}
    """

    def __init__(self, events: Iterable[Event]) -> None:
        self.places: dict[Event, int] = {}
        self._around: dict[Event, tuple[Event, ...]] = {}
        running: list[Event] = []
        for event in events:
            if event.phase == "in":
                running.append(Event(event.path, "out", 0))
            self.places[event] = len(self.places)
            self._around[event] = tuple(running)
            if event.phase == "out":
                running.pop()

    def around(self, events: Iterable[Event]) -> set[Event]:
        """The ends of the modules that are running at these moments: a pass that stands there is inside them."""
        found: set[Event] = set()
        for event in events:
            begins = event if event.op is None and event.phase != "skip" else Event(event.path, "in", event.call)
            found.update(self._around.get(begins, ()))
        return found

    def passed(self, path: str, phase: Phase, place: int) -> int:
        """How often a pass that has come to a place has come to a moment of a module."""
        count = 0
        while self.places.get(Event(path, phase, count), place + 1) <= place:
            count += 1
        return count

    def has_passed(self, event: Event, place: int) -> bool:
        """Whether a pass that has come to a place has a moment behind it, or comes to it no more."""
        if event.path == RESULT:
            return False
        if event.op is None and event.phase != "skip":
            return self.places.get(event, place + 1) <= place
        begins = self.places.get(Event(event.path, "in", event.call), place + 1)
        return begins <= place if event.op is not None else begins < place
