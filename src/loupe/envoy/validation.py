"""Say before a run what would go wrong in it, and how much memory it takes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from loupe.envoy.fitting import unfit
from loupe.envoy.report import Finding, Report
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

_TRIES = 50  # errors of shape and dtype that one look finds


def validate(model: Root, graph: Any, inputs: Sequence[Any], named: Mapping[str, Any], line: Line) -> Report:
    """Look at a graph and a model without a run; see `InterventionGraph.validate`."""
    if isinstance(graph, InterventionSession):
        return _of_session(model, graph, inputs, named, line)
    found = Trial(model, graph, inputs, named, line).found()
    return _report(model, found.findings, found.estimate)


def _report(model: Root, findings: Sequence[Finding], estimate: Estimate | None) -> Report:
    devices = dict.fromkeys(str(parameter.device) for parameter in model._model.parameters())
    return Report(tuple(findings), estimate, tuple(name for name in devices if name != "meta"))


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
        found = Trial(model, graph, inputs[start : start + graph.inputs], own, line, earlier).found()
        findings += [replace(each, fact=f"block {place}: {each.fact}") for each in found.findings]
        estimates.append(found.estimate)
        start += graph.inputs
        earlier.values.update({f"block{place}.{name}": value for name, value in found.results.items()})
    known = [each for each in estimates if each is not None]
    return _report(model, findings, max(known, key=lambda each: each.total) if len(known) == len(session) else None)


@dataclass(frozen=True, slots=True)
class Found:
    """What a look at one graph gives: what was found, the memory of its run, and what it would save, without data."""

    findings: list[Finding]
    estimate: Estimate | None = None
    results: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Trial:
    """A look at one graph, with what a run of it would be given; `earlier` is what blocks before it pass on."""

    model: Root
    graph: Graph
    inputs: Sequence[Any]
    named: Mapping[str, Any]
    line: Line
    earlier: Earlier | None = None

    def found(self) -> Found:
        """What is found in the graph itself and, where that is no error, by running it without data."""
        findings = [*self._missing(), *_operations(self.graph), *_baked_in(self.graph)]
        if any(found.weight == "error" for found in findings):
            return Found(findings)
        tried = self._tried()
        return replace(tried, findings=[*findings, *tried.findings])

    def _missing(self) -> Iterator[Finding]:
        for each in unfit(self.model, self.graph):
            yield Finding("error", f"no {each.what} {each.path!r} in the model", each.remedy, each.line)

    def _tried(self) -> Found:
        """Run the graph without data, and again without what has failed, until nothing fails any more."""
        try:
            values = check_parameters([self.graph], self.named)
        except LoupeError as error:
            return Found([_told(error)])
        whole = prepared(self.model, self.graph, values)
        found: list[Finding] = []
        if self.graph.generation is not None:
            found.append(Finding("note", "of the generation, its first step was tried", "run it to see the others"))
        inputs = self.inputs or self._example()
        if inputs is None:
            found.append(Finding("note", "no input was given, so shapes were not tried", "give an input to validate"))
            return Found(found)
        for _ in range(_TRIES):
            try:
                estimate, results = self._run_without_data(whole, values, inputs)
            except LoupeError as error:
                found.append(_told(error))
                failed = _failed(whole, error)
                if failed is None:
                    return Found(found)
                whole = _without(whole, failed)
            else:
                return Found(found, None if any(each.weight == "error" for each in found) else estimate, results)
        return Found(found)

    def _example(self) -> Sequence[Any] | None:
        """An input for each that the graph takes, where the model has an example and the graph is about all of it."""
        example = None if self.graph.root else self.model.example  # a module takes what only the user knows
        return None if example is None else [example.args[0]] * self.graph.inputs

    def _run_without_data(
        self, graph: Graph, values: Mapping[str, Any], inputs: Sequence[Any]
    ) -> tuple[Estimate, dict[str, Any]]:
        run = self.model.meta_run(graph, graph.root, Opened(graph, values, self.earlier))
        rest = {name: value for name, value in self.named.items() if name not in values}
        give_inputs(run, graph, inputs, rest, self.line)
        with SameDtypes(), measured() as memory:
            outcome = run.finish()
        if outcome.error is not None:
            raise outcome.error
        whole = self.model._model
        estimate = Estimate(
            weights=sum(size_of(tensor) for tensor in (*whole.parameters(), *whole.buffers())),
            constants=sum(size_of(tensor) for tensor in tensors_in(graph.constants)),
            saved=sum(size_of(tensor) for value in outcome.results.values() for tensor in tensors_in(value)),
            passing=memory.peak,
        )
        return estimate, outcome.results


def _told(error: LoupeError) -> Finding:
    return Finding("error", error.fact, error.remedy, error.line)


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
