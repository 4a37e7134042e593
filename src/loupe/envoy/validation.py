"""Say before a run what would go wrong in it, and how much memory it takes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from loupe.envoy.fitting import unfit
from loupe.envoy.running import Earlier, check_parameters, give_inputs, number_of_inputs, prepared
from loupe.errors import GraphError, Line, LoupeError, OperationError
from loupe.files.intervention import InterventionSession
from loupe.graph.compose import select
from loupe.graph.graph import Graph
from loupe.graph.portable import why_not_portable
from loupe.ops.table import function_of
from loupe.runtime.alike import SameDtypes
from loupe.runtime.estimate import Estimate, measured, size_of
from loupe.runtime.given import Opened
from loupe.runtime.tensors import tensors_in

if TYPE_CHECKING:
    from loupe.envoy.model import Root

Weight = Literal["error", "local", "note"]
_HEADINGS: dict[Weight, str] = {"error": "fails", "local": "runs in this process only", "note": "mind"}
_TRIES = 50  # errors of shape and dtype that one look finds


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was found: an error, what keeps the graph from being stored or sent, or what is good to know."""

    weight: Weight
    fact: str
    remedy: str
    line: Line | None = None

    def __str__(self) -> str:
        where = f"\n  at {self.line}" if self.line else ""
        return f"{_HEADINGS[self.weight]}: {self.fact}{where}\n  {self.remedy}"


@dataclass(frozen=True, slots=True)
class Report:
    """What was found about a graph and a model; true where the graph can run.

    `estimate` is the memory that a run takes, None where the graph could not be tried; `devices` are where the model's
    weights lie.
    """

    findings: tuple[Finding, ...]
    estimate: Estimate | None
    devices: tuple[str, ...]

    @property
    def errors(self) -> list[Finding]:
        """What keeps the graph from running."""
        return [found for found in self.findings if found.weight == "error"]

    @property
    def portable(self) -> bool:
        """Whether the graph can be stored and sent."""
        return not any(found.weight == "local" for found in self.findings)

    def __bool__(self) -> bool:
        return not self.errors

    def check(self) -> None:
        """Raise GraphError with the first error, where there is one."""
        for found in self.errors:
            raise GraphError(found.fact, remedy=found.remedy, line=found.line)

    def __str__(self) -> str:
        rows = [str(found) for found in self.findings]
        rows.insert(0, "the graph can run" if self else f"the graph cannot run: {_count(len(self.errors), 'error')}")
        if self.estimate is not None:
            rows.append(f"memory: {self.estimate}")
        if self.devices:
            rows.append(f"weights on {', '.join(self.devices)}")
        return "\n".join(rows)


def validate(model: Root, graph: Any, inputs: Sequence[Any], named: Mapping[str, Any], line: Line) -> Report:
    """Look at a graph and a model without a run; see `InterventionGraph.validate`."""
    if isinstance(graph, InterventionSession):
        return _of_session(model, graph, inputs, named, line)
    findings, estimate, _ = _found(model, graph, inputs, named, line, None)
    return _report(model, findings, estimate)


def _report(model: Root, findings: Sequence[Finding], estimate: Estimate | None) -> Report:
    devices = dict.fromkeys(str(parameter.device) for parameter in model._model.parameters())
    return Report(tuple(findings), estimate, tuple(name for name in devices if name != "meta"))


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _of_session(
    model: Root, session: InterventionSession, inputs: Sequence[Any], named: Mapping[str, Any], line: Line
) -> Report:
    """Look at the blocks of a session one after the other; each takes its inputs, and values of those before it."""
    if inputs and len(inputs) != session.inputs:
        raise number_of_inputs("session", session.inputs, len(inputs), line)
    earlier, start = Earlier(), 0
    findings: list[Finding] = []
    estimates: list[Estimate | None] = []
    for place, graph in enumerate(session):
        own = {name: value for name, value in named.items() if name in graph.parameters}
        found, estimate, results = _found(model, graph, inputs[start : start + graph.inputs], own, line, earlier)
        findings += [replace(each, fact=f"block {place}: {each.fact}") for each in found]
        estimates.append(estimate)
        start += graph.inputs
        earlier.values.update({f"block{place}.{name}": value for name, value in results.items()})
    known = [each for each in estimates if each is not None]
    return _report(model, findings, max(known, key=lambda each: each.total) if len(known) == len(session) else None)


