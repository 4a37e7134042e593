"""Fold the rows of a picture: what repeats is shown twice, and a long picture loses its middle."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from loupe.graph.picture.outline import Box, Mark, Outline

_LONGEST = 12  # rows that are looked at as one thing that may repeat
_LEAST = 5  # how often it has to be there, to be folded
_DIGITS = re.compile(r"\d+")


@dataclass(eq=False)
class Row:
    """One row of a picture: a mark on the model's line, a box, both, or other rows that are folded away."""

    mark: Mark | None = None
    box: Box | None = None
    folded: list[Row] = field(default_factory=list)
    label: str = ""


def rows_of(drawn: Outline, most: int) -> list[Row]:
    """The rows of an outline, folded to at most `most`."""
    rows: list[Row] = []
    waiting = list(drawn.marks)
    for box in drawn.boxes:
        while waiting and waiting[0].place <= box.place:
            rows.append(Row(waiting.pop(0)))
        if rows and rows[-1].mark is not None and rows[-1].box is None and rows[-1].mark.place == box.place:
            rows[-1].box = box
        else:
            rows.append(Row(box=box))
    rows.extend(Row(mark) for mark in waiting)
    rows = _fold_repeats(rows, drawn.columns)
    if len(rows) > most:
        head = most * 2 // 3
        middle = rows[head : len(rows) - (most - head - 1)]
        rows = [*rows[:head], Row(folded=_flat(middle), label=_count(middle)), *rows[head + len(middle) :]]
    return rows


def _fold_repeats(rows: list[Row], columns: dict[int | None, int]) -> list[Row]:
    shapes = [_shape(row, columns) for row in rows]
    found: list[Row] = []
    at = 0
    while at < len(rows):
        repeats = [(period, _times(shapes, at, period)) for period in range(1, _LONGEST + 1)]
        period, times = max(repeats, key=lambda repeat: repeat[0] * repeat[1] if repeat[1] >= _LEAST else 0)
        if times < _LEAST:
            found.append(rows[at])
            at += 1
            continue
        end = at + period * times
        middle = rows[at + period : end - period]
        found += rows[at : at + period]
        found.append(Row(folded=middle, label=f"{times - 2} more like this"))
        found += rows[end - period : end]
        at = end
    return found


def _times(shapes: list[object], at: int, period: int) -> int:
    """How often the rows from here on repeat, counted in periods."""
    times, first = 1, shapes[at : at + period]
    while shapes[at + times * period : at + (times + 1) * period] == first:
        times += 1
    return times


def _shape(row: Row, columns: dict[int | None, int]) -> object:
    """What a row looks like, but for the numbers in it."""
    mark = None if row.mark is None else _DIGITS.sub("#", row.mark.label)
    if row.box is None:
        return mark
    return mark, columns[row.box.lane], tuple((_DIGITS.sub("#", text.words), text.kept) for text in row.box.texts)


def _flat(rows: list[Row]) -> list[Row]:
    return [each for row in rows for each in (row.folded or [row])]


def _count(rows: list[Row]) -> str:
    count = sum(len(row.box.nodes) if row.box is not None else 1 for row in _flat(rows))
    return f"{count} more operations"
