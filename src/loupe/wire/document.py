"""Write graphs as one text and the tensors beside it, and read them back.

A document is `{"format": "loupe.graph", "version": 1, "graph": BLOCK}`, or has a list of blocks as `"session"`. A block
has its content, which is what it computes, a digest of that, and notes: where its lines stand, on which model it was
written.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from loupe.errors import GraphError, PortableError, WireError
from loupe.graph.graph import Graph, Open
from loupe.graph.node import Node
from loupe.wire.arguments import text, write_argument
from loupe.wire.canonical import read_json, write_json
from loupe.wire.checks import check_block, check_session
from loupe.wire.constants import Constant, read_constant, write_constant
from loupe.wire.container import RawTensor
from loupe.wire.fields import Fields, number
from loupe.wire.limits import Limits
from loupe.wire.nodes import NodeReader, check_path, write_node
from loupe.wire.notes import read_notes, write_notes

FORMAT = "loupe.graph"
VERSION = 1


@dataclass(frozen=True, slots=True)
class Document:
    """The graphs of a file; `session` says that later ones may take values of earlier ones.

    Their constants are `Constant`s, and what torch has objects for is `Named`: nothing of it needs torch.
    """

    blocks: tuple[Graph, ...]
    session: bool = False


def write_document(document: Document) -> tuple[str, dict[str, RawTensor]]:
    """The canonical text of a document, and its tensors by name."""
    tensors: dict[str, RawTensor] = {}
    blocks = [_write_block(graph, tensors) for graph in document.blocks]
    inner: dict[str, Any] = {"session": blocks} if document.session else {"graph": blocks[0]}
    return write_json({"format": FORMAT, "version": VERSION, **inner}), tensors


def content_hash(graph: Graph) -> str:
    """The SHA-256 of what a graph computes: the same for graphs that differ in their lines or their origin alone."""
    return _digest(_write_content(graph, {}))


def _digest(content: dict[str, Any]) -> str:
    return hashlib.sha256(write_json(content).encode()).hexdigest()


def _write_block(graph: Graph, tensors: dict[str, RawTensor]) -> dict[str, Any]:
    content = _write_content(graph, tensors)
    return {"content": content, "hash": _digest(content), "notes": write_notes(graph)}


def _write_content(graph: Graph, tensors: dict[str, RawTensor]) -> dict[str, Any]:
    names: dict[int, str] = {}
    constants = []
    for constant in graph.constants:
        assert isinstance(constant, Constant)
        name = names.get(id(constant.tensor))
        if name is None:
            name = names[id(constant.tensor)] = constant.tensor.name
        tensors.setdefault(name, constant.tensor)
        constants.append(write_constant(constant, name))
    found: dict[str, Any] = {"constants": constants, "nodes": [_write_node(node) for node in graph]}
    if graph.root:
        found["root"] = graph.root
    if graph.invokes:
        found["invokes"] = graph.invokes
    if graph.parameters:
        found["parameters"] = [_write_open(name, opened) for name, opened in graph.parameters.items()]
    if graph.generation is not None:
        found["generation"] = {name: write_argument(value) for name, value in graph.generation.items()}
    return found


def _write_node(node: Node) -> dict[str, Any]:
    try:
        return write_node(node)
    except GraphError as error:
        raise PortableError(error.fact, remedy=error.remedy, line=node.line) from None


def _write_open(name: str, opened: Open) -> dict[str, Any]:
    return {"name": name} if opened.required else {"name": name, "default": write_argument(opened.default)}


def read_document(written: str, tensors: Mapping[str, RawTensor], limits: Limits) -> Document:
    """The graphs of a text; raises WireError for anything that is not exactly what `write_document` writes."""
    fields = Fields(read_json(written, "the graph", limits, canonical=True), "the graph")
    kind, version = fields.take("format", str), fields.take("version", int)
    if kind != FORMAT:
        raise WireError(f"the file is of the format {kind!r:.60}", remedy=f"loupe reads {FORMAT!r}")
    if version != VERSION:
        newer = version > VERSION
        raise WireError(
            f"the file is of version {version} of the format, and this loupe reads version {VERSION}",
            remedy="upgrade loupe: pip install --upgrade loupe" if newer else "versions begin with 1",
        )
    if fields.has("session"):
        blocks = fields.take("session", list)
        session = True
    else:
        blocks, session = [fields.take("graph", dict)], False
    fields.end()
    if not 0 < len(blocks) <= limits.blocks:
        raise WireError(f"the session has {len(blocks)} blocks", remedy=f"it has 1 to {limits.blocks}")
    used: set[str] = set()
    graphs: list[Graph] = []
    for place, block in enumerate(blocks):
        budget = limits.nodes - sum(map(len, graphs))
        graphs.append(_read_block(block, f"block {place}" if session else "the graph", tensors, used, limits, budget))
    unused = next((name for name in tensors if name not in used), None)
    if unused is not None:
        raise WireError(f"the tensor {unused!r:.80} is no constant of the graph", remedy="leave it out")
    if session:
        check_session(graphs)
    else:
        check_block(graphs[0], "the graph")
    return Document(tuple(graphs), session)


def _read_block(
    value: object, where: str, tensors: Mapping[str, RawTensor], used: set[str], limits: Limits, budget: int
) -> Graph:
    fields = Fields(value, where)
    content, digest, notes = fields.take("content", dict), fields.take("hash", str), fields.take("notes", dict)
    fields.end()
    if digest != _digest(content):
        raise WireError(
            f"the content of {where} is not the one that its hash names: it was changed or damaged",
            remedy="get the file again; after a change by hand, write the SHA-256 of the new content",
        )
    graph = _read_content(content, where, tensors, limits, budget)
    used.update(entry["tensor"] for entry in content["constants"])
    read_notes(notes, where, graph, limits)
    return graph


def _read_content(
    content: dict[str, Any], where: str, tensors: Mapping[str, RawTensor], limits: Limits, budget: int
) -> Graph:
    fields = Fields(content, where)
    graph = Graph()
    graph.constants = [read_constant(each, n, tensors) for n, each in enumerate(fields.take("constants", list))]
    nodes = fields.take("nodes", list)
    if len(nodes) > budget:
        raise WireError(f"{where} has {len(nodes)} nodes, and {budget} are the most", remedy="split the graph")
    graph.root = fields.get("root", str, "")
    check_path(graph.root, where)
    graph.invokes = number(fields.get("invokes", int, 0), f"the number of invokes of {where}", 0, limits.blocks)
    reader = NodeReader(limits, len(graph.constants), graph.invokes)
    graph.nodes = [reader.read(each, place) for place, each in enumerate(nodes)]
    reader.arguments.nodes = 0  # nothing below stands in a node, so that it could refer to another
    for each in fields.get("parameters", list, []):
        name, opened = _read_open(each, where, reader)
        if name in graph.parameters:
            raise WireError(f"{where} leaves {name!r} open twice", remedy="list each parameter once")
        graph.parameters[name] = opened
    if fields.has("generation"):
        graph.generation = {
            name: reader.arguments.read(each, f"the option {name!r:.60} of {where}")
            for name, each in fields.take("generation", dict).items()
        }
    fields.end()
    missing = set(range(len(graph.constants))) - reader.arguments.used
    if missing:
        raise WireError(f"constant {min(missing)} of {where} is used by nothing", remedy="leave it out")
    return graph


def _read_open(value: object, where: str, reader: NodeReader) -> tuple[str, Open]:
    fields = Fields(value, f"a parameter of {where}")
    name = text(fields.take("name", str), f"the name of a parameter of {where}", Limits())
    if not name.isidentifier():
        raise WireError(f"{where} leaves {name!r:.60} open, which is no name", remedy="use letters and digits")
    required = not fields.has("default")
    default = reader.arguments.read(fields.any("default"), f"the default of {name!r}")
    fields.end()
    return name, Open(default, required)
