"""Attach to operations inside modules for the length of one pass: a watch for each module that a block looks into."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Any

import torch

from loupe.graph.node import Event
from loupe.runtime.lookup import Modules
from loupe.runtime.ops_tap import OnOperation, OperationWatch, Show, run_shown, watching


class OperationTaps:
    """The taps of one pass that are at operations. `show` visits a moment, and gives what the model goes on with.

    `begun` tells how often a module has been called before its watch is put, `is_silent` whether a call of it is none
    of the pass. `keep` is told the tensor that the model changes in place, where the block has made something else of
    it at one of the events. In `watches` are those that are on just now.
    """

    def __init__(
        self,
        modules: Modules,
        show: Callable[[Event, Any], Any],
        begun: Callable[[str], int],
        is_silent: Callable[[str], bool],
        keep: Callable[[Iterable[Event], torch.Tensor], None],
        watches: list[OperationWatch],
    ) -> None:
        self._watches = watches
        self._modules = modules
        self._show = show
        self._begun = begun
        self._is_silent = is_silent
        self._keep = keep
        self._calls: dict[str, int] = {}
        self._watched: dict[str, set[Event]] = {}
        self._aliases: dict[Event, Event] = {}

    def stand_in(self, aliases: Iterable[tuple[Event, Event]]) -> None:
        """What passes at the first of two events is shown as if it passed at the second."""
        self._aliases.update(aliases)

    def is_watched(self, event: Event) -> bool:
        """Whether an operation is tapped."""
        return event in self._watched.get(event.path, ())

    def attach(self, event: Event) -> AbstractContextManager[None] | None:
        """Tap an operation; gives the watch that its module needs for it, where it has none yet."""
        if event.path in self._watched:
            self._watched[event.path].add(event)
            return None
        path = event.path
        self._watched[path] = {event}
        self._calls[path] = self._begun(path)
        return watching(self._modules(path), lambda: self._begin(path), self._watches)

    def _begin(self, path: str) -> OnOperation | None:
        """What a call of a module does at its operations; None where none of them is tapped."""
        if self._is_silent(path):
            return None
        wanted, aliases = self._watched[path], self._aliases
        call = self._calls.get(path, 0)
        self._calls[path] = call + 1
        if not any(event.call == call for event in wanted):
            return None

        def shown(event: Event) -> Show | None:
            return (lambda value: self._show(aliases.get(event, event), value)) if event in wanted else None

        def act(name: str, index: int, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
            begins, ends = Event(path, "in", call, name, index), Event(path, "out", call, name, index)
            return run_shown(
                function,
                args,
                kwargs,
                shown(begins),
                shown(ends),
                lambda tensor: self._keep([aliases.get(event, event) for event in (begins, ends)], tensor),
            )

        return act
