"""Read a drawn picture back: its boxes, sites, lines and words, by where they are."""

import re
import xml.etree.ElementTree as ET
from dataclasses import dataclass, field

SVG = "{http://www.w3.org/2000/svg}"


@dataclass
class Rect:
    x: float
    y: float
    width: float
    height: float
    words: list[str] = field(default_factory=list)
    saved: list[str] = field(default_factory=list)
    tooltip: str = ""

    @property
    def right(self):
        return self.x + self.width

    @property
    def bottom(self):
        return self.y + self.height

    def touches(self, x, y, by=0.6):
        """Whether a point is on its rim."""
        inside = self.x - by <= x <= self.right + by and self.y - by <= y <= self.bottom + by
        return inside and not self.holds(x, y, by)

    def holds(self, x, y, by=0.6):
        """Whether a point is well inside it."""
        return self.x + by < x < self.right - by and self.y + by < y < self.bottom - by


@dataclass
class Line:
    kind: str
    points: list[tuple[float, float]]


class Picture:
    """What a reader sees: `boxes` and `marks` from top to bottom, `lines`, `titles` of parts, `gaps`, all `words`."""

    def __init__(self, drawing):
        self.root = ET.fromstring(str(drawing))
        self.words = [text_of(each) for each in self.root.iter(f"{SVG}text")]
        self.boxes = [
            self._box(group) for group in self.root.iter(f"{SVG}g") if kind_of(group.find(f"{SVG}rect"), "box")
        ]
        self.marks = [
            (
                text_of(group.find(f"{SVG}text"), own=True),
                rect_of(group.find(f"{SVG}rect")),
                group.find(f"{SVG}title").text,
            )
            for group in self.root.iter(f"{SVG}g")
            if kind_of(group.find(f"{SVG}rect"), "point") or kind_of(group.find(f"{SVG}rect"), "grad")
        ]
        self.marks.sort(key=lambda mark: mark[1].y)
        self.boxes.sort(key=lambda box: box.y)
        self.columns = [rect_of(each) for each in self.root.iter(f"{SVG}rect") if kind_of(each, "invoke")]
        self.titles = self._beside("ink strong end")
        self.gaps = self._beside("dim end")
        self.lines = [
            Line(each.get("class").split()[1], points_of(each.get("d")))
            for each in self.root.iter(f"{SVG}path")
            if kind_of(each, "wire") and "L" in each.get("d")
        ]

    @property
    def sites(self):
        return [label for label, _, _ in self.marks]

    def box(self, words):
        """The one box that has these words."""
        (found,) = [box for box in self.boxes if words in (*box.words, *box.saved)]
        return found

    def mark(self, label):
        """The one mark with this label."""
        (found,) = [rect for name, rect, _ in self.marks if name == label]
        return found

    def joined(self, kind, start, end):
        """Whether a line of this kind leads from one thing to another."""
        return any(
            near(start, *line.points[0]) and near(end, *line.points[-1]) for line in self.lines if line.kind == kind
        )

    def _beside(self, kind):
        found = [each for each in self.root.iter(f"{SVG}text") if each.get("class") == kind]
        return [(text_of(each), float(each.get("y"))) for each in found]

    def _box(self, group):
        box = rect_of(group.find(f"{SVG}rect"))
        box.tooltip = group.find(f"{SVG}title").text
        for each in group.findall(f"{SVG}text"):
            if kind_of(each, "onpill"):
                box.saved.append(each.text)
            elif not kind_of(each, "small"):
                box.words.append(each.text)
        return box


def near(rect, x, y):
    """Whether a point is at the rim of a box, or close to the side of a mark."""
    return rect.touches(x, y) or (rect.width == 10 and rect.x - 8 <= x <= rect.right + 8 and rect.y <= y <= rect.bottom)


def kind_of(element, kind):
    return element is not None and kind in (element.get("class") or "").split()


def text_of(element, own=False):
    return (element.text or "") if own else "".join(element.itertext())


def rect_of(element):
    return Rect(*(float(element.get(name)) for name in ("x", "y", "width", "height")))


def points_of(d):
    """The corners of a path of straight pieces with rounded corners."""
    points = []
    for command, numbers in re.findall(r"([MLQ])([^MLQ]*)", d):
        values = [float(number) for number in numbers.split()]
        if command == "Q":  # the corner itself; the piece that comes before ends just short of it
            points[-1] = (values[0], values[1])
        else:
            points.append((values[0], values[1]))
    return points
