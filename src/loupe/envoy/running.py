"""Run graphs that were recorded before: on a model, with other inputs, with their parameters filled in."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

import torch

from loupe.envoy.edits import put_edits
from loupe.envoy.fitting import check_fit
from loupe.errors import InputError, Line
from loupe.files.intervention import InterventionSession
from loupe.graph.compose import append, bind, with_own_constants
from loupe.graph.graph import Graph
from loupe.graph.node import Const, Site, map_argument
from loupe.graph.steps import step_name
from loupe.runtime.given import Opened
from loupe.runtime.local import LocalRun
from loupe.runtime.tensors import map_tensors, share_memory, storages_of
from loupe.trace.cache import Cache
from loupe.trace.handles import unwrap

if TYPE_CHECKING:
    from loupe.envoy.model import Root

Results = dict[str, Any]
_PASSED = re.compile(r"kept[0-9]+")  # the names that a session gives to what its blocks pass on, and nobody has saved


def run_graph(model: Root, graph: Graph, inputs: Sequence[Any], named: Mapping[str, Any], line: Line) -> Results:
    """Run one graph; see `Root.run`."""
    check_fit(model, graph)
    values = check_parameters([graph], named)
    rest = {name: value for name, value in named.items() if name not in values}
    return _run(model, graph, inputs, values, rest, line, None)


def run_session(
    model: Root, session: InterventionSession, inputs: Sequence[Any], named: Mapping[str, Any], line: Line
) -> list[Results]:
    """Run the graphs of a session one after the other; see `Root.run`."""
    for graph in session:
        check_fit(model, graph)
    values = check_parameters(session, named)
    unknown = [name for name in named if name not in values]
    if unknown:
        raise InputError(
            f"the session leaves no {unknown[0]!r} open", remedy="name parameters that it leaves open", line=line
        )
    if len(inputs) != session.inputs:
        raise number_of_inputs("session", session.inputs, len(inputs), line)
    earlier = Earlier()
    taken = {node.target for graph in session for node in graph if node.kind == "given"}
    found: list[Results] = []
    start = 0
    for place, graph in enumerate(session):
        own = {name: value for name, value in values.items() if name in graph.parameters}
        results = _run(model, graph, inputs[start : start + graph.inputs], own, {}, line, earlier)
        start += graph.inputs
        earlier.values.update({f"block{place}.{name}": value for name, value in results.items()})
        passed = {name for name in results if f"block{place}.{name}" in taken and _PASSED.fullmatch(name)}
        found.append({name: value for name, value in results.items() if name not in passed})
    return found


class Earlier:
    """What the blocks of a session that have run pass on, by name."""

    def __init__(self) -> None:
        self.values: Results = {}

    def value(self, name: str) -> Any:
        """The value; raises InputError where the earlier block did not come to it."""
        if name not in self.values:
            raise InputError(
                f"an earlier block of the session has not come to {name!r}, which this one takes",
                remedy="run the whole session, on a model that runs the modules which it names",
            )
        return self.values[name]

    def describe(self, name: str) -> Any:
        """The value: earlier blocks have run."""
        return self.value(name)

    def before(self, run: object) -> None:
        """Earlier blocks have run."""


def _run(
    model: Root,
    graph: Graph,
    inputs: Sequence[Any],
    values: Mapping[str, Any],
    named: Mapping[str, Any],
    line: Line,
    earlier: Earlier | None,
) -> Results:
    whole = prepared(model, graph, values)
    run = model.local_run(whole, whole.root, Opened(whole, values, earlier))
    prompt, options = model.divide(named, generates=graph.generation is not None)
    if graph.generation is not None:
        run.generate({**_resolved(graph), **options})
    give_inputs(run, graph, inputs, prompt, line)
    outcome = run.finish()
    if outcome.error is not None:
        raise outcome.error
    return _named_results(model, whole, _apart(outcome.results, [graph.constants, list(values.values())]), run)


def _apart(results: Results, kept: Any) -> Results:
    """Results that can be changed: copies of those that lie in what is kept: constants, and what was given."""
    storages = storages_of(kept)

    def copied(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.clone() if share_memory(tensor, storages) else tensor

    return {
        name: map_tensors(value, copied) if share_memory(value, storages) else value for name, value in results.items()
    }


def prepared(model: Root, graph: Graph, values: Mapping[str, Any]) -> Graph:
    """A graph with its parameters filled in and constants of its own, behind the edits of a model.

    One that was recorded on an edited model brings that model's edits along, and is not edited a second time.
    """
    whole = Graph()
    if not graph.edited:
        put_edits(whole, model.edits, graph.root, model.attached)
    append(whole, with_own_constants(bind(graph, values)))
    whole.take_terms(graph)
    return whole


def check_parameters(graphs: Sequence[Graph], named: Mapping[str, Any]) -> dict[str, Any]:
    """What is given for parameters that graphs leave open; raises InputError for a name close to one of theirs."""
    known = {name: None for graph in graphs for name in graph.parameters}
    for name in named:
        close = [] if name in known else get_close_matches(name, list(known), n=1, cutoff=0.75)
        if close:
            raise InputError(
                f"the graph leaves no {name!r} open",
                remedy=f"did you mean {close[0]!r}? it leaves open: {', '.join(known)}",
            )
    return {name: unwrap(value) for name, value in named.items() if name in known}


def give_inputs(run: LocalRun, graph: Graph, inputs: Sequence[Any], named: Mapping[str, Any], line: Line) -> None:
    """Give a run its inputs: one for each invoke, or those of the block; raises InputError for another number."""
    if not graph.invokes:
        if inputs or named:
            run.add_input(unwrap(tuple(inputs)), unwrap(dict(named)), line)
        return
    if len(inputs) != graph.invokes:
        raise number_of_inputs("graph", graph.invokes, len(inputs), line)
    if named:
        raise InputError(
            f"{next(iter(named))!r} is given beside the prompts of {graph.invokes} invokes",
            remedy="give each prompt as a mapping with what belongs to it: {'input_ids': …, 'attention_mask': …}",
            line=line,
        )
    for each in inputs:
        args = each if isinstance(each, tuple) else (each,)
        run.add_input(unwrap(args), {}, line)


def number_of_inputs(what: str, wanted: int, given: int, line: Line) -> InputError:
    """The error of a run that is given another number of prompts than it has."""
    return InputError(
        f"the {what} has {wanted} prompts, and is given {given}",
        remedy="give one input for each, in order; a tuple is one input of several arguments",
        line=line,
    )


def _resolved(graph: Graph) -> dict[str, Any]:
    """The options of a graph's generation."""
    constants, options = graph.constants, graph.generation or {}
    return {
        name: map_argument(value, lambda leaf: constants[leaf.index] if type(leaf) is Const else leaf)
        for name, value in options.items()
    }


