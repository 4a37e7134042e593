"""Write a graph: the only place that appends nodes, and the keeper of the scope in which the block stands."""

from __future__ import annotations

import sys
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from loupe.errors import BlockError, Line, NotReachedError
from loupe.graph.graph import Graph
from loupe.graph.node import Node, Ref, Site, Steps
from loupe.graph.opset import effect_of
from loupe.ops.table import function_name
from loupe.trace.arguments import Arguments
from loupe.trace.execution import Execution, Owner
from loupe.trace.functions import BlockMode
from loupe.trace.handles import isinstance_proxy, unwrap
from loupe.trace.kept import Kept, named_twice
from loupe.trace.kinds import may_be_tensor
from loupe.trace.modes import BlockModes
from loupe.trace.parameters import Parameters
from loupe.trace.proxy import Cell, Proxy, make_proxy
from loupe.trace.scope import Scope
from loupe.trace.source import user_line
from loupe.trace.stacks import open_recorders

if TYPE_CHECKING:
    from loupe.trace.session import Session


class Views(NamedTuple):
    """The node that reads a site, and the handles on its value, by the view that they give of it."""

    ref: Ref
    proxies: dict[str | None, Proxy]


class Recorder:
    """Appends nodes to a graph as the body of a block runs.

    `owner` is the model that the block is open on. `open` turns false when the block ends. `scope` says where in the
    block the user stands, `modes` in which torch modes it was opened; `arguments` are what nodes take beside the values
    of the block, and `kept` is what outlasts it.
    """

    def __init__(
        self, owner: Owner, execution: Execution, graph: Graph, line: Line, session: Session | None = None
    ) -> None:
        self.owner = owner
        self.session = session
        self.execution = execution
        self.graph = graph
        self.line = line
        self.scope = Scope(execution)
        self.arguments = Arguments(graph, self.scope)
        self.kept = Kept(graph, execution, [] if session is None else session.containers)
        self.modes = BlockModes()
        self.open = False
        self.failed = False
        self.aside = False  # other blocks of the session run just now: what is called is no line of this one
        self.looks = 0
        self.generates = False
        self.parameter_gradients = False
        self.parameters: Parameters | None = None  # in an edit
        self.inputs: list[Any] = []
        self.written: set[int] = set()
        self._mode: BlockMode | None = None
        self._reads: dict[tuple[Site, int | None, Steps | None], Views] = {}

    # -- nodes ---------------------------------------------------------------------------------------------------------

    def append(
        self,
        kind: Any,
        target: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
        line: Line | None = None,
    ) -> Proxy:
        """Record a node where the block stands; gives the user's handle on its value."""
        ref = self._append(kind, target, args, kwargs, line or user_line(sys._getframe(2)))
        return self._handle(ref, may_be_tensor(kind, target, args, kwargs))

    def _append(self, kind: Any, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any] | None, line: Line) -> Ref:
        if not self.open:
            raise BlockError(
                "a value of a block is used where the block cannot record",
                remedy="use it inside the `with` block that made it, or save it there",
                line=line,
            )
        nodes, scope = self.graph.nodes, self.scope
        place = len(nodes)
        node = Node(place, kind, target, args, {} if kwargs is None else kwargs, scope.invoke, line, scope.steps)
        if kind == "apply" or kind == "call":
            node.modes = self.modes.of_line()
        nodes.append(node)
        return Ref(place)

    def _handle(self, ref: Ref, tensor: bool, block_site: Site | None = None) -> Proxy:
        proxy = make_proxy(self, ref, tensor=tensor, block_site=block_site)
        if self.session is not None:
            self.kept.hand_out(proxy)
        return proxy

    def encode(self, value: Any) -> Any:
        """Turn an argument into what a node holds: references for proxies, constants for tensors and other objects."""
        return self.arguments.encode(value, self)

    def apply(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None) -> Proxy:
        """Record one operation of the table."""
        encode = self.arguments.encode
        if effect_of(name) == "inplace" and not isinstance_proxy(args[0]):
            self.written.add(id(args[0]))
        return self.append(
            "apply",
            name,
            tuple([encode(arg, self) for arg in args]),
            {key: encode(arg, self) for key, arg in kwargs.items()} if kwargs else None,
        )

    def apply_function(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Proxy:
        """Record a call of a torch function, or of any Python function, which then stays local."""
        name = function_name(function)
        if name is None:
            name = f"local.{getattr(function, '__qualname__', type(function).__qualname__)}"
            known = self.graph.functions.setdefault(name, function)
            if known is not function:
                name = f"{name}#{len(self.graph.functions)}"
                self.graph.functions[name] = function
        return self.apply(name, args, kwargs)

    def call_module(self, path: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Proxy:
        """Record a call of one of the model's own modules on values of the block."""
        if self.parameters is not None:
            self.parameters.set_changed()
        arguments = tuple(self.encode(arg) for arg in args)
        return self.append("call", path, arguments, {key: self.encode(arg) for key, arg in kwargs.items()})

    def parameter(self, path: str) -> Proxy:
        """Record the reading of a parameter or buffer; an edit gets a copy, which it may change in place."""
        line = user_line(sys._getframe(2))
        return (
            self.append("parameter", path, line=line) if self.parameters is None else self.parameters.read(path, line)
        )

    def read(self, site: Site, view: str | None = None) -> Proxy:
        """Record the reading of a site; a second reading with no write in between is the same value.

        `view` says how a host wants the value to be seen: "logits" for a causal language model's output,
        "hidden_states" for a decoder block's.
        """
        scope = self.scope
        where = site, scope.invoke, scope.steps
        views = self._reads.get(where)
        if views is None:
            line = user_line(sys._getframe(2))
            views = self._reads[where] = Views(self._append("read", site, (), None, line), {})
        ref, proxies = views
        proxy = proxies.get(view)
        if proxy is None:
            if view == "logits":
                proxy = self.append("apply", "loupe.logits", (ref,), line=user_line(sys._getframe(2)))
            else:
                tensor = site.port == "grad" or self.execution.is_tensor(site)
                proxy = self._handle(ref, tensor, site if view == "hidden_states" else None)
            proxies[view] = proxy
        return proxy

    def write(self, site: Site, value: Any) -> None:
        """Record that the model goes on with `value` at a site."""
        line = user_line(sys._getframe(2))
        self.append("write", site, (self.encode(value),), line=line)
        changed, lands = site.event, site.lands
        for known in list(self._reads):
            event, steps = known[0].event, known[2]
            same = event in (changed, lands) or event.phase == changed.phase == "grad"
            if same or steps != self.scope.steps:
                del self._reads[known]

    def set_item(self, proxy: Proxy, key: Any, value: Any) -> None:
        """Record `value[key] = …`: in place in a tensor, a list or a dict; a tuple or model output is written anew."""
        node = self.graph[self.encode(proxy).node]
        if node.kind == "read" and type(key) in (int, str) and not self.execution.describes:
            self.write(node.site, self.apply("loupe.set_item", (proxy, key, value)))  # what it is, the run will tell
        elif node.kind == "read" and type(key) in (int, str) and not self.execution.is_tensor(node.site):
            self.write(node.site, self.apply("loupe.with_item", (proxy, key, value)))
        else:
            self.apply("operator.setitem", (proxy, key, value))

    # -- values that outlast the block ---------------------------------------------------------------------------------

    def save(self, proxy: Proxy, name: str | None = None) -> Proxy:
        """Record that a value is kept past the block."""
        if proxy._cell is not None and name is None:
            return proxy
        if name is None:
            name = self.kept.free_name("value")
        elif self.kept.has(name):
            raise named_twice(name, user_line(sys._getframe(2)))
        self._save_as(name, proxy)
        return proxy

    def keep(self, proxy: Proxy) -> Cell:
        """Let a block that has ended, and has not run, also keep this value: a later block of the session needs it."""
        if proxy._cell is None:
            name = self.kept.free_name("kept")
            self._save_as(name, proxy)
            self.kept.for_session.add(name)
        assert proxy._cell is not None
        return proxy._cell

    def settle(self) -> None:
        """Let the block run, where it has ended and waits in a session."""
        if self.session is not None:
            self.session.settle(self)

    def keep_handles(self) -> None:
        """Keep every value that is still in the user's hands."""
        for proxy in self.kept.held():
            self.keep(proxy)

    def _save_as(self, name: str, proxy: Proxy) -> None:
        nodes = self.graph.nodes
        node = nodes[proxy._ref.node]
        line = user_line(sys._getframe(3)) if self.open else self.line
        nodes.append(Node(len(nodes), "save", name, (proxy._ref,), {}, node.invoke, line, node.steps))
        self.kept.add(name, proxy)

    def keep_container(self, container: Any) -> Any:
        """Keep the values that a list or dict holds when the block ends."""
        if self.parameters is not None:
            raise BlockError(
                "a container is saved in an edit, which runs in blocks to come",
                remedy="save it in a trace of the edited model",
                line=user_line(sys._getframe(2)),
            )
        self.kept.containers.append(container)
        return container

    def save_containers(self) -> None:
        """Record the saving of every value inside the saved containers."""
        for proxy in self.kept.in_containers():
            if proxy._cell is None:
                self.save(proxy)

    # -- the run -------------------------------------------------------------------------------------------------------

    def add_input(self, args: tuple[Any, ...], kwargs: dict[str, Any], line: Line) -> int:
        """Give the run one prompt (or batch); returns its number."""
        given = unwrap(args), unwrap(kwargs) if kwargs else kwargs
        self.inputs.append(given)
        with torch._C.DisableTorchFunction():  # none of what happens to a prompt is a line of the block
            return self.execution.add_input(*given, line)

    def begin_invoke(self, args: tuple[Any, ...], kwargs: dict[str, Any], line: Line) -> None:
        """What follows is about one prompt; a new one where it is given."""
        invoke = self.add_input(args, kwargs, line) if args or kwargs else None
        if invoke is not None:
            self.graph.invokes = invoke + 1
        self.scope.enter_invoke(invoke)

    def peek(self, proxy: Proxy) -> Any:
        """The real value, now; refused for a value of each step where the block stands at none of them."""
        self.scope.check_look(self.graph[proxy._ref.node].steps)
        self.looks += 1
        node = self.encode(proxy).node
        self.graph.looks.append((node, user_line(sys._getframe(2))))
        with self.modes.as_opened():
            return self.execution.peek(node)

    def happens(self, step: int, line: Line) -> bool:
        """Whether a step happens, found out by letting the run proceed to it."""
        probe = Node(len(self.graph), "read", Site("", "input", step), line=line)
        self.graph.nodes.append(probe)
        try:
            with self.modes.as_opened():
                self.execution.peek(probe.id)
        except NotReachedError:
            return False
        return True

    def kind(self) -> Hashable:
        """What the run of this block has to have in common with others to be run with them; None for one alone."""
        kind = self.execution.kind()
        return None if kind is None else (kind, self.modes.opened)

    def with_origin(self) -> Graph:
        """The graph, with what it now says about the model that it is written on."""
        self.graph.origin = self.owner.origin(self.graph.modules)
        return self.graph

    # -- the block's life ----------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Open the block in this thread."""
        others = open_recorders()
        for other in others:
            if other.owner is self.owner:
                raise BlockError(
                    "a block is already open on this model in this thread",
                    remedy="end it first, or use tracer.invoke(...) for several prompts in one pass",
                    line=self.line,
                )
        self.open = True
        self.modes.open()
        others.append(self)

    def watch(self) -> None:
        """Take down the calls of torch functions from here on."""
        self._mode = BlockMode(self)
        self._mode.__enter__()

    def end(self) -> None:
        """Close the block; nothing is recorded from here on."""
        self.open = False
        self._reads.clear()
        stack = open_recorders()
        if self in stack:
            stack.remove(self)
            if self._mode is not None:
                self._mode.__exit__(None, None, None)
                self._mode = None
