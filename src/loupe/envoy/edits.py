"""Record what a model does differently from now on, and put it into every block that is opened on it."""

from __future__ import annotations

from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn

from loupe.errors import BlockError, Line
from loupe.graph.compose import append
from loupe.graph.graph import Graph
from loupe.graph.node import Node, Site, Steps, is_within
from loupe.graph.passes import trace_memory
from loupe.runtime.local import LocalRun
from loupe.trace.mount import mount, unmount
from loupe.trace.recorder import Recorder

if TYPE_CHECKING:
    from loupe.envoy.model import Root

_REFUSED = {
    "save": ("a value is saved in an edit, which runs in blocks to come", "save it in a trace of the edited model"),
    "cache": ("a cache stands in an edit, which runs in blocks to come", "open it in a trace of the edited model"),
    "stop": ("an edit stops the pass", "stop in a trace of the edited model"),
    "backward": ("an edit runs a backward pass", "run it in a trace of the edited model"),
}


class EditBlock:
    """A block that is recorded and not run: `with model.edit() as edited:`."""

    def __init__(self, model: Root, line: Line, *, inplace: bool) -> None:
        self._model = model if inplace else model.copy()
        self._recorder = Recorder(self._model, Unrun(model, line), Graph(), line)
        self._recorder.parameters = {}

    def __enter__(self) -> Any:
        self._recorder.begin()
        mount()
        return self._model

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        recorder = self._recorder
        unmount()
        if kind is not None:
            recorder.end()
            recorder.failed = True
            return
        try:
            _set_changed_parameters(recorder, self._model)
        finally:
            recorder.end()
        for node in recorder.graph:
            if node.kind in _REFUSED:
                fact, remedy = _REFUSED[node.kind]
                raise BlockError(fact, remedy=remedy, line=node.line)
        self._model.edits.append(recorder.graph)


class Unrun:
    """Answers for a block that has no prompt: what needs a value, a shape or a run is refused."""

    describes = False

    def __init__(self, model: Root, line: Line) -> None:
        self._line = line
        self._example: LocalRun | None = None
        if model.example is not None:
            self._example = model.local_run(Graph())
            self._example.add_input(model.example.args, model.example.kwargs, line)

    def is_tensor(self, site: Site) -> bool:
        """Whether the value at a site is a tensor, by a scan with an example where the model has one."""
        return self._example is None or self._example.is_tensor(site)

    def begun(self) -> bool:
        """Nothing runs."""
        return False

    def steps(self) -> int:
        """An edit is about every step."""
        return 1

    def calls_each(self, path: str) -> int:
        """An edit is about every step."""
        return 1

    def finish(self) -> NoReturn:
        """Nothing runs."""
        self._refuse("is run", "open a trace of the edited model")

    def abandon(self) -> None:
        """Nothing runs."""

    def peek(self, node: int) -> NoReturn:
        """Refused: there is no value."""
        self._refuse(
            "needs a value, and has no prompt", "compute with the values as they are, without if, float, print"
        )

    def describe(self, node: int) -> NoReturn:
        """Refused: shapes depend on prompts to come."""
        self._refuse(
            "needs a shape, which depends on prompts to come", "use sizes of model.config, or negative indices"
        )

    def device(self, node: int) -> NoReturn:
        """Refused: there is no value."""
        self._refuse("asks for a device", "pass tensors as they are: constants are moved to the device by themselves")

    def add_input(self, args: tuple[Any, ...], kwargs: dict[str, Any], line: Line) -> NoReturn:
        """Refused: an edit is about every prompt to come."""
        self._refuse("has a prompt", "write what the edited model does, and trace it with prompts")

    def collect_weights(self) -> None:
        """Nothing runs."""

    def generate(self, options: dict[str, Any]) -> NoReturn:
        """Refused: nothing runs."""
        self._refuse("generates", "call generate on the edited model after the block")

    def operations(self, path: str, call: int) -> NoReturn:
        """Refused: nothing runs."""
        self._refuse("lists operations", "list them in a trace, and name them here")

    def _refuse(self, what: str, remedy: str) -> NoReturn:
        raise BlockError(f"an edit {what}", remedy=remedy, line=self._line)


def put_edits(graph: Graph, edits: list[Graph], prefix: str) -> None:
    """Put edits at the start of a block's graph, at every step; those about modules outside `prefix` are left out."""
    for number, edit in enumerate(edits):
        if prefix and not all(is_within(site.path, (prefix,)) for site in edit.sites):
            continue
        first = len(graph)
        stepwise = edit.users_of([node.id for node in edit if node.kind in ("read", "write")])
        steps = Steps(-1 - number, 0, None)

        def at_every_step(node: Node, steps: Steps = steps, first: int = first, stepwise: set[int] = stepwise) -> Node:
            return replace(node, steps=steps) if node.id - first in stepwise else node

        append(graph, edit, at_every_step)


def _set_changed_parameters(recorder: Recorder, model: Root) -> None:
    """Let the model run with the copies of parameters that the block has changed in place."""
    memory = trace_memory(recorder.graph)
    changed = {index for roots in memory.mutates.values() for kind, index in roots if kind == "node"}
    for path, copy in list((recorder.parameters or {}).items()):
        if copy._ref.node in changed:
            for shared in model.tied_to(path):
                recorder.set_parameter(shared, copy)
