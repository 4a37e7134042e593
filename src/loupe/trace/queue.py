"""Run the blocks of a session that have ended: in their order, and together where they can be."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from loupe.graph.grouping import Candidate, group
from loupe.graph.merge import Alone, why_alone
from loupe.graph.structure import memory_of
from loupe.trace.between import RandomState, move_on, random_state, same_state, set_random_state
from loupe.trace.execution import Outcome
from loupe.trace.passed import PassedValues
from loupe.trace.recorder import Recorder


@dataclass(slots=True)
class Waiting:
    """A block that has ended and has not run.

    `random` is given where it does not go on from the block before it; `changes` says that it changes a value of an
    earlier block in place.
    """

    recorder: Recorder
    random: RandomState | None
    changes: bool


class Queue:
    """The blocks of a session that have ended and have not run, each with the random state in which it is to run.

    `most` is how many rows run together at the most.
    """

    def __init__(self, passed: PassedValues, most: int | None) -> None:
        self._passed = passed
        self._most = most
        self._waiting: list[Waiting] = []
        self._random: RandomState = []
        self._ran: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def __contains__(self, recorder: Recorder) -> bool:
        return self.place(lambda each: each is recorder) is not None

    def add(self, recorder: Recorder) -> None:
        """Take a block that has ended; what comes after it draws other random numbers."""
        now = random_state()
        follows = bool(self._waiting) and same_state(now, self._random)
        self._waiting.append(Waiting(recorder, None if follows else now, _changes_given(recorder)))
        self._random = move_on()

    def place(self, wanted: Callable[[Recorder], bool]) -> int | None:
        """The place of the first block of which this is true."""
        return next((place for place, each in enumerate(self._waiting) if wanted(each.recorder)), None)

    def needed_for(self, recorder: Recorder) -> int:
        """How many blocks have to run for the values of one: up to it, and to the last that changes earlier values."""
        places = [place for place, each in enumerate(self._waiting) if each.changes or each.recorder is recorder]
        return places[-1] + 1 if places else 0

    def state(self, recorder: Recorder) -> str:
        """What has become of a block, in words."""
        return "waits" if recorder in self else f"has run{self._ran.get(id(recorder), '')}"

    def run(self, count: int, *, keeps: bool) -> None:
        """Run the first blocks; `keeps` says that whatever the user still holds of them is kept."""
        for members, reason in self._groups(self._waiting[:count]):
            self._run_group(members, reason, keeps=keeps)

    def go_on(self, random: RandomState) -> None:
        """Blocks have run: the next goes on from here, the user's own random numbers from where they were."""
        if self._waiting:
            if self._waiting[0].random is None:
                self._waiting[0].random = random_state()
            set_random_state(random)
        elif not same_state(random, self._random):
            set_random_state(random)

    def abandon(self) -> None:
        """Give up the blocks that have not run."""
        if self._waiting and self._waiting[0].random and same_state(random_state(), self._random):
            set_random_state(self._waiting[0].random)
        for each in self._waiting:
            each.recorder.failed = True
            each.recorder.execution.abandon()
        self._waiting.clear()

    def _groups(self, waiting: Sequence[Waiting]) -> Iterator[tuple[list[Waiting], str | None]]:
        """The blocks that run together, in the order in which they do; and why one runs alone, where it has to."""
        if len(waiting) == 1:
            return iter([(list(waiting), None)])
        places = {id(each.recorder): place for place, each in enumerate(waiting)}
        found = group([self._candidate(each.recorder, places) for each in waiting])
        return (([waiting[place] for place in each.members], each.reason) for each in found)

    def _candidate(self, recorder: Recorder, places: Mapping[int, int]) -> Candidate:
        takes = [places[id(maker)] for maker in self._passed.makers(recorder) if id(maker) in places]
        alone = why_alone(recorder.graph, memory_of(recorder.graph))
        kind = None if alone is not None else recorder.kind()
        if alone is None and kind is None:
            alone = Alone("its run is of a kind of its own", keeps_order=True)
        return Candidate(kind, takes, alone)

    def _run_group(self, members: Sequence[Waiting], reason: str | None, *, keeps: bool) -> None:
        for each in members:
            if keeps:
                each.recorder.keep_handles()
        outcomes: Sequence[Outcome | None] = [None] * len(members)
        if len(members) > 1:
            first = members[0].recorder
            with first.modes.as_opened():
                runs = [each.recorder.execution for each in members]
                outcomes, reason = first.execution.together(runs, self._most)
        others = f"{len(members) - 1} other{'' if len(members) == 2 else 's'}"
        for each, outcome in zip(members, outcomes, strict=True):
            self._waiting.remove(each)
            if outcome is not None:
                self._ran[id(each.recorder)] = f", with {others}"
            elif reason is not None:
                self._ran[id(each.recorder)] = f" alone: {reason}"
            if each.random is not None:
                set_random_state(each.random)
            self._deliver(each.recorder, outcome)

    def _deliver(self, recorder: Recorder, outcome: Outcome | None) -> None:
        """Give a block what its run has given; run it now where it has not."""
        try:
            if outcome is None:
                with recorder.modes.as_opened():
                    outcome = recorder.execution.finish()
        except BaseException:
            recorder.failed = True
            recorder.execution.abandon()
            raise
        finally:
            self._passed.let_go(recorder)
        recorder.kept.fill(outcome.results)
        recorder.kept.let_go()
        if outcome.error is not None:
            raise outcome.error


def _changes_given(recorder: Recorder) -> bool:
    graph = recorder.graph
    if not recorder.arguments.given:
        return False
    changed = (root for roots in memory_of(graph).mutates.values() for root in roots)
    return any(kind == "node" and graph[index].kind == "given" for kind, index in changed)
