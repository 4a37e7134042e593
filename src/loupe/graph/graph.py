"""Hold a recorded program over a model's internals, and print it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from html import escape
from typing import Any

from loupe.errors import Line
from loupe.graph.drawing import Drawing, draw
from loupe.graph.node import RESULT, Const, Event, Named, Node, Ref, Site, map_argument


@dataclass(frozen=True, slots=True)
class Open:
    """A parameter that a graph leaves open: what it is where the one who runs the graph does not say."""

    default: Any = None
    required: bool = False


@dataclass(frozen=True, slots=True)
class Origin:
    """The model on which a graph was written.

    `model` is its id and `revision` the commit or name of its weights, where they are known; `kind` is its class,
    `fingerprint` a digest of its tree. `modules` are the classes of those modules that the graph names, by path.
    """

    kind: str
    fingerprint: str
    model: str | None = None
    revision: str | None = None
    modules: Mapping[str, str] = field(default_factory=dict)


class Graph:
    """Nodes in the order in which the user wrote them, the constants that they use, and the names of what is saved.

    >>> with model.trace("Hello") as tracer:
    ...     logits = model.output.save()
    >>> print(tracer.graph)
    """

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.constants: list[Any] = []
        self.functions: dict[str, Callable[..., Any]] = {}
        self.events: list[Event] = []  # of one pass of the model, in order, where a scan has told; for pictures
        self.parameters: dict[str, Open] = {}
        self.root = ""  # the path of the module that a run calls; '' for the whole model
        self.invokes = 0  # prompts that came with an invoke of their own; with none, the block has one input
        self.generation: dict[str, Any] | None = None  # the options, where the run is a generation
        self.looks: list[tuple[int, Line]] = []  # the nodes that the block looked at, and where
        self.edited = 0  # nodes at the start that edits of the model have put there
        self.originals: dict[int, Any] = {}  # constants as they were before a run changed them
        self.origin: Origin | None = None
        self.memory: tuple[list[Node], int, Any] | None = None  # what `memory_of` has found out about these nodes
        self.parts: tuple[int, ...] | None = None  # of a merged graph: the part that each of its invokes belongs to
        self.structure_key: tuple[Any, ...] | None = None  # of an unrolled graph: names its structure, without a look

    def __len__(self) -> int:
        return len(self.nodes)

    def __iter__(self) -> Iterator[Node]:
        return iter(self.nodes)

    def __getitem__(self, node: int) -> Node:
        return self.nodes[node]

    @property
    def saves(self) -> dict[str, int]:
        """Name under which a value is saved, and the node whose value it is."""
        return {node.target: node.args[0].node for node in self.nodes if node.kind == "save"}

    def part(self, invoke: int | None) -> int | None:
        """Names the rows that an invoke is about: what is in place in others is no business of it; None for all."""
        return invoke if invoke is None or self.parts is None else self.parts[invoke]

    def take_terms(self, other: Graph) -> None:
        """Be run as another graph is: on the same module, with as many prompts, with its open parameters."""
        self.root, self.invokes, self.parameters = other.root, other.invokes, other.parameters

    @property
    def inputs(self) -> int:
        """How many prompts a run of the graph takes."""
        return max(self.invokes, 1)

    @property
    def modules(self) -> list[str]:
        """The paths of the modules that the graph names, each once, in the order of the block."""
        found: dict[str, None] = dict.fromkeys(([self.root] if self.root else []) + [site.path for site in self.sites])
        for node in self.nodes:
            if node.kind == "call":
                found[node.target] = None
            elif node.kind in ("parameter", "set_parameter"):
                found[node.target.rpartition(".")[0]] = None
            elif node.kind == "cache":
                found.update(dict.fromkeys(node.args[0]))
        return list(found)

    @property
    def backwards(self) -> list[int]:
        """The nodes that run a backward pass; a gradient's site counts them from 0."""
        return [node.id for node in self.nodes if node.kind == "backward"]

    def save_result(self) -> str:
        """Add the saving of what the run returns as a whole; gives its name."""
        name, place = "result", len(self.nodes)
        self.nodes.append(Node(place, "read", Site(RESULT, "output")))
        self.nodes.append(Node(place + 1, "save", name, (Ref(place),)))
        return name

    def users_of(self, nodes: Collection[int]) -> set[int]:
        """These nodes, and all that take their values, directly or not."""
        found = set(nodes)
        for node in self.nodes if found else ():
            if not found.isdisjoint(node.refs()):
                found.add(node.id)
        return found

    @property
    def sites(self) -> list[Site]:
        """The model's sites that the graph reads or writes, each once, in the order of the block."""
        return list(
            dict.fromkeys(
                node.site
                for node in self.nodes
                if node.kind in ("read", "write") and node.site.port != "grad" and node.site.path != RESULT
            )
        )

    def __str__(self) -> str:
        return "\n".join(self.lines()) or "(empty graph)"

    def draw(self, rows: int = 60) -> Drawing:
        """A picture: the model's sites from top to bottom as it comes to them, beside them what the block does there.

        >>> tracer.graph.draw().save("patching.svg")

        A notebook shows it; the user's lines are in the tooltips. What repeats is folded, and a picture that would have
        more than `rows` rows loses its middle.
        """
        return draw(self, rows)

    def _repr_html_(self) -> str:
        shown = "" if len(self) > 40 else " open"
        return (
            f"<div>{self.draw()}<details{shown}><summary>{len(self)} nodes</summary>"
            f'<pre style="overflow-x:auto">{escape(str(self))}</pre></details></div>'
        )

    def _repr_svg_(self) -> str:
        return str(self.draw())

    def lines(self) -> list[str]:
        """The printed form: one node a line, with the user's source line where it changes."""
        texts = [self.node_text(node) for node in self.nodes]
        width = min(max((len(text) for text in texts), default=0), 72)
        rows: list[str] = []
        last: Line | None = None
        for node, text in zip(self.nodes, texts, strict=True):
            source = ""
            if node.line is not None and node.line != last:
                last = node.line
                source = f"  # {last.number}: {last.text}" if last.text else f"  # {last.filename}:{last.number}"
            rows.append(f"{text:<{width}}{source}".rstrip())
        return rows

    def node_text(self, node: Node) -> str:
        """One node as text: `%3 = operator.mul(%2, 2)`, with the invoke that it belongs to."""
        args = [self.argument_text(arg) for arg in node.args]
        args += [f"{key}={self.argument_text(arg)}" for key, arg in node.kwargs.items()]
        scope = "" if node.invoke is None else f" @{node.invoke}"
        scope += "" if node.steps is None else f" each {node.steps}"
        scope += "" if node.modes is None else f" ({node.modes})"
        if node.kind == "read":
            return f"%{node.id}{scope} = read {node.site}"
        if node.kind == "write":
            return f"%{node.id}{scope} = write {node.site} <- {args[0]}"
        if node.kind == "save":
            return f"%{node.id}{scope} = save {args[0]} as {node.target!r}"
        if node.kind == "given" and node.target in self.parameters:
            return f"%{node.id}{scope} = {self._open_text(node.target)}"
        if node.kind in ("parameter", "given"):
            return f"%{node.id}{scope} = {node.kind} {node.target}"
        if node.kind == "set_parameter":
            return f"%{node.id}{scope} = set parameter {node.target} <- {args[0]}"
        if node.kind == "cache":
            return f"%{node.id}{scope} = cache {_cached_text(node)} as {node.target!r}"
        if node.kind == "stop":
            return f"%{node.id}{scope} = stop"
        if node.kind == "backward":
            return f"%{node.id}{scope} = backward({', '.join(args)})"
        name = f"{node.target or 'model'}" + (":call" if node.kind == "call" else "")
        return f"%{node.id}{scope} = {name}({', '.join(args)})"

    def _open_text(self, name: str) -> str:
        opened = self.parameters[name]
        return f"open {name}" if opened.required else f"open {name} = {self.argument_text(opened.default)}"

    def argument_text(self, value: Any, names: Mapping[int, str] | None = None) -> str:
        """An argument as text: references as %id (or by the name of their node), tensors by shape and dtype."""

        def leaf(item: Any) -> Any:
            if type(item) is Ref:
                return _Text((names or {}).get(item.node, f"%{item.node}"))
            if type(item) is Const:
                return _Text(constant_text(self.constants[item.index]))
            if item is Ellipsis:
                return _Text("...")
            if type(item) is Named:  # as torch prints its own
                return _Text(f"device(type={item.name!r})" if item.kind == "device" else f"torch.{item.name}")
            return item

        return _argument_repr(map_argument(value, leaf))


def _cached_text(node: Node) -> str:
    paths = node.args[0]
    what = paths[0] or "the model" if len(paths) == 1 else f"{len(paths)} modules"
    options = [f"{key}={value}" for key, value in node.kwargs.items() if value is not None]
    return f"{what} ({', '.join(options)})" if options else what


class _Text(str):
    """Text that prints without quotes inside containers."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def _argument_repr(value: Any) -> str:
    if isinstance(value, slice):
        parts = ["" if part is None else _argument_repr(part) for part in (value.start, value.stop, value.step)]
        return ":".join(parts if value.step is not None else parts[:2])
    if type(value) is tuple:
        inner = ", ".join(_argument_repr(item) for item in value)
        return f"({inner},)" if len(value) == 1 else f"({inner})"
    if type(value) is list:
        return f"[{', '.join(_argument_repr(item) for item in value)}]"
    return repr(value)


def constant_text(value: Any) -> str:
    """A constant as text: `f32[3, 4]` for a tensor, the short repr of anything else."""
    shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
    if shape is not None and dtype is not None:
        short = str(dtype).removeprefix("torch.").replace("bfloat", "bf").replace("float", "f")
        return f"{short}[{', '.join(str(size) for size in shape)}]"
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
