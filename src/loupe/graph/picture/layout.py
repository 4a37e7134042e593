"""Lay a picture out: give every row, box and line its place; boxes never share a row, so no line crosses a box."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from loupe.graph.picture.folding import Row
from loupe.graph.picture.outline import Box, EdgeKind, Mark, Outline, Text

LINE = 17.0  # the height of a line of text
CHARACTER = 7.25  # the width of a character
MARGIN = 14.0
_PORT, _TRACK, _GAP, _STUB = 9.0, 8.0, 10.0, 18.0
_CHARACTERS = {1: 58, 2: 42, 3: 34}  # in a line of a box, by how many columns there are
_TEXTS = 8  # lines of a box, at most
End = tuple[Literal["mark", "box"], int]
Port = tuple[Literal["in", "out"], End]


class Column(NamedTuple):
    """What the boxes of an invoke stand in; later invokes of a block with many share one."""

    label: str
    x: float
    width: float


class Wire(NamedTuple):
    """A line through these points, with its tip at the last."""

    kind: EdgeKind
    points: list[tuple[float, float]]


class Link(NamedTuple):
    """An edge between rows."""

    kind: EdgeKind
    source: End
    target: End


@dataclass(eq=False)
class Placed:
    """A row and where it is, with the ports at which lines come to the sides of its box and leave them."""

    row: Row
    texts: list[Text]
    column: int
    top: float = 0.0
    height: float = 0.0
    left: list[Port] = field(default_factory=list)
    right: list[Port] = field(default_factory=list)

    @property
    def middle(self) -> float:
        """The height of the mark, and of the first line of the box."""
        return self.top + (5 + LINE / 2 if self.texts else self.height / 2)

    def port(self, port: Port) -> float:
        """The height of a port."""
        side = self.left if port in self.left else self.right
        return self.middle + _PORT * (side.index(port) - (0.5 if len(side) > 1 else 0))


@dataclass(frozen=True)
class Layout:
    """A picture in numbers; `model` is where the model's line is."""

    rows: list[Placed]
    columns: list[Column]
    wires: list[Wire]
    model: float
    width: float
    height: float


def lay_out(drawn: Outline, rows: list[Row], model: float) -> Layout:
    """Give everything its place, to the right of the model's line."""
    return _Arranger(drawn, rows, model).arrange()


def clip(words: str, length: int) -> str:
    """Words that are no longer than this."""
    return words if len(words) <= length else f"{words[: length - 1]}…"


