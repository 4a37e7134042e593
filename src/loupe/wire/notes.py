"""Write what a file says about a graph beside its content: its lines, its looks, the model it was written for."""

from __future__ import annotations

import re
from typing import Any

from loupe.errors import Line, WireError
from loupe.graph.graph import Graph, Origin
from loupe.wire.arguments import text
from loupe.wire.fields import Fields, expect, number
from loupe.wire.limits import Limits
from loupe.wire.nodes import check_path

_LONGEST = 400  # characters of a source line that are kept
_FOLDERS = re.compile(r".*[/\\]")
_MOST = 1 << 31


def write_notes(graph: Graph) -> dict[str, Any]:
    """The notes of a graph as plain data; of the files in which its lines stand the names alone, without folders."""
    table: dict[Line, int] = {}

    def place(line: Line | None) -> int | None:
        return None if line is None else table.setdefault(line, len(table))

    found: dict[str, Any] = {"places": [place(node.line) for node in graph]}
    if graph.looks:
        found["looks"] = [[node, place(line)] for node, line in graph.looks]
    if graph.edited:
        found["edited"] = graph.edited
    if graph.origin is not None:
        found["origin"] = _write_origin(graph.origin)
    found["lines"] = [[_FOLDERS.sub("", line.filename), line.number, line.text[:_LONGEST]] for line in table]
    return found


def _write_origin(origin: Origin) -> dict[str, Any]:
    found: dict[str, Any] = {"kind": origin.kind, "fingerprint": origin.fingerprint, "modules": dict(origin.modules)}
    if origin.model is not None:
        found["model"] = origin.model
    if origin.revision is not None:
        found["revision"] = origin.revision
    return found


def read_notes(value: object, where: str, graph: Graph, limits: Limits) -> None:
    """Put notes onto the graph that they are about; raises WireError."""
    fields = Fields(value, f"the notes of {where}")
    lines = [_line(each, where, limits) for each in fields.take("lines", list)]
    places = fields.take("places", list)
    if len(places) != len(graph):
        raise WireError(
            f"the notes of {where} have the lines of {len(places)} nodes, and there are {len(graph)}",
            remedy="list one for each node, or null",
        )
    for node, place in zip(graph, places, strict=True):
        node.line = None if place is None else _at(lines, place, where)
    for each in fields.get("looks", list, []):
        if type(each) is not list or len(each) != 2:
            raise WireError(f"a look of {where} is no pair of a node and a line", remedy="write [node, line]")
        node = number(expect(each[0], int, where), f"a look of {where}", 0, len(graph) - 1)
        graph.looks.append((node, _at(lines, each[1], where)))
    graph.edited = number(fields.get("edited", int, 0), f"the number of edited nodes of {where}", 0, len(graph))
    if fields.has("origin"):
        graph.origin = _origin(fields.take("origin", dict), where, limits)
    fields.end()


def _line(value: object, where: str, limits: Limits) -> Line:
    if type(value) is not list or len(value) != 3:
        raise WireError(f"a line of {where} is not [file, number, text]", remedy="write these three")
    name, count, source = value
    return Line(
        text(name, f"the file of a line of {where}", limits),
        number(expect(count, int, f"the number of a line of {where}"), f"a line of {where}", 0, _MOST),
        text(source, f"the text of a line of {where}", limits),
    )


def _at(lines: list[Line], place: object, where: str) -> Line:
    return lines[number(expect(place, int, f"a line of {where}"), f"a line of {where}", 0, len(lines) - 1)]


def _origin(value: object, where: str, limits: Limits) -> Origin:
    fields = Fields(value, f"the origin of {where}")
    kind = text(fields.take("kind", str), f"the class of the model of {where}", limits)
    fingerprint = text(fields.take("fingerprint", str), f"the fingerprint of {where}", limits)
    modules = fields.take("modules", dict)
    names = {
        name: text(fields.take(name, str), f"the {name} of {where}", limits) if fields.has(name) else None
        for name in ("model", "revision")
    }
    fields.end()
    for path, module in modules.items():
        check_path(path, f"the origin of {where}")
        text(module, f"the class of {path!r}", limits)
    return Origin(kind, fingerprint, names["model"], names["revision"], modules)
