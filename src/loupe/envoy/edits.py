"""Record what a model does differently from now on, and put it into every block that is opened on it."""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn

from loupe.envoy.fitting import check_fit
from loupe.errors import BlockError, InputError, Line, nearest
from loupe.files.intervention import InterventionGraph
from loupe.graph.compose import append, bind, select, with_own_constants
from loupe.graph.graph import Graph
from loupe.graph.node import RESULT, Node, Site, Steps, is_within
from loupe.graph.opset import TRACKING
from loupe.graph.passes import needed, trace_memory
from loupe.runtime.local import LocalRun
from loupe.trace.handles import unwrap
from loupe.trace.mount import mount, unmount
from loupe.trace.parameters import Parameters
from loupe.trace.recorder import Recorder
from loupe.trace.source import user_line

if TYPE_CHECKING:
    from loupe.envoy.model import Root

_REFUSED = {
    "save": ("a value is saved in an edit, which runs in blocks to come", "save it in a trace of the edited model"),
    "cache": ("a cache stands in an edit, which runs in blocks to come", "open it in a trace of the edited model"),
    "stop": ("an edit stops the pass", "stop in a trace of the edited model"),
    "backward": ("an edit runs a backward pass", "run it in a trace of the edited model"),
    "gradient": ("an edit is about a gradient", "read or write it in a trace of the edited model"),
    "result": ("an edit is about the result of a run", "write edited.output, or take the result as it comes"),
}


class EditBlock:
    """A block that is recorded and not run: `with model.edit() as edited:`."""

    def __init__(self, model: Root, line: Line, *, inplace: bool) -> None:
        self._model = model if inplace else model.copy()
        self._recorder = Recorder(self._model, Unrun(model, line), InterventionGraph(), line)
        self._recorder.parameters = Parameters(self._recorder, model.tied_to)

    def __enter__(self) -> Any:
        self._recorder.begin()
        self._recorder.watch()
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
        assert recorder.parameters is not None
        try:
            recorder.parameters.finish()
        finally:
            recorder.end()
        for node in recorder.graph:
            what = _refusal(node)
            if what is not None:
                fact, remedy = _REFUSED[what]
                raise BlockError(fact, remedy=remedy, line=node.line)
        if recorder.scope.shifts:
            raise BlockError(
                "an edit moves on to the next step of a generation",
                remedy="write what the model does at every step; name steps in a generation of the edited model",
                line=recorder.line,
            )
        self._model.edits.append(recorder.with_origin())


def edit_with(model: Root, graph: Graph, named: Mapping[str, Any], line: Line, *, inplace: bool) -> Root:
    """The model, or a copy of it, that does from now on what a graph does to it; its saves are left out.

    A graph that was recorded on an edited model brings that model's edits along; they take the place of this one's.
    Raises BlockError for a graph that is about single prompts or steps, runs a backward pass, or changes nothing.
    """
    unknown = [name for name in named if name not in graph.parameters]
    if unknown:
        raise InputError(
            f"the graph leaves no {unknown[0]!r} open", remedy=nearest(unknown[0], list(graph.parameters)), line=line
        )
    check_fit(model, graph)
    bound = bind(graph, {name: unwrap(value) for name, value in named.items()})
    bound.nodes = [*map(_as_edited, bound.nodes[: graph.edited]), *bound.nodes[graph.edited :]]
    part = with_own_constants(select(bound, needed(bound, trace_memory(bound), ())))
    for node in part:
        what = _refusal(node)
        fact = _REFUSED[what][0] if what is not None else ""
        if node.kind == "given":
            fact = f"the open parameter {node.target!r} has no value"
        elif node.invoke is not None or node.steps is not None:
            fact = f"the graph is about single {'prompts' if node.invoke is not None else 'steps'}"
        if fact:
            remedy = "run the graph with model.run, or give every open parameter a value"
            raise BlockError(f"{fact}, so it cannot be an edit", remedy=remedy, line=node.line or line)
    if not len(part):
        raise BlockError(
            "the graph changes nothing in the model, so there is nothing to edit",
            remedy="run it with model.run: it reads, and saves",
            line=line,
        )
    edited = model if inplace else model.copy()
    if graph.edited:
        edited.clear_edits()
    edited.edits.append(part)
    return edited


def _as_edited(node: Node) -> Node:
    """A node of an edit as it stands in the edit itself: a block has it at every step."""
    return node if node.steps is None else replace(node, steps=None)


def _refusal(node: Node) -> str | None:
    """What a node of an edit is refused as; None where it may stand there."""
    if node.kind in ("read", "write"):
        return "gradient" if node.gradient_of is not None else "result" if node.site.path == RESULT else None
    if node.kind == "apply" and node.target in TRACKING:
        return "gradient"
    return node.kind if node.kind in _REFUSED else None


