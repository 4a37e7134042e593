"""Define what a graph is made of: sites, nodes, and references between nodes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal, NamedTuple

from loupe.errors import Line

Port = Literal["output", "input", "inputs", "grad", "skip"]
Kind = Literal[
    "read", "write", "apply", "call", "parameter", "set_parameter", "given", "save", "cache", "backward", "stop"
]
Phase = Literal["in", "skip", "out", "grad"]
RESULT = "#result"  # the path of what a run returns as a whole; no module has such a name
_CONTAINERS = frozenset((tuple, list, dict, slice))
_PHASES: dict[Port, Phase] = {"output": "out", "input": "in", "inputs": "in", "grad": "grad", "skip": "skip"}
_PORTS: dict[Phase, Port] = {"in": "input", "skip": "skip", "out": "output", "grad": "grad"}


@dataclass(frozen=True, slots=True)
class Ref:
    """The value of an earlier node, as an argument."""

    node: int


@dataclass(frozen=True, slots=True)
class Const:
    """The constant at this place of the graph's table, as an argument."""

    index: int


@dataclass(frozen=True, slots=True)
class Named:
    """What torch has one object of for each name, as an argument of a graph that is read without torch: a dtype, …"""

    kind: Literal["dtype", "device", "layout", "memory_format"]
    name: str


class Steps(NamedTuple):
    """The steps of a generation that a block is about: those of a slice, or those that are listed, in order.

    `group` tells one such block from another.
    """

    group: int
    start: int
    stop: int | None
    stride: int = 1
    listed: tuple[int, ...] = ()

    def has(self, step: int) -> bool:
        """Whether a step is one of them."""
        if self.listed:
            return step in self.listed
        return step >= self.start and (self.stop is None or step < self.stop) and not (step - self.start) % self.stride

    def of(self, total: int) -> Sequence[int]:
        """The steps, where there are `total` of them."""
        if self.listed:
            return [step for step in self.listed if step < total]
        return range(*slice(self.start, self.stop, self.stride).indices(total))

    def __str__(self) -> str:
        if self.listed:
            return str(list(self.listed))
        stop = "" if self.stop is None else self.stop
        return f"{self.start}:{stop}" + (f":{self.stride}" if self.stride != 1 else "")


class Event(NamedTuple):
    """A moment of a run at which sites are open: a call of a module, or of one operation in it, begins or ends.

    The phase "skip" is the moment after "in" at which a module would do its work, and may be spared it.
    """

    path: str
    phase: Phase
    call: int
    op: str | None = None
    index: int = 0

    def __str__(self) -> str:
        return str(Site(self.path, _PORTS[self.phase], self.call, self.op, self.index))


class Site(NamedTuple):
    """A place where a value passes: module path, port, call number, and for an op tap its name and index."""

    path: str
    port: Port
    call: int = 0
    op: str | None = None
    index: int = 0

    @property
    def event(self) -> Event:
        """The moment at which the site is open."""
        return _event_of(self)

    @property
    def module(self) -> str:
        """The user's words for the module, or the call of it, at which the site is."""
        return describe_place(self.path, self.call, None, 0)

    @property
    def lands(self) -> Event:
        """The moment at which what is written here can be read: a skipped module gives it as its output."""
        return self.event if self.port != "skip" else Event(self.path, "out", self.call)

    def __str__(self) -> str:
        if self.port == "grad":
            return f"{self.path}.grad" + (f" (backward {self.call})" if self.call else "")
        place = describe_place(self.path, self.call, self.op, self.index)
        return place if self.path == RESULT else f"{place}.{self.port}"


@lru_cache(maxsize=4096)
def _event_of(site: Site) -> Event:
    return Event(site.path, _PHASES[site.port], site.call, site.op, site.index)


def is_within(path: str, places: Collection[str]) -> bool:
    """Whether a module path is one of these places, or lies in one of them.

    >>> is_within("sae.encoder", {"sae"})
    True
    """
    return any(path == place or path.startswith(f"{place}.") for place in places)


def describe_place(path: str, call: int, op: str | None, index: int) -> str:
    """The user's words for a module, one of its calls, or one of its operations."""
    if path == RESULT:
        return "tracer.result"
    place = path or "model"
    if call:
        place += f".calls[{call}]"
    return f"{place}.ops.{op}[{index}]" if op else place


class Modes(NamedTuple):
    """The torch modes in which a line stands: whether gradients are tracked, and autocast as (device, dtype)."""

    grad: bool
    autocast: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        gradients = "grad" if self.grad else "no_grad"
        return ", ".join((gradients, *(f"autocast {kind} {dtype}" for kind, dtype in self.autocast)))


@dataclass(slots=True)
class Node:
    """One recorded step: read a site, write a site, apply an operation, call a module, read a parameter, save, …

    `target` is the site (read, write), the operation's name (apply), the module's or parameter's path (call,
    parameter, set_parameter), or the name under which something leaves the run (save, cache) or comes into it (given).
    `invoke` is the number of the prompt whose rows the node sees, None for the whole batch.
    """

    id: int
    kind: Kind
    target: Any
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    invoke: int | None = None
    line: Line | None = None
    steps: Steps | None = None
    modes: Modes | None = None  # where they are not those in which the block was opened

    @property
    def site(self) -> Site:
        """The site that a read or a write is about."""
        return self.target

    @property
    def gradient_of(self) -> int | None:
        """The node whose gradient a read or a write is about; None for every other node."""
        if isinstance(self.target, Site) and self.target.port == "grad":
            return int(self.target.path.removeprefix("%"))
        return None

    def refs(self) -> list[int]:
        """The nodes whose values this one takes, in the order of its arguments."""
        found: list[int] = []
        if self.gradient_of is not None:
            found.append(self.gradient_of)
        for arg in self.args:
            if type(arg) is Ref:
                found.append(arg.node)
            elif type(arg) in _CONTAINERS:
                collect_refs(arg, found)
        for arg in self.kwargs.values():
            collect_refs(arg, found)
        return found


def refs_in(value: Any) -> list[int]:
    """The ids of all references inside an argument."""
    found: list[int] = []
    collect_refs(value, found)
    return found


def collect_refs(value: Any, found: list[int]) -> None:
    """Append the ids of all references inside an argument to `found`."""
    kind = type(value)
    if kind is Ref:
        found.append(value.node)
    elif kind is tuple or kind is list:
        for item in value:
            collect_refs(item, found)
    elif kind is dict:
        for item in value.values():
            collect_refs(item, found)
    elif kind is slice:
        for item in (value.start, value.stop, value.step):
            collect_refs(item, found)


def map_argument(value: Any, replace: Callable[[Any], Any]) -> Any:
    """Rebuild an argument with every leaf passed through `replace`; containers and slices keep their kind."""
    kind = type(value)
    if kind is tuple:
        return tuple([map_argument(item, replace) for item in value])
    if kind is list:
        return [map_argument(item, replace) for item in value]
    if kind is dict:
        return {key: map_argument(item, replace) for key, item in value.items()}
    if kind is slice:
        return slice(
            map_argument(value.start, replace), map_argument(value.stop, replace), map_argument(value.step, replace)
        )
    return replace(value)


def constants_in(node: Node) -> list[Const]:
    """The constants that a node takes."""
    return constants_of((*node.args, *node.kwargs.values()))


def constants_of(value: Any) -> list[Const]:
    """The constants inside an argument."""
    found: list[Const] = []

    def note(leaf: Any) -> Any:
        if type(leaf) is Const:
            found.append(leaf)
        return leaf

    map_argument(value, note)
    return found
