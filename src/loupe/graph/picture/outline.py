"""Arrange a graph beside the model, for a picture: what its boxes are, at which site each is due, what leads where."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple

from loupe.graph.node import Node, Ref, Site, Steps
from loupe.graph.opset import effect_of
from loupe.graph.passes import trace_memory
from loupe.graph.picture.order import AFTER, Place
from loupe.graph.picture.phrases import DOT, VIEWS, kept_as, phrase
from loupe.graph.picture.timetable import NAMED, Timetable, values_taken

if TYPE_CHECKING:
    from loupe.graph.graph import Graph

EdgeKind = Literal["read", "write", "gradient", "value"]
_COLUMNS = 6  # at most; later invokes share the last one
_FIRST = float("-inf")
_TRACKING = frozenset(("loupe.require_grad", "loupe.retain_grad"))  # these change no values


class Text(NamedTuple):
    """A line of a box: what a node does, or the name under which the value of the node `of` is kept."""

    node: int
    words: str
    of: int
    kept: bool = False


@dataclass(eq=False)
class Box:
    """Nodes of one invoke that follow from each other and are due at one moment."""

    place: Place
    lane: int | None
    nodes: list[int] = field(default_factory=list)
    texts: list[Text] = field(default_factory=list)
    last: int = -1


@dataclass(eq=False)
class Mark:
    """A point on the model's line: a site, or, without one, the beginning of a step or of a backward pass.

    `nodes` are those that read and write the site.
    """

    place: Place
    label: str
    site: Site | None = None
    nodes: list[int] = field(default_factory=list)


class Edge(NamedTuple):
    """Something leads from a box or mark to another."""

    kind: EdgeKind
    source: Box | Mark
    target: Box | Mark


class Outline(NamedTuple):
    """Marks and boxes, each in the order of the run, and the edges between them; `columns` says where invokes stand."""

    marks: list[Mark]
    boxes: list[Box]
    edges: list[Edge]
    columns: dict[int | None, int]


def outline(graph: Graph) -> Outline:
    """Arrange a graph for a picture.

    >>> [mark.label for mark in outline(tracer.graph).marks]
    ['transformer.h.8.output', 'model.output']
    """
    return _Outliner(graph).build()


class _Outliner:
    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.times = Timetable(graph)
        self.users: dict[int, list[Node]] = {node.id: [] for node in graph}
        for node in graph:
            for ref in values_taken(node):
                self.users[ref].append(node)
        self.plain = self._plain_reads()
        self.boxes: dict[int, Box] = {}
        self.marks: dict[Place, Mark] = {}
        self.edges: dict[Edge, None] = {}

    def build(self) -> Outline:
        for node in self.graph:
            if node.kind in ("read", "write"):
                self._mark(node)
            if node.id not in self.plain and not self._stands_by_its_name(node):
                self._add(node)
        memory = trace_memory(self.graph)
        for node_id, box in self.boxes.items():
            self._connect(self.graph[node_id], box)
            changed = () if self.graph[node_id].target in _TRACKING else memory.mutates.get(node_id, ())
            for kind, root in sorted(changed):
                if kind == "node" and self.graph[root].kind == "read":
                    self.edges[Edge("write", box, self._mark(self.graph[root]))] = None
        self._begin_parts()
        boxes = sorted(dict.fromkeys(self.boxes.values()), key=lambda box: (box.place, box.last))
        lanes = sorted({box.lane for box in boxes}, key=lambda lane: -1 if lane is None else lane)
        columns = {lane: min(place, _COLUMNS - 1) for place, lane in enumerate(lanes)}
        return Outline([self.marks[place] for place in sorted(self.marks)], boxes, list(self.edges), columns)

    def _plain_reads(self) -> dict[int, int]:
        """Reads that need no box of their own, and views of them: who takes them takes them from the site.

        The read of each is given. One that is taken in another invoke, or outside its steps, keeps its box.
        """
        plain: dict[int, int] = {}
        for node in self.graph:
            users = self.users[node.id]
            if any(_scope(user) != _scope(node) and user.kind != "save" for user in users):
                continue
            if node.kind == "read":
                plain[node.id] = node.id
            elif node.target in VIEWS and node.refs()[0] in plain and len(_workers(users)) > 1:
                plain[node.id] = plain[node.refs()[0]]
        return plain

    def _stands_by_its_name(self, node: Node) -> bool:
        return node.kind in NAMED and not any(user.kind == "save" for user in self.users[node.id])

    def _add(self, node: Node) -> None:
        """Put a node into the box that it goes on, or into one of its own."""
        for ref in values_taken(node):
            box = self.boxes.get(ref)
            if box is None or box.place != self.times.places[node.id] or self.graph[ref].steps != node.steps:
                continue
            if node.kind == "save":
                texts = [at for at, text in enumerate(box.texts) if text.of == ref]
                box.texts.insert(
                    max(texts, default=len(box.texts) - 1) + 1, Text(node.id, kept_as(node), of=ref, kept=True)
                )
                box.nodes.append(node.id)
                self.boxes[node.id] = box
                return
            if box.last == ref and box.lane == node.invoke and _workers(self.users[ref]) == [node]:
                break
        else:
            box = Box(self.times.places[node.id], node.invoke)
        kept = node.kind in ("save", "cache")
        if not (box.texts and self._puts_back(node)):
            box.texts.append(Text(node.id, kept_as(node) if kept else self._words(node, box), of=node.id, kept=kept))
        box.nodes.append(node.id)
        box.last = node.id
        self.boxes[node.id] = box

    def _puts_back(self, node: Node) -> bool:
        """Whether a node is what Python adds to `x[key] += y`: it puts the changed part where it is already."""
        if node.target != "operator.setitem" or type(node.args[2]) is not Ref:
            return False
        part = self.graph[node.args[2].node]
        while part.kind == "apply" and effect_of(part.target) == "inplace" and type(part.args[0]) is Ref:
            part = self.graph[part.args[0].node]
        return part.target == "operator.getitem" and part.id != node.args[2].node and part.args == node.args[:2]

    def _words(self, node: Node, box: Box) -> str:
        names: dict[int, str] = {}
        coming: list[int] = []
        for ref in values_taken(node):
            if self._stands_by_its_name(self.graph[ref]):
                names[ref] = str(self.graph[ref].target)
            else:
                names[ref] = f"%{self.plain.get(ref, ref)}"
                coming.append(ref)
        if len(coming) == 1 or box.last in coming:
            names[coming[0] if len(coming) == 1 else box.last] = DOT
        return phrase(self.graph, node, names)

    def _mark(self, node: Node) -> Mark:
        """The mark of the site that a node reads or writes."""
        place = self.times.opening(node)
        mark = self.marks.get(place)
        if mark is None:
            mark = self.marks[place] = Mark(place, self._label(node), node.site)
        if node.id not in mark.nodes:
            mark.nodes.append(node.id)
        return mark

    def _label(self, node: Node) -> str:
        if node.gradient_of is None:
            return str(node.site._replace(call=self.times.order.call_in_step(node.site)))
        of = self.graph[node.gradient_of]
        while of.kind == "apply" and of.target in VIEWS:
            of = self.graph[of.refs()[0]]
        if of.kind == "parameter":
            return f"∂ {of.target}"
        return f"∂ {self._label(of) if of.kind == 'read' else f'%{of.id}'}"

    def _connect(self, node: Node, box: Box) -> None:
        """The edges of what a node takes, reads and writes."""
        for ref in values_taken(node):
            if ref in self.plain:
                self._edge(self.graph[self.plain[ref]], box)
            elif ref in self.boxes and self.boxes[ref] is not box:
                self.edges[Edge("value", self.boxes[ref], box)] = None
        if node.kind == "read":
            self._edge(node, box)
        elif node.kind == "write":
            self.edges[Edge("write", box, self._mark(node))] = None
        elif node.kind == "backward":
            number = self.graph.backwards.index(node.id)
            begin = self._begin(Place(3, number), "backward pass" + (f" {number}" if self.graph.backwards[1:] else ""))
            self.edges[Edge("gradient", box, begin)] = None

    def _edge(self, read: Node, box: Box) -> None:
        self.edges[Edge("read" if read.gradient_of is None else "gradient", self._mark(read), box)] = None

    def _begin_parts(self) -> None:
        """Mark where each step of a generation begins, and where all of them are over."""
        places = [*self.marks, *(box.place for box in self.boxes.values())]
        parts = {place[:3] for place in places if place.part == 1}
        if len(parts) < 2 and not any(group for _, _, group in parts):
            return
        steps = {node.steps.group: node.steps for node in self.graph if node.steps is not None}
        for part, step, group in sorted(parts):
            title = f"step {step}" if self.times.order.known else f"call {step}"
            if group:
                title = "every step" if str(steps[group]) == "0:" else f"each of steps {steps[group]}"
            self._begin(Place(part, step, group), title)
        if any(place.part == AFTER.part for place in places):
            self._begin(AFTER, "after the last step")

    def _begin(self, place: Place, title: str) -> Mark:
        """The mark of a part of the run; it stands before all sites in it."""
        place = place._replace(index=(_FIRST,))
        return self.marks.setdefault(place, Mark(place, title))


def _workers(users: list[Node]) -> list[Node]:
    """Those who do something with a value; to save it is not to do something."""
    return [user for user in users if user.kind != "save"]


def _scope(node: Node) -> tuple[int | None, Steps | None]:
    return node.invoke, node.steps