def _found(
    model: Root,
    graph: Graph,
    inputs: Sequence[Any],
    named: Mapping[str, Any],
    line: Line,
    earlier: Earlier | None,
) -> tuple[list[Finding], Estimate | None, dict[str, Any]]:
    """What is found about one graph, the memory of its run, and what it would save, without data."""
    findings = [*_missing(model, graph), *_operations(graph), *_baked_in(graph)]
    if any(found.weight == "error" for found in findings):
        return findings, None, {}
    tried, estimate, results = _tried(model, graph, inputs, named, line, earlier)
    return [*findings, *tried], estimate, results


def _missing(model: Root, graph: Graph) -> Iterator[Finding]:
    for each in unfit(model, graph):
        yield Finding("error", f"no {each.what} {each.path!r} in the model", each.remedy, each.line)


def _operations(graph: Graph) -> Iterator[Finding]:
    """Operations that the installed torch lacks, and those that cannot leave the process."""
    for node in graph:
        if node.kind != "apply":
            continue
        wrong = why_not_portable(node)
        if wrong is not None:
            yield Finding("local", wrong[0], wrong[1], node.line)
        if node.target not in graph.functions:
            try:
                function_of(node.target)
            except GraphError as error:
                yield Finding("error", error.fact, error.remedy, node.line)


def _baked_in(graph: Graph) -> Iterator[Finding]:
    for node, line in graph.looks:
        yield Finding(
            "note",
            f"Python looked at the value of %{node} ({graph.node_text(graph[node])}), and what it did then is fixed",
            "with another prompt or parameter the block might have gone another way: compute with torch.where, or "
            "record the block anew",
            line,
        )


def _tried(
    model: Root,
    graph: Graph,
    inputs: Sequence[Any],
    named: Mapping[str, Any],
    line: Line,
    earlier: Earlier | None,
) -> tuple[list[Finding], Estimate | None, dict[str, Any]]:
    """Run the graph without data, and again without what has failed, until nothing fails any more."""
    try:
        values = check_parameters([graph], named)
    except LoupeError as error:
        return [Finding("error", error.fact, error.remedy, error.line)], None, {}
    rest = {name: value for name, value in named.items() if name not in values}
    whole = prepared(model, graph, values)
    found: list[Finding] = []
    if graph.generation is not None:
        found.append(Finding("note", "of the generation, its first step was tried", "run it to see the others"))
    if not inputs:
        example = None if graph.root else model.example  # a module of a model takes what only the user knows
        if example is None:
            found.append(Finding("note", "no input was given, so shapes were not tried", "give an input to validate"))
            return found, None, {}
        inputs = [example.args[0]] * graph.inputs
    for _ in range(_TRIES):
        try:
            estimate, results = _run_without_data(model, whole, values, inputs, rest, line, earlier)
        except LoupeError as error:
            found.append(Finding("error", error.fact, error.remedy, error.line))
            failed = _failed(whole, error)
            if failed is None:
                return found, None, {}
            whole = _without(whole, failed)
        else:
            return found, None if any(each.weight == "error" for each in found) else estimate, results
    return found, None, {}


def _run_without_data(
    model: Root,
    graph: Graph,
    values: Mapping[str, Any],
    inputs: Sequence[Any],
    named: Mapping[str, Any],
    line: Line,
    earlier: Earlier | None,
) -> tuple[Estimate, dict[str, Any]]:
    run = model.meta_run(graph, graph.root, Opened(graph, values, earlier))
    give_inputs(run, graph, inputs, named, line)
    with SameDtypes(), measured() as memory:
        outcome = run.finish()
    if outcome.error is not None:
        raise outcome.error
    whole = model._model
    estimate = Estimate(
        weights=sum(size_of(tensor) for tensor in (*whole.parameters(), *whole.buffers())),
        constants=sum(size_of(tensor) for tensor in tensors_in(graph.constants)),
        saved=sum(size_of(tensor) for value in outcome.results.values() for tensor in tensors_in(value)),
        passing=memory.peak,
    )
    return estimate, outcome.results


def _failed(graph: Graph, error: LoupeError) -> int | None:
    """The node that an error is about, where it is one whose users alone are lost with it."""
    if not isinstance(error, OperationError) or error.line is None:
        return None
    name = error.fact.split(" ", 1)[0]
    there = [node.id for node in graph if node.line == error.line and node.kind == "apply" and node.target == name]
    return there[0] if there else None


def _without(graph: Graph, failed: int) -> Graph:
    """A graph without a node and those that take its value."""
    lost = graph.users_of([failed])
    rest = select(graph, [node.id for node in graph if node.id not in lost])
    rest.take_terms(graph)
    return rest