def _named_results(model: Root, graph: Graph, results: Results, run: LocalRun) -> Results:
    """What was saved, by name: a cache for what a cache collected, a list for what was saved at each step."""
    found: Results = {}
    most = run.steps() if any(node.kind == "save" and node.steps is not None for node in graph) else 0
    for node in graph:
        if node.kind == "cache" and node.target in results:
            cache = found[node.target] = Cache(
                node.line or Line("<unknown>", 0),
                node.args[0],
                model.real_path,
                lambda path: model.view(Site(path, "output")),
                lambda: None,
            )
            cache.fill(results[node.target])
        elif node.kind == "save" and node.steps is not None:
            names = [step_name(node.target, step) for step in range(most)]
            found[node.target] = [results[name] for name in names if name in results]
        elif node.kind == "save" and node.target in results:
            found[node.target] = results[node.target]
    return found


def run_edited(
    model: Root,
    path: str,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    line: Line,
    generation: dict[str, Any] | None = None,
) -> Any:
    """The plain call of an edited model, or of one of its modules: what it returns with the edits in place."""
    graph = Graph()
    put_edits(graph, model.edits, path, model.attached)
    name = graph.save_result()
    run = model.local_run(graph, path)
    if torch.is_grad_enabled():
        run.collect_weights()
    if generation is not None:
        run.generate(generation)
    run.add_input(unwrap(args), unwrap(kwargs), line)
    outcome = run.finish()
    if outcome.error is not None:
        raise outcome.error
    return outcome.results[name]