class _Arranger:
    def __init__(self, drawn: Outline, rows: list[Row], model: float) -> None:
        self.model = model
        self.lanes = drawn.columns
        self.count = len(set(self.lanes.values()))
        self.characters = _CHARACTERS.get(self.count, 28)
        self.rows = [self._placed(row) for row in rows]
        where: dict[Box | Mark, End] = {}
        for place, row in enumerate(rows):
            for each in (row, *row.folded):
                if each.mark is not None:
                    where[each.mark] = ("mark", place)
                if each.box is not None:
                    where[each.box] = ("box", place)
        links = [Link(edge.kind, where[edge.source], where[edge.target]) for edge in drawn.edges]
        self.links = [link for link in dict.fromkeys(links) if link.source != link.target]

    def arrange(self) -> Layout:
        straight = {link for link in self.links if self._is_straight(link)}
        for link in self.links:
            if link not in straight:
                self._open_ports(link)
        top = MARGIN + (LINE + 6 if self.count > 1 else 0)
        for place, row in enumerate(self.rows):
            row.left.sort(key=lambda port: (port[1] != ("mark", place), port[1]))
            lines = len(row.texts) * LINE + 10
            row.top, row.height = top, max(lines, max(len(row.left), len(row.right)) * _PORT + 12 if row.texts else 26)
            top += row.height + _GAP
        tracks = self._tracks(straight)
        columns = self._columns(tracks)
        wires = [
            self._straight(link, columns) if link in straight else self._wire(link, columns, tracks)
            for link in self.links
        ]
        last = self.count - 1
        width = columns[-1].x + columns[-1].width + _room(tracks, last) if columns else self.model + MARGIN
        return Layout(self.rows, columns, wires, self.model, width + MARGIN, top - _GAP + MARGIN)

    # -- rows and columns ----------------------------------------------------------------------------------------------

    def _placed(self, row: Row) -> Placed:
        if row.folded:
            boxes = [each.box for each in row.folded if each.box is not None]
            text = [Text(-1, row.label, of=-1)]
            return Placed(row, text if boxes else [], self.lanes[boxes[0].lane] if boxes else 0)
        if row.box is None:
            return Placed(row, [], 0)
        texts = [text._replace(words=clip(text.words, self.characters)) for text in row.box.texts]
        if len(texts) > _TEXTS:
            middle = texts[3:-3]
            kept = sum(text.kept for text in middle)
            words = f"… {len(middle)} more" + (f", {kept} of them saved" if kept else "")
            texts = [*texts[:3], Text(-1, words, of=-1), *texts[-3:]]
        return Placed(row, texts, self.lanes[row.box.lane])

    def _columns(self, tracks: dict[tuple[int, object], int]) -> list[Column]:
        x = self.model + _room(tracks, -1)
        found: list[Column] = []
        for place in range(self.count):
            lanes = [lane for lane, column in self.lanes.items() if column == place]
            label = "all rows" if lanes[0] is None else f"invoke {lanes[0]}"
            if len(lanes) > 1:
                label = f"invokes {lanes[0]} to {lanes[-1]}"
            texts = [text for row in self.rows if row.column == place for text in row.texts]
            longest = max((len(text.words) + (2 if text.kept else len(f" %{text.node}")) for text in texts), default=0)
            width = max(130.0, longest * CHARACTER + 22)
            found.append(Column(label if self.count > 1 else "", x, width))
            x += width + _room(tracks, place)
        return found

    # -- lines ---------------------------------------------------------------------------------------------------------

    def _column(self, end: End) -> int:
        return -1 if end[0] == "mark" else self.rows[end[1]].column

    def _is_straight(self, link: Link) -> bool:
        """Whether a line can go from the bottom of a box to the top of the next one in its column."""
        (a, source), (b, target) = link.source, link.target
        if "mark" in (a, b) or source > target or self._column(link.source) != self._column(link.target):
            return False
        return not any(row.texts and row.column == self._column(link.source) for row in self.rows[source + 1 : target])

    def _gutter(self, link: Link) -> int:
        return min(self._column(link.source), self._column(link.target))

    def _bus(self, link: Link) -> tuple[int, object]:
        """What lines share a vertical: those from one source, and those to one mark."""
        shared = ("to", link.target) if link.target[0] == "mark" else ("from", link.source, link.kind)
        return self._gutter(link), shared

    def _open_ports(self, link: Link) -> None:
        source, target = self._column(link.source), self._column(link.target)
        if link.source[0] == "box":
            row = self.rows[link.source[1]]
            side = row.left if target < source else row.right
            _put(side, self._leaving(link))
        if link.target[0] == "box":
            row = self.rows[link.target[1]]
            side = row.left if target > source else row.right
            _put(side, ("in", link.source))

    def _leaving(self, link: Link) -> Port:
        """The port by which a box gives its value is one for all who take it on that side."""
        return "out", link.target if link.target[0] == "mark" else link.source

    def _tracks(self, straight: set[Link]) -> dict[tuple[int, object], int]:
        """Which of the parallel verticals each bus has in its gutter; those that overlap have different ones."""
        spans: dict[tuple[int, object], tuple[int, int]] = {}
        for link in self.links:
            if link not in straight and not self._is_level(link):
                ends = sorted((link.source[1], link.target[1]))
                low, high = spans.get(self._bus(link), ends)
                spans[self._bus(link)] = min(low, ends[0]), max(high, ends[1])
        tracks: dict[tuple[int, object], int] = {}
        ends_at: dict[int, list[int]] = {}
        for bus, (low, high) in sorted(spans.items(), key=lambda item: item[1]):
            taken = ends_at.setdefault(bus[0], [])
            free = next((track for track, end in enumerate(taken) if end < low), len(taken))
            taken[free : free + 1] = [high]
            tracks[bus] = free
        return tracks

    def _is_level(self, link: Link) -> bool:
        return link.source[1] == link.target[1]

    def _straight(self, link: Link, columns: list[Column]) -> Wire:
        source, target = self.rows[link.source[1]], self.rows[link.target[1]]
        x = columns[source.column].x + 24
        return Wire(link.kind, [(x, source.top + source.height), (x, target.top)])

    def _wire(self, link: Link, columns: list[Column], tracks: dict[tuple[int, object], int]) -> Wire:
        source, target = self._column(link.source), self._column(link.target)
        start = self._point(link.source, self._leaving(link), columns, leftward=target < source)
        end = self._point(link.target, ("in", link.source), columns, leftward=target > source)
        if self._is_level(link):
            return Wire(link.kind, [start, end])
        gutter, bus = self._gutter(link), self._bus(link)
        begin = self.model if gutter < 0 else columns[gutter].x + columns[gutter].width
        x = begin + _STUB + _TRACK * tracks[bus]
        return Wire(link.kind, [start, (x, start[1]), (x, end[1]), end])

    def _point(self, end: End, port: Port, columns: list[Column], *, leftward: bool) -> tuple[float, float]:
        row = self.rows[end[1]]
        if end[0] == "mark":
            return self.model + 7, self._height_at_mark(end, "out" if port[0] == "in" else "in")
        column = columns[row.column]
        return column.x + (0 if leftward else column.width), row.port(port)

    def _height_at_mark(self, mark: End, leads: Literal["in", "out"]) -> float:
        """Lines that lead into boxes leave a mark above those that come out of boxes, where there are both."""
        row = self.rows[mark[1]]
        if (leads, mark) in row.left:
            return row.port((leads, mark))
        both = any(link.source == mark for link in self.links) and any(link.target == mark for link in self.links)
        return row.middle + (0 if not both else _PORT / 2 if leads == "out" else -_PORT / 2)


def _put(side: list[Port], port: Port) -> None:
    if port not in side:
        side.append(port)


def _room(tracks: dict[tuple[int, object], int], gutter: int) -> float:
    """How wide a gutter is."""
    taken = [track for (place, _), track in tracks.items() if place == gutter]
    return (_STUB * 2 + _TRACK * max(taken)) if taken else (_STUB * 2 if gutter < 0 else _STUB)
