"""Draw a graph beside the model that it is about, as an SVG that needs nothing else."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from xml.sax.saxutils import escape

from loupe.errors import InputError
from loupe.graph.picture.folding import Row, rows_of
from loupe.graph.picture.layout import CHARACTER, LINE, MARGIN, Layout, Placed, Wire, clip, lay_out
from loupe.graph.picture.outline import Outline, outline
from loupe.graph.picture.phrases import DOT
from loupe.graph.picture.style import KINDS, TINTS, style_sheet

if TYPE_CHECKING:
    from loupe.graph.graph import Graph

_LABEL = 44  # characters of a label, at most
_TIP = 24  # lines of a tooltip, at most
_NO_XML = re.compile("[^\t\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_NUMBER = re.compile(r"%(\d+)")


@dataclass(frozen=True)
class Drawing:
    """A picture of a graph: a notebook shows it, `str` gives its SVG, `save` writes it.

    >>> tracer.graph.draw().save("patching.svg")
    """

    svg: str

    def __str__(self) -> str:
        return self.svg

    def __repr__(self) -> str:
        return f"<Drawing: {len(self.svg)} characters of SVG>"

    def _repr_svg_(self) -> str:
        return self.svg

    def _repr_html_(self) -> str:
        return self.svg  # a page shows the tooltips of what stands in it, and not those of an image

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the picture to a file. Raises InputError where its name asks for another format."""
        path = Path(path)
        if path.suffix.lower() not in (".svg", ""):
            raise InputError(
                f"a drawing is written as SVG, and {path.name!r} asks for {path.suffix}",
                remedy=f"write it to {path.with_suffix('.svg').name!r}",
            )
        path.write_text(self.svg, encoding="utf-8")


class _Label(NamedTuple):
    """The words to the left of a mark, and the numbers of what is read there, where boxes use them."""

    words: str
    numbers: str = ""


def draw(graph: Graph, rows: int = 60) -> Drawing:
    """Draw a graph: the model's sites from top to bottom as it comes to them, and what the block does beside them.

    `rows` is how many rows a picture has at most. Raises InputError where these are too few for any.
    """
    if rows < 3:
        raise InputError(f"a picture of {rows} rows shows nothing", remedy="allow it 3 rows or more")
    drawn = outline(graph)
    folded = rows_of(drawn, rows)
    labels = _labels(drawn, folded)
    longest = max((len(label.words) + len(label.numbers) for label in labels), default=0)
    layout = lay_out(drawn, folded, MARGIN + longest * CHARACTER + 16)
    return Drawing(_Painter(graph, layout, labels).paint())


def _labels(drawn: Outline, rows: list[Row]) -> list[_Label]:
    used = {int(found) for box in drawn.boxes for text in box.texts for found in _NUMBER.findall(text.words)}
    return [_label(row, used) for row in rows]


def _label(row: Row, used: set[int]) -> _Label:
    if row.folded:
        return _Label("⋮" if any(each.mark is not None for each in row.folded) else "")
    if row.mark is None:
        return _Label("")
    words = _clean(row.mark.label)
    if len(words) > _LABEL:  # the end of a path tells more than its beginning
        words = f"…{words[1 - _LABEL :]}"
    numbers = [f"%{node}" for node in row.mark.nodes if node in used]
    return _Label(words, " ".join([*numbers[:3], *("…" for _ in numbers[3:4])]))


