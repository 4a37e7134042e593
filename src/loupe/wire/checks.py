"""Check what the nodes of a block that was read say about each other, and which operations they name."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

from loupe.errors import GraphError, WireError, nearest
from loupe.graph.generation import GENERATION_OPTIONS
from loupe.graph.graph import Graph
from loupe.graph.lint import lint
from loupe.graph.node import Node
from loupe.graph.portable import why_not_portable, why_wrong

_PASSED = re.compile(r"block(0|[1-9][0-9]{0,8})\.(.+)", re.DOTALL)


def check_block(graph: Graph, where: str, passed: Collection[str] = ()) -> None:
    """Raise WireError where a block names what it may not; `passed` are the names of values of earlier blocks."""
    for node in graph:
        if node.kind == "apply":
            _check_operation(node)
        elif node.kind == "given" and node.target not in graph.parameters and node.target not in passed:
            raise WireError(
                f"node {node.id} takes {node.target!r:.60}, which is no parameter of {where}",
                remedy=nearest(node.target, list(graph.parameters)),
            )
    for name in graph.generation or ():
        if name not in GENERATION_OPTIONS:
            raise WireError(
                f"{where} generates with the option {name!r:.60}, which no file may have",
                remedy=nearest(name, sorted(GENERATION_OPTIONS)),
            )
    try:
        lint(graph)
    except WireError:
        raise
    except GraphError as error:
        raise WireError(error.fact, remedy=error.remedy, line=error.line) from None


def check_session(graphs: Sequence[Graph]) -> None:
    """Raise WireError where a block takes what no earlier one saves."""
    for place, graph in enumerate(graphs):
        passed = [node for node in graph if node.kind == "given" and node.target not in graph.parameters]
        for node in passed:
            found = _PASSED.fullmatch(node.target)
            source = int(found[1]) if found else place
            if found is None or source >= place or found[2] not in graphs[source].saves:
                raise WireError(
                    f"node {node.id} of block {place} takes {node.target!r:.60}, which no earlier block saves",
                    remedy="name a value as block0.name",
                )
        check_block(graph, f"block {place}", {node.target for node in passed})


def _check_operation(node: Node) -> None:
    wrong = why_not_portable(node) or why_wrong(node)
    if wrong is not None:
        raise WireError(f"node {node.id}: {wrong[0]}", remedy=wrong[1])
