"""Group blocks: what one computes may be used in the next without saving, and they run when the session ends."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import torch

from loupe.errors import BlockError, Line
from loupe.files.intervention import InterventionGraph, InterventionSession
from loupe.graph.compose import select
from loupe.graph.grouping import Candidate, group
from loupe.graph.merge import Alone, why_alone
from loupe.graph.structure import memory_of
from loupe.trace.between import Between, RandomState, move_on, random_state, same_state, set_random_state
from loupe.trace.containers import find_proxies, replace_proxies
from loupe.trace.execution import Outcome
from loupe.trace.mount import mount, unmount
from loupe.trace.proxy import Cell, Proxy, settle
from loupe.trace.recorder import Recorder
from loupe.trace.stacks import open_recorders, open_sessions


@dataclass(slots=True)
class Passed:
    """A value that blocks take from an earlier one; `takers` are those that have not run."""

    cell: Cell
    recorder: Recorder
    node: int
    takers: set[int] = field(default_factory=set)


@dataclass(slots=True)
class Waiting:
    """A block that has ended and has not run.

    `random` is given where it does not go on from the block before it; `changes` says that it changes a value of an
    earlier block in place.
    """

    recorder: Recorder
    random: RandomState | None
    changes: bool


class Session:
    """Several blocks on one model, which run together when the session ends.

    >>> with model.session():
    ...     with model.trace("The Eiffel Tower is in"):
    ...         hidden = model.transformer.h[4].output[0]             # not saved, used in the next block
    ...     with model.trace("The Colosseum is in"):
    ...         model.transformer.h[4].output[0][:] = hidden
    ...         logits = model.output.save()

    A value that Python needs between the blocks (`if`, `float`, `print`) lets the blocks up to its own run at once, and
    so does a line that changes a tensor which a block uses, or draws random numbers: each block computes what it
    would alone. A list or dict saved in the session takes values of all its blocks. `print(session)` lists the blocks.
    `key` tells whose blocks belong to it: those of a model and of its edited copies; `weights` gives its tensors.
    """

    def __init__(
        self,
        key: object,
        line: Line,
        weights: Callable[[], Iterable[torch.Tensor]],
        batch_size: int | None = None,
    ) -> None:
        self.key = key
        self.line = line
        self.containers: list[Any] = []
        self._between = Between(self.run_waiting, weights, self._known_values)
        self._blocks: list[Recorder] = []
        self._places: dict[int, int] = {}
        self._waiting: list[Waiting] = []
        self._passed: dict[str, Passed] = {}
        self._random: RandomState = []
        self._running = False
        self._over = False
        self._most = batch_size
        self._ran: dict[int, str] = {}

    # -- the blocks ----------------------------------------------------------------------------------------------------

    def open_recorder(self) -> Recorder | None:
        """The block of this session that is open in this thread."""
        return next((each for each in reversed(open_recorders()) if each.session is self), None)

    def add(self, recorder: Recorder) -> None:
        """Take a block that has ended; one whose pass stands still already is run at once, to let go of the model."""
        self._places[id(recorder)] = len(self._blocks)
        self._blocks.append(recorder)
        now = random_state()
        follows = bool(self._waiting) and same_state(now, self._random)
        self._waiting.append(Waiting(recorder, None if follows else now, _changes_given(recorder)))
        self._random = move_on()
        self._between.note(recorder)
        if recorder.execution.begun():
            self.run_waiting()

    def before(self, run: object) -> None:
        """A run is about to begin: the blocks that stand before it run first."""
        if not self._running:
            places = [place for place, each in enumerate(self._waiting) if each.recorder.execution is run]
            self.run_waiting(places[0] if places else None)

    def run_waiting(self, count: int | None = None) -> None:
        """Run the blocks that wait, or the first ones; whatever the user still holds of them is kept."""
        count = len(self._waiting) if count is None else count
        if not count:
            return
        now = random_state()
        with self._apart():
            for members, reason in self._groups(self._waiting[:count]):
                self._run_group(members, reason)
        if self._waiting:  # the next goes on from here, the user's own random numbers from where they were
            if self._waiting[0].random is None:
                self._waiting[0].random = random_state()
            set_random_state(now)
        elif not same_state(now, self._random):
            set_random_state(now)

    def _groups(self, waiting: Sequence[Waiting]) -> Iterator[tuple[list[Waiting], str | None]]:
        """The blocks that run together, in the order in which they do; and why one runs alone, where it has to."""
        if len(waiting) == 1:
            return iter([(list(waiting), None)])
        places = {id(each.recorder): place for place, each in enumerate(waiting)}
        found = group([self._candidate(each.recorder, places) for each in waiting])
        return (([waiting[place] for place in each.members], each.reason) for each in found)

    def _candidate(self, recorder: Recorder, places: Mapping[int, int]) -> Candidate:
        makers = (self._passed[name].recorder for name in recorder.arguments.given if name in self._passed)
        takes = [places[id(maker)] for maker in makers if id(maker) in places]
        alone = why_alone(recorder.graph, memory_of(recorder.graph))
        kind = None if alone is not None else recorder.kind()
        if alone is None and kind is None:
            alone = Alone("its run is of a kind of its own", keeps_order=True)
        return Candidate(kind, takes, alone)

    def _run_group(self, members: Sequence[Waiting], reason: str | None) -> None:
        for each in members:
            if not self._over:
                each.recorder.keep_handles()
        outcomes: Sequence[Outcome | None] = [None] * len(members)
        if len(members) > 1:
            first = members[0].recorder
            with first.modes.as_opened():
                runs = [each.recorder.execution for each in members]
                outcomes, reason = first.execution.together(runs, self._most)
        for each, outcome in zip(members, outcomes, strict=True):
            self._waiting.remove(each)
            if outcome is not None:
                self._ran[id(each.recorder)] = f", with {len(members) - 1} others"
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
            self._let_go(recorder)
        recorder.kept.fill(outcome.results)
        recorder.kept.let_go()
        if outcome.error is not None:
            raise outcome.error

    @contextmanager
    def _apart(self) -> Generator[None]:
        """What runs now is no line of a block that is open."""
        inside = [each for each in open_recorders() if not each.aside]
        waits, self._between.waits, self._running = self._between.waits, False, True
        for each in inside:
            each.aside = True
        try:
            yield
        finally:
            for each in inside:
                each.aside = False
            self._between.waits, self._running = waits, False
            if not self._waiting:
                self._between.forget()

    def waits_for(self, recorder: Recorder) -> bool:
        """Whether a block has ended and has not run."""
        return self._place(recorder) is not None

    def _place(self, recorder: Recorder) -> int | None:
        """The place of a block among those that wait."""
        return next((place for place, each in enumerate(self._waiting) if each.recorder is recorder), None)

    @property
    def graphs(self) -> InterventionSession:
        """The graphs of the blocks so far, in order: to be saved, and run again with other inputs.

        >>> session.graphs.save("patch.loupe")
        """
        graphs: list[InterventionGraph] = []
        for recorder in self._blocks:
            graph = InterventionGraph()
            graph.__dict__.update(recorder.with_origin().__dict__)
            graphs.append(graph)
        taken = {node.target for graph in graphs for node in graph if node.kind == "given"}
        for place, (graph, recorder) in enumerate(zip(graphs, self._blocks, strict=True)):
            dropped = {name for name in recorder.kept.for_session if f"block{place}.{name}" not in taken}
            if dropped:
                kept = [node.id for node in graph if node.kind != "save" or node.target not in dropped]
                graph.nodes = select(graph, kept).nodes
                graph.looks = [(kept.index(node), line) for node, line in graph.looks]
        return InterventionSession(graphs)

    # -- values --------------------------------------------------------------------------------------------------------

    def settle(self, recorder: Recorder) -> bool:
        """Let a block run, if it waits, and those that change values of earlier ones; returns whether one did."""
        places = [place for place, each in enumerate(self._waiting) if each.changes or each.recorder is recorder]
        if not places or self._running:
            return False
        self.run_waiting(places[-1] + 1)
        return True

    def save(self, proxy: Proxy) -> bool:
        """Keep a value of a block that has ended past the session; returns whether it is there or comes."""
        recorder, cell = proxy._recorder, proxy._cell
        if self.waits_for(recorder):
            recorder.kept.for_session.discard(recorder.keep(proxy).name)
        elif cell is None or not cell.filled:
            return False
        elif cell.name in recorder.kept.for_session:
            recorder.kept.for_session.discard(cell.name)
            settle(proxy)
        return True

    def name_of(self, proxy: Proxy, taker: Recorder) -> str | None:
        """The name under which a later block gets an unsaved value; None for one that is no longer the session's."""
        recorder, cell = proxy._recorder, proxy._cell
        if self.waits_for(recorder):
            cell = recorder.keep(proxy)
        elif cell is None or not cell.filled or cell.name not in recorder.kept.for_session:
            return None
        name = f"block{self._places[id(recorder)]}.{cell.name}"
        passed = self._passed.setdefault(name, Passed(cell, recorder, proxy._ref.node))
        passed.takers.add(id(taker))
        return name

    def value(self, name: str) -> Any:
        """The value that a block gets under a name; the blocks before it have run."""
        passed = self._passed[name]
        if not passed.cell.filled:
            raise BlockError(
                "a value of an earlier block of the session was not reached, so this block cannot use it",
                remedy="mend the block that should have made it",
                line=passed.recorder.graph[passed.node].line,
            )
        return passed.cell.value

    def describe(self, name: str) -> Any:
        """The value that a block gets under a name, without data."""
        passed = self._passed[name]
        return self._described(passed.cell, passed.recorder, passed.node)

    def described(self, proxy: Proxy) -> Any:
        """A value of a block that has ended, without data where that can be had without a run."""
        return self._described(proxy._cell, proxy._recorder, proxy._ref.node)

    def _described(self, cell: Cell | None, recorder: Recorder, node: int) -> Any:
        if cell is not None and cell.filled:
            return cell.value
        found = recorder.execution.describe(node)
        if recorder.execution.begun():  # only a run could tell
            self.settle(recorder)
        return found

    def _known_values(self) -> list[Any]:
        """What blocks that wait take from blocks that have run."""
        return [passed.cell.value for passed in self._passed.values() if passed.cell.filled]

    def _let_go(self, recorder: Recorder) -> None:
        """A block has run: what nobody else takes is not kept for it any more."""
        for name in recorder.arguments.given:
            passed = self._passed.get(name)
            if passed is not None:
                passed.takers.discard(id(recorder))
                if not passed.takers:
                    del self._passed[name]

    def _save_containers(self) -> None:
        found: list[Proxy] = []
        for container in self.containers:
            find_proxies(container, lambda proxy: proxy._recorder.session is self, found)
        for proxy in found:
            self.save(proxy)

    # -- the session's life --------------------------------------------------------------------------------------------

    def __enter__(self) -> Session:
        if self._over:
            raise BlockError("a session is opened again", remedy="open a new one: model.session()", line=self.line)
        if any(each.key is self.key for each in open_sessions()):
            raise BlockError(
                "a session is already open on this model in this thread", remedy="end it first", line=self.line
            )
        if any(recorder.session is None and recorder.open for recorder in open_recorders()):
            raise BlockError(
                "a session is opened inside a block", remedy="open the session first, and blocks in it", line=self.line
            )
        open_sessions().append(self)
        mount()
        self._between.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._between.__exit__(kind, error, traceback)
        unmount()
        open_sessions().remove(self)
        self._over = True
        try:
            if kind is None:
                self._save_containers()
                self.run_waiting()
                for container in self.containers:
                    replace_proxies(container, lambda proxy: proxy._recorder.session is self)
        finally:
            if self._waiting and self._waiting[0].random and same_state(random_state(), self._random):
                set_random_state(self._waiting[0].random)
            for each in self._waiting:
                each.recorder.failed = True
                each.recorder.execution.abandon()
            for recorder in self._blocks:
                recorder.kept.forget()
                recorder.session = None
            self._waiting.clear()
            self._passed.clear()
            self.containers.clear()
            self._between.forget()

    def __str__(self) -> str:
        rows = []
        for place, recorder in enumerate(self._blocks):
            state = "waits" if self.waits_for(recorder) else f"has run{self._ran.get(id(recorder), '')}"
            rows.append(f"block {place}, {state}: {len(recorder.graph)} nodes  # {recorder.line}")
        return "\n".join(rows) or "(empty session)"


def _changes_given(recorder: Recorder) -> bool:
    graph = recorder.graph
    if not recorder.arguments.given:
        return False
    changed = (root for roots in memory_of(graph).mutates.values() for root in roots)
    return any(kind == "node" and graph[index].kind == "given" for kind, index in changed)
