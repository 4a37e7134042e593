"""Know how far a pass has come: which of the moments that a block may name are behind it."""

from __future__ import annotations

from loupe.graph.node import Event, Phase
from loupe.runtime.order import Order


class Progress:
    """The moments that a pass has come to.

    With `order`, which a scan has told, moments without a tap are known to have passed too. Without, every module is
    tapped, and what has passed was seen.
    """

    def __init__(self, order: Order | None) -> None:
        self._order = order
        self._place = -1
        self._reached: dict[tuple[str, str], int] = {}

    def come_to(self, event: Event) -> None:
        """The pass stands at a moment."""
        if self._order is not None:
            self._place = self._order.places.get(event, self._place)

    def leave(self, event: Event) -> None:
        """What the block does at a moment is done."""
        self._reached[(event.path, event.phase) if event.op is None else (str(event), event.phase)] = event.call

    def times_passed(self, path: str, phase: Phase) -> int:
        """How often a moment of a module has passed, in a pass with an order."""
        assert self._order is not None
        return self._order.passed(path, phase, self._place)

    def has_passed(self, event: Event) -> bool:
        """Whether a moment is behind the pass."""
        if self._order is not None and self._order.has_passed(event, self._place):
            return True
        key = (event.path, event.phase) if event.op is None else (str(event), event.phase)
        return self._reached.get(key, -1) >= event.call

    def has_begun(self, event: Event) -> bool:
        """Whether the call of the module that an operation belongs to is under way, or behind the pass."""
        return self._reached.get((event.path, "in"), -1) >= event.call