class Unrun:
    """Answers for a block that has no prompt: what needs a value, a shape or a run is refused."""

    describes = False

    def __init__(self, model: Root, line: Line) -> None:
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
        """An edit names the calls of a module as they are."""
        return 1

    def finish(self) -> NoReturn:
        """Nothing runs."""
        raise _refused("is run", "open a trace of the edited model")

    def kind(self) -> None:
        """Nothing runs."""

    def together(self, runs: Sequence[Any], most: int | None) -> NoReturn:
        """Nothing runs."""
        raise _refused("is run", "open a trace of the edited model")

    def abandon(self) -> None:
        """Nothing runs."""

    def peek(self, node: int) -> NoReturn:
        """Refused: there is no value."""
        raise _refused(
            "needs a value, and has no prompt", "compute with the values as they are, without if, float, print"
        )

    def describe(self, node: int) -> NoReturn:
        """Refused: shapes depend on prompts to come."""
        raise _refused(
            "needs a shape or dtype, which depends on prompts to come",
            "use sizes of model.config, negative indices, torch.zeros_like(x), and x[0] in place of unpacking",
        )

    def device(self, node: int) -> NoReturn:
        """Refused: there is no value."""
        raise _refused("asks for a device", "pass tensors as they are: constants are moved to the device by themselves")

    def collect_weights(self) -> NoReturn:
        """Refused: nothing runs."""
        raise _refused("collects gradients", "ask for them in a trace of the edited model")

    def add_input(self, args: tuple[Any, ...], kwargs: dict[str, Any], line: Line) -> NoReturn:
        """Refused: an edit is about every prompt to come."""
        raise _refused("has a prompt", "write what the edited model does, and trace it with prompts")

    def generate(self, options: dict[str, Any]) -> NoReturn:
        """Refused: nothing runs."""
        raise _refused("generates", "call generate on the edited model after the block")

    def operations(self, path: str, call: int) -> NoReturn:
        """Refused: nothing runs."""
        raise _refused("lists operations", "list them in a trace, and name them here")


def put_edits(graph: Graph, edits: list[Graph], prefix: str, attached: Collection[str]) -> None:
    """Put edits at the start of a block's graph, at every step.

    Of a block on one module alone, at `prefix`, only what is about that module and those in it; `attached` modules are
    called by the edits themselves. Raises BlockError where such an edit needs what passes elsewhere.
    """
    for number, edit in enumerate(edits):
        part = edit if not prefix else _inside(edit, prefix, attached)
        first = len(graph)
        stepwise = part.users_of([node.id for node in part if node.kind in ("read", "write")])
        steps = Steps(-1 - number, 0, None)

        def at_every_step(node: Node, steps: Steps = steps, first: int = first, stepwise: set[int] = stepwise) -> Node:
            return replace(node, steps=steps) if node.id - first in stepwise else node

        append(graph, part, at_every_step)


def _inside(edit: Graph, prefix: str, attached: Collection[str]) -> Graph:
    """What an edit does inside one module: its writes there and what they need; parameters that are set."""
    memory = trace_memory(edit)
    changed = {node: [edit[root] for kind, root in roots if kind == "node"] for node, roots in memory.mutates.items()}

    def needs(node: Node) -> set[int]:
        found: set[int] = set()
        stack = [node.id]
        while stack:
            each = stack.pop()
            if each not in found:
                found.add(each)
                stack += [*edit[each].refs(), *memory.after.get(each, ())]
        return found

    def is_inside(node: Node, places: Collection[str] = (prefix, *attached)) -> bool:
        return node.kind not in ("read", "write") or is_within(node.site.path, places)

    kept: set[int] = set()
    for node in edit:
        about = [each for each in (node, *changed.get(node.id, ())) if each.kind in ("read", "write")]
        if not about and node.kind not in ("set_parameter", "call") and node.id not in changed:
            continue
        needed = needs(node)
        outside = next((edit[each] for each in sorted(needed) if not is_inside(edit[each])), None)
        if outside is None:
            kept |= needed
        elif about and all(map(is_inside, about)) and node.kind != "read":
            raise BlockError(
                f"{prefix} cannot be run alone: the edit at {node.line} needs {outside.site}, which lies elsewhere",
                remedy="trace the whole edited model, or this module of the model that is not edited",
                line=outside.line,
            )
    called = {edit[each].target for each in kept if edit[each].kind == "call"}
    unmet = [each for each in kept if not is_inside(edit[each], (prefix, *called))]
    return select(edit, kept - edit.users_of(unmet))


def _refused(what: str, remedy: str) -> BlockError:
    return BlockError(f"an edit {what}", remedy=remedy, line=user_line(sys._getframe(2)))
