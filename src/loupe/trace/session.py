"""Group blocks: what one computes may be used in the next without saving, and they run when the session ends."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from types import TracebackType
from typing import Any

import torch

from loupe.errors import BlockError, Line
from loupe.files.intervention import InterventionGraph, InterventionSession
from loupe.graph.compose import select
from loupe.trace.between import Between, random_state
from loupe.trace.containers import find_proxies, replace_proxies
from loupe.trace.mount import mount, unmount
from loupe.trace.passed import Passed, PassedValues
from loupe.trace.proxy import Cell, Proxy, settle
from loupe.trace.queue import Queue
from loupe.trace.recorder import Recorder
from loupe.trace.stacks import open_recorders, open_sessions


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
        self._blocks: list[Recorder] = []
        self._places: dict[int, int] = {}
        self._passed = PassedValues()
        self._queue = Queue(self._passed, batch_size)
        self._between = Between(self.run_waiting, weights, self._passed.known)
        self._running = False
        self._over = False

    # -- the blocks ----------------------------------------------------------------------------------------------------

    def open_recorder(self) -> Recorder | None:
        """The block of this session that is open in this thread."""
        return next((each for each in reversed(open_recorders()) if each.session is self), None)

    def add(self, recorder: Recorder) -> None:
        """Take a block that has ended; one whose pass stands still already is run at once, to let go of the model."""
        self._places[id(recorder)] = len(self._blocks)
        self._blocks.append(recorder)
        self._queue.add(recorder)
        self._between.note(recorder)
        if recorder.execution.begun():
            self.run_waiting()

    def before(self, run: object) -> None:
        """A run is about to begin: the blocks that stand before it run first."""
        if not self._running:
            self.run_waiting(self._queue.place(lambda recorder: recorder.execution is run))

    def run_waiting(self, count: int | None = None) -> None:
        """Run the blocks that wait, or the first ones; whatever the user still holds of them is kept."""
        count = len(self._queue) if count is None else count
        if not count:
            return
        now = random_state()
        with self._apart():
            self._queue.run(count, keeps=not self._over)
        self._queue.go_on(now)

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
            if not self._queue:
                self._between.forget()

    def waits_for(self, recorder: Recorder) -> bool:
        """Whether a block has ended and has not run."""
        return recorder in self._queue

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
        count = self._queue.needed_for(recorder)
        if not count or self._running:
            return False
        self.run_waiting(count)
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
        self._passed.take(name, Passed(cell, recorder, proxy._ref.node), taker)
        return name

    def value(self, name: str) -> Any:
        """The value that a block gets under a name; the blocks before it have run."""
        return self._passed.value(name)

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
            self._queue.abandon()
            for recorder in self._blocks:
                recorder.kept.forget()
                recorder.session = None
            self._passed.clear()
            self.containers.clear()
            self._between.forget()

    def __str__(self) -> str:
        rows = []
        for place, recorder in enumerate(self._blocks):
            rows.append(f"block {place}, {self._queue.state(recorder)}: {len(recorder.graph)} nodes  # {recorder.line}")
        return "\n".join(rows) or "(empty session)"
