"""Pass values from the blocks of a session to later ones, by name, for as long as one that takes them has not run."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from loupe.errors import BlockError
from loupe.trace.proxy import Cell
from loupe.trace.recorder import Recorder


@dataclass(slots=True)
class Passed:
    """A value that blocks take from an earlier one; `takers` are those that have not run."""

    cell: Cell
    recorder: Recorder
    node: int
    takers: set[int] = field(default_factory=set)


class PassedValues:
    """The values that blocks of one session take from earlier ones."""

    def __init__(self) -> None:
        self._passed: dict[str, Passed] = {}

    def __getitem__(self, name: str) -> Passed:
        return self._passed[name]

    def take(self, name: str, passed: Passed, taker: Recorder) -> None:
        """A block takes a value under a name."""
        self._passed.setdefault(name, passed).takers.add(id(taker))

    def makers(self, taker: Recorder) -> list[Recorder]:
        """The blocks that make what a block takes."""
        return [self._passed[name].recorder for name in taker.arguments.given if name in self._passed]

    def value(self, name: str) -> Any:
        """The value under a name; the blocks before the one that takes it have run."""
        passed = self._passed[name]
        if not passed.cell.filled:
            raise BlockError(
                "a value of an earlier block of the session was not reached, so this block cannot use it",
                remedy="mend the block that should have made it",
                line=passed.recorder.graph[passed.node].line,
            )
        return passed.cell.value

    def known(self) -> list[Any]:
        """What blocks that wait take from blocks that have run."""
        return [passed.cell.value for passed in self._passed.values() if passed.cell.filled]

    def let_go(self, taker: Recorder) -> None:
        """A block has run: what nobody else takes is not kept for it any more."""
        for name in taker.arguments.given:
            passed = self._passed.get(name)
            if passed is not None:
                passed.takers.discard(id(taker))
                if not passed.takers:
                    del self._passed[name]

    def clear(self) -> None:
        """The session is over."""
        self._passed.clear()
