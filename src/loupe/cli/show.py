"""Show the graphs of a file, without torch and without a model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from loupe.cli.options import File
from loupe.cli.output import print_row, print_text, writing
from loupe.files.storing import read_from
from loupe.graph.graph import Graph, constant_text
from loupe.wire.document import content_hash

Draw = Annotated[
    Path | None,
    typer.Option(
        "--draw",
        metavar="OUT.svg",
        help="Write a picture of the graph too; for a session, one of each block: OUT-0.svg, OUT-1.svg, …",
        show_default=False,
    ),
]
_MOST = 12  # constants that are listed


def show(file: File, draw: Draw = None) -> None:
    """Print the graphs of a file, and what is known about them: nothing in it is run, and no model is needed.

    A node stands on each line, with the source line that made it where the file has that.

    Examples:

    - `loupe show steer.loupe`

    - `loupe show steer.loupe --draw steer.svg`
    """
    document = read_from(file, check_data=True)
    if document.session:
        print_text(f"{file.name}: a session of {len(document.blocks)} blocks", "bold")
        print_row("takes", _count(sum(graph.inputs for graph in document.blocks), "prompt"))
    for place, graph in enumerate(document.blocks):
        if document.session:
            print_text()
        what = f"block {place}" if document.session else file.name
        print_text(f"{what}: a graph of {_count(len(graph), 'node')}", "bold")
        for label, text in _summary(graph):
            print_row(label, text)
        print_text()
        print_text(str(graph))
    if draw is not None:
        for place, graph in enumerate(document.blocks):
            path = draw.with_stem(f"{draw.stem}-{place}") if document.session else draw
            with writing(path):
                graph.draw().save(path)


def _summary(graph: Graph) -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    origin = graph.origin
    if origin is not None:
        revision = f" at {origin.revision}" if origin.revision else ""
        rows.append(("written for", f"{origin.model or 'a model without an id'}{revision} ({origin.kind})"))
    rows.append(("takes", _count(graph.inputs, "prompt")))
    if graph.generation is not None:
        options = [f"{name}={graph.argument_text(value)}" for name, value in graph.generation.items()]
        rows.append(("generates", ", ".join(options) or "with the model's own options"))
    for name, opened in graph.parameters.items():
        default = "to be given" if opened.required else f"= {graph.argument_text(opened.default)}"
        rows.append(("open", f"{name} {default}"))
    saved = [node.target + (" (a cache)" if node.kind == "cache" else "") for node in graph if _leaves(node.kind)]
    rows.append(("saves", ", ".join(saved) or "nothing"))
    if graph.constants:
        listed = [constant_text(constant) for constant in graph.constants[:_MOST]]
        more = f", and {len(graph.constants) - _MOST} more" if len(graph.constants) > _MOST else ""
        rows.append(("constants", ", ".join(listed) + more))
    for node, line in graph.looks:
        rows.append(("baked in", f"what Python did with the value of %{node}, at {line}"))
    rows.append(("hash", content_hash(graph)))
    return rows


def _leaves(kind: str) -> bool:
    return kind in ("save", "cache")


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
