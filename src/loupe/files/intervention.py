"""Hold what users do with a recorded graph as a thing of its own: save it, compare it, validate it, carry it over."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Protocol, TypeVar

from loupe.errors import GraphError, PortableError, nearest
from loupe.files.neutral import with_torch, without_torch
from loupe.files.storing import write_to
from loupe.graph.graph import Graph
from loupe.graph.node import RESULT, Node, Site, is_within
from loupe.wire.document import Document, content_hash

R = TypeVar("R", covariant=True)


class Validating(Protocol[R]):
    """A model that can say what keeps a graph from running on it."""

    def validate(self, graph: Any, *inputs: Any, **given: Any) -> R:
        """What was found."""
        ...


class InterventionGraph(Graph):
    """The graph of a block: a small program over a model's internals, to be printed, saved, shared, and run again.

    >>> with model.trace("The Eiffel Tower is in") as tracer:
    ...     model.transformer.h[5].output[0][:, -1] *= 2
    ...     logits = model.output.save("logits")
    >>> tracer.graph.save("double.loupe")
    >>> model.run(loupe.load("double.loupe"), "The Colosseum is in")["logits"]

    Two graphs are equal where they compute the same, whatever their lines and the models they were written for.
    """

    def save(self, path: str | os.PathLike[str], *, lines: bool = True) -> None:
        """Write the graph to a file: a safetensors container whose tensors are the graph's constants.

        >>> tracer.graph.save("steer.loupe")

        The constants are stored as they are now, but for those that the graph's own run has changed: these as they were
        before. `lines=False` leaves the user's source lines out; folders of files are left out always. The file is
        there as a whole or not at all. Raises PortableError, with the line, for what runs in this process only.
        """
        write_to(path, Document((_written(self, lines=lines),)))

    @property
    def hash(self) -> str:
        """The SHA-256 of what the graph computes, as hexadecimal digits: of its nodes and constants, not its lines."""
        return content_hash(without_torch(self))

    def validate(self, model: Validating[R], *inputs: Any, **given: Any) -> R:
        """Say, without a run, what keeps the graph from running on a model, each with the user's line.

        >>> print(tracer.graph.validate(model))

        Looks for modules that the model does not have, errors of shape and dtype (with these inputs and parameters, or
        else one token), operations that cannot leave the process, values that a look of Python's has baked in; and
        estimates memory.
        """
        return model.validate(self, *inputs, **given)

    def rename_sites(self, names: Mapping[str, str]) -> InterventionGraph:
        """The same graph over modules of other names: how it is carried over to another architecture.

        >>> graph.rename_sites({"transformer.h": "model.layers", "transformer.ln_f": "model.norm"})

        A key stands for the module of that path and all within it; the longest that fits is taken. Raises GraphError
        for a key that names nothing in the graph.
        """
        renaming = _Renaming(names)
        nodes = [renaming.node(node) for node in self]
        renaming.check(self)
        renamed = _copied(self)
        renamed.nodes, renamed.origin, renamed.root = nodes, None, renaming.path(self.root)
        return renamed

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Graph):
            return NotImplemented
        try:
            return content_hash(without_torch(self)) == content_hash(without_torch(other))
        except (PortableError, GraphError):
            return _likeness(self) == _likeness(other)

    __hash__: ClassVar[None] = None  # it is equal by content, and can be changed


class InterventionSession(Sequence[InterventionGraph]):
    """The graphs of a session's blocks, in order; later ones may take values of earlier ones.

    >>> with model.session() as session:
    ...     with model.trace("The Eiffel Tower is in"):
    ...         hidden = model.transformer.h[5].output[0]
    ...     with model.trace("The Colosseum is in"):
    ...         model.transformer.h[5].output[0][:, -1] = hidden[:, -1]
    ...         logits = model.output.save("logits")
    >>> session.graphs.save("patch.loupe")
    >>> model.run(loupe.load("patch.loupe"), "Big Ben is in", "The Colosseum is in")[1]["logits"]
    """

    def __init__(self, graphs: Sequence[InterventionGraph]) -> None:
        self._graphs = tuple(graphs)

    def save(self, path: str | os.PathLike[str], *, lines: bool = True) -> None:
        """Write all graphs to one file; see `InterventionGraph.save`."""
        write_to(path, Document(tuple(_written(graph, lines=lines) for graph in self._graphs), session=True))

    def validate(self, model: Validating[R], *inputs: Any, **given: Any) -> R:
        """Say, without a run, what keeps the graphs from running on a model; see `InterventionGraph.validate`."""
        return model.validate(self, *inputs, **given)

    @property
    def inputs(self) -> int:
        """How many prompts a run of all of them takes."""
        return sum(graph.inputs for graph in self._graphs)

    def rename_sites(self, names: Mapping[str, str]) -> InterventionSession:
        """The same graphs over modules of other names; see `InterventionGraph.rename_sites`."""
        used = {key: [graph for graph in self._graphs if _names(graph, key)] for key in names}
        unused = next((key for key, graphs in used.items() if not graphs), None)
        if unused is not None:
            raise _names_nothing(unused, [path for graph in self._graphs for path in graph.modules])
        return InterventionSession(
            [graph.rename_sites({key: new for key, new in names.items() if _names(graph, key)}) for graph in self]
        )

    def __getitem__(self, place: Any) -> Any:
        return self._graphs[place]

    def __len__(self) -> int:
        return len(self._graphs)

    def __iter__(self) -> Iterator[InterventionGraph]:
        return iter(self._graphs)

    def __eq__(self, other: object) -> bool:
        return list(self) == list(other) if isinstance(other, InterventionSession) else NotImplemented

    __hash__: ClassVar[None] = None

    def __str__(self) -> str:
        return "\n\n".join(f"block {place}\n{graph}" for place, graph in enumerate(self)) or "(empty session)"

    def __repr__(self) -> str:
        return f"<the graphs of a session of {len(self)} blocks>"


def from_document(document: Document) -> InterventionGraph | InterventionSession:
    """The graphs that a file holds, ready to run."""
    graphs: list[Any] = [with_torch(graph, InterventionGraph) for graph in document.blocks]
    return InterventionSession(graphs) if document.session else graphs[0]


def _written(graph: Graph, *, lines: bool) -> Graph:
    written = without_torch(graph)
    if not lines:
        for node in written:
            node.line = None
        written.looks = []
    return written


def _copied(graph: Graph) -> InterventionGraph:
    copied = InterventionGraph()
    copied.__dict__.update(graph.__dict__)
    return copied


def _likeness(graph: Graph) -> list[Any]:
    """What graphs have in common that hold things of this process: by identity where there is no other way."""

    def plain(node: Node) -> Node:
        return replace(node, line=None)

    constants = [
        value if value is None or type(value) in (bool, int, float, str) else id(value) for value in graph.constants
    ]
    functions = {name: id(function) for name, function in graph.functions.items()}
    return [
        list(map(plain, graph)),
        constants,
        functions,
        graph.root,
        graph.invokes,
        graph.parameters,
        graph.generation,
    ]


def _names(graph: Graph, key: str) -> bool:
    return any(is_within(path, (key,)) for path in graph.modules)


def _names_nothing(key: str, known: list[str]) -> GraphError:
    parts = {".".join(path.split(".")[: end + 1]) for path in known if path for end in range(path.count(".") + 1)}
    return GraphError(f"the graph names nothing in {key!r}", remedy=nearest(key, sorted(parts)))


class _Renaming:
    """Gives paths other names."""

    def __init__(self, names: Mapping[str, str]) -> None:
        self._names = sorted(names.items(), key=lambda pair: -len(pair[0]))

    def check(self, graph: Graph) -> None:
        """Raise GraphError where a name was of no use."""
        for key, _ in self._names:
            if not _names(graph, key):
                raise _names_nothing(key, graph.modules)

    def path(self, path: str) -> str:
        """The new name of a path."""
        for key, new in self._names:
            if is_within(path, (key,)):
                return new + path[len(key) :]
        return path

    def node(self, node: Node) -> Node:
        """A node that names modules by their new names."""
        if isinstance(node.target, Site):
            kept = node.gradient_of is not None or node.site.path == RESULT
            return node if kept else replace(node, target=node.site._replace(path=self.path(node.site.path)))
        if node.kind in ("call", "parameter", "set_parameter"):
            return replace(node, target=self.path(node.target))
        if node.kind == "cache":
            return replace(node, args=(tuple(map(self.path, node.args[0])),))
        return node