class _Painter:
    def __init__(self, graph: Graph, layout: Layout, labels: list[_Label]) -> None:
        self.graph = graph
        self.layout = layout
        self.labels = labels
        self.parts: list[str] = []

    def paint(self) -> str:
        layout = self.layout
        self._columns()
        self._model()
        for wire in layout.wires:
            self._wire(wire)
        for row, label in zip(layout.rows, self.labels, strict=True):
            self._box(row)
            self._mark(row, label)
        if not layout.rows:
            self._text(MARGIN, layout.height, "(empty graph)", "dim")
        legend = self._legend(layout.height + 4)
        width, height = max(layout.width, legend, 160.0), layout.height + LINE + 4
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" class="loupe-graph" role="img" width="{width:g}" '
            f'height="{height:g}" viewBox="0 0 {width:g} {height:g}" style="max-width:100%;height:auto">'
            f'<style>{style_sheet()}</style><rect class="card" width="{width:g}" height="{height:g}" rx="8"/>'
            f"{''.join(self.parts)}</svg>"
        )

    def _columns(self) -> None:
        """What an invoke stands in has a colour and a name."""
        for place, column in enumerate(self.layout.columns):
            if column.label:
                x, width, height = column.x - 8, column.width + 16, self.layout.height - 12
                self.parts.append(
                    f'<rect class="invoke" x="{x:g}" y="6" width="{width:g}" height="{height:g}" rx="6" '
                    f'fill="{TINTS[place % len(TINTS)]}" fill-opacity=".13"/>'
                )
                self._text(column.x, 6 + LINE, column.label, "ink strong")

    def _model(self) -> None:
        """The model's line, and that of each backward pass."""
        parts: dict[tuple[int, int], list[Placed]] = {}
        for row in self.layout.rows:
            for mark in [each.mark for each in (row.row, *row.row.folded) if each.mark is not None]:
                parts.setdefault((3, mark.place.step) if mark.place.part == 3 else (1, 0), []).append(row)
        for (part, _), rows in sorted(parts.items()):
            top, bottom = rows[0].middle - 12, rows[-1].middle + 14
            kind = "line back" if part == 3 else "line"
            self.parts.append(f'<path class="{kind}" d="M{self.layout.model:g} {top:g}V{bottom:g}m-4 -5l4 5l4 -5"/>')

    def _wire(self, wire: Wire) -> None:
        points = wire.points
        d = f"M{points[0][0]:g} {points[0][1]:g}"
        for before, corner, after in zip(points, points[1:], points[2:], strict=False):
            near, far = _towards(corner, before), _towards(corner, after)
            d += f"L{near[0]:g} {near[1]:g}Q{corner[0]:g} {corner[1]:g} {far[0]:g} {far[1]:g}"
        (x0, y0), (x, y) = points[-2:]
        right, down = (x > x0) - (x < x0), (y > y0) - (y < y0)
        self.parts.append(f'<path class="wire {wire.kind}" d="{d}L{x:g} {y:g}"/>')
        back_x, back_y, side_x, side_y = x - 7 * right, y - 7 * down, 3.5 * down, 3.5 * right
        self.parts.append(
            f'<path class="tip {wire.kind}" d="M{x:g} {y:g}L{back_x + side_x:g} {back_y + side_y:g}'
            f'L{back_x - side_x:g} {back_y - side_y:g}z"/>'
        )

    def _box(self, row: Placed) -> None:
        if not row.texts:
            return
        column = self.layout.columns[row.column]
        nodes = [node for each in (row.row, *row.row.folded) if each.box is not None for node in each.box.nodes]
        kind = "box folded" if row.row.folded else "box"
        self.parts.append(
            f'<g><title>{_tooltip(self.graph, nodes)}</title><rect class="{kind}" x="{column.x:g}" y="{row.top:g}" '
            f'width="{column.width:g}" height="{row.height:g}" rx="5"/>'
        )
        y = row.top + 5 + LINE * 0.72
        for text in row.texts:
            words = _clean(text.words)
            if text.kept:
                width = len(words) * CHARACTER + 12
                self.parts.append(f'<rect class="pill" x="{column.x + 6:g}" y="{y - 11.5:g}" width="{width:g}" ')
                self.parts.append('height="15" rx="7"/>')
                self._text(column.x + 12, y, words, "onpill")
            else:
                self._text(column.x + 9, y, words, "ink" if text.node >= 0 else "dim")
                if text.node >= 0:
                    self._text(column.x + column.width - 7, y, f"%{text.node}", "small end")
            y += LINE
        self.parts.append("</g>")

    def _mark(self, row: Placed, label: _Label) -> None:
        mark, x, y = row.row.mark, self.layout.model, row.middle
        if mark is None or mark.site is None:
            self._text(x - 14, y + 4, label.words, "dim end" if mark is None else "ink strong end")
            if mark is not None:
                self.parts.append(f'<path class="begin" d="M{x - 6:g} {y:g}h12"/>')
            return
        gradient = mark.site.port == "grad"
        self.parts.append(f"<g><title>{_tooltip(self.graph, mark.nodes)}</title>")
        self.parts.append(f'<text x="{x - 14:g}" y="{y + 4:g}" class="{"grad" if gradient else "ink"} end">')
        self.parts.append(
            f'{escape(label.words)}<tspan class="small" dx="{4 if label.numbers else 0}">{label.numbers}</tspan></text>'
        )
        kind = "grad" if gradient else "point"
        self.parts.append(f'<rect class="{kind}" x="{x - 5:g}" y="{y - 8:g}" width="10" height="16" rx="5"/></g>')

    def _legend(self, y: float) -> float:
        """Name what there is in the picture; returns how far that goes to the right."""
        texts = [text for row in self.layout.rows for text in row.texts]
        used = {wire.kind for wire in self.layout.wires}
        x = MARGIN
        for kind in [kind for kind in KINDS if kind in used]:
            self.parts.append(f'<path class="wire {kind}" d="M{x:g} {y - 4:g}h18"/>')
            self._text(x + 23, y, kind, "small")
            x += 40 + len(kind) * 6
        if any(text.kept for text in texts):
            self.parts.append(f'<rect class="pill" x="{x:g}" y="{y - 8:g}" width="16" height="8" rx="4"/>')
            self._text(x + 21, y, "saved", "small")
            x += 68
        if any(DOT in text.words for text in texts):
            self._text(x, y, f"{DOT} what comes in", "small")
            x += 100
        return x

    def _text(self, x: float, y: float, words: str, kind: str) -> None:
        if words:
            self.parts.append(f'<text x="{x:g}" y="{y:g}" class="{kind}">{escape(words)}</text>')


def _towards(corner: tuple[float, float], other: tuple[float, float]) -> tuple[float, float]:
    """A point near a corner, on the way to another point."""
    (x, y), (to_x, to_y) = corner, other
    length = abs(to_x - x) + abs(to_y - y)
    share = min(5.0, length / 2) / length if length else 0.0
    return x + (to_x - x) * share, y + (to_y - y) * share


def _tooltip(graph: Graph, nodes: Iterable[int]) -> str:
    """The user's lines, each with the nodes that it made."""
    rows: list[str] = []
    last = None
    for node in (graph[each] for each in nodes):
        if node.line is not None and node.line != last:
            last = node.line
            rows.append(f"{last.number}: {last.text}" if last.text else f"{last.filename}:{last.number}")
        rows.append(f"    {graph.node_text(node)}")
    more = [f"… {len(rows) - _TIP} more"] if len(rows) > _TIP else []
    return escape("\n".join(clip(_clean(row), 200) for row in [*rows[:_TIP], *more]))


def _clean(text: str) -> str:
    """Text on one line, without the characters that XML cannot hold."""
    return _NO_XML.sub("\ufffd", text.replace("\n", " "))
