"""Write a graph: the only place that appends nodes, and the keeper of the scope in which the block stands."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import Any

import torch

from loupe.errors import BlockError, Line
from loupe.graph.graph import Graph
from loupe.graph.node import Const, Event, Node, Ref, Site, Steps
from loupe.graph.opset import effect_of
from loupe.graph.steps import step_name
from loupe.ops.table import function_name
from loupe.trace.containers import find_proxies, replace_proxies
from loupe.trace.execution import Execution
from loupe.trace.functions import BlockMode
from loupe.trace.handles import isinstance_proxy
from loupe.trace.proxy import Cell, Proxy, make_proxy, settle
from loupe.trace.source import user_line

_INLINE = frozenset(
    (
        *(int, float, bool, complex, str, type(None), type(Ellipsis)),
        *(torch.dtype, torch.device, torch.layout, torch.memory_format),
    )
)
_SEVERAL = frozenset(
    "split chunk unbind topk sort kthvalue split_with_sizes tensor_split hsplit vsplit dsplit svd qr eigh eig slogdet "
    "aminmax var_mean std_mean cummax cummin lstsq lu_factor lu inv_ex cholesky_ex meshgrid broadcast_tensors "
    "with_hidden_states with_logits with_item unsafe_chunk unsafe_split geqrf frexp histogram".split()
)
_BY_DIMENSION = frozenset(("max", "min", "median", "nanmedian", "mode"))
_open = threading.local()


def open_recorders() -> list[Recorder]:
    """The recorders of the blocks that are open in this thread, the innermost last."""
    stack: list[Recorder] | None = getattr(_open, "stack", None)
    if stack is None:
        stack = []
        _open.stack = stack
    return stack


class Recorder:
    """Appends nodes to a graph as the body of a block runs, and knows which prompt's rows the block is about.

    `owner` is the model that the block is open on. `open` turns false when the block ends.
    """

    def __init__(self, owner: object, execution: Execution, graph: Graph, line: Line) -> None:
        self.owner = owner
        self.execution = execution
        self.graph = graph
        self.line = line
        self.open = False
        self.failed = False
        self.invoke: int | None = None
        self.in_invoke = False
        self.step = 0
        self.steps: Steps | None = None
        self.shifts: dict[str, int] = {}
        self._groups = 0
        self.backward: int | None = None
        self.parameter_gradients = False
        self.cells: dict[str, Cell] = {}
        self.containers: list[Any] = []
        self.written: set[int] = set()
        self._constants: dict[int, Const] = {}
        self._reads: dict[tuple[Event, int | None, Steps | None], dict[tuple[Any, ...], Proxy]] = {}

    # -- nodes ---------------------------------------------------------------------------------------------------------

    def apply(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None) -> Proxy:
        """Record one operation of the table."""
        encode = self.encode
        if effect_of(name) == "inplace" and not isinstance_proxy(args[0]):
            self.written.add(id(args[0]))
        return self._append(
            "apply",
            name,
            tuple([encode(arg) for arg in args]),
            {key: encode(arg) for key, arg in kwargs.items()} if kwargs else {},
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
        arguments = tuple(self.encode(arg) for arg in args)
        return self._append("call", path, arguments, {key: self.encode(arg) for key, arg in kwargs.items()})

    def parameter(self, path: str) -> Proxy:
        """Record the reading of a parameter or buffer."""
        return self._append("parameter", path)

    def read(self, site: Site, view: str | None = None) -> Proxy:
        """Record the reading of a site; a second reading with no write in between is the same value.

        `view` says how a host wants the value to be seen: "logits" for a causal language model's output,
        "hidden_states" for a decoder block's.
        """
        reads = self._reads.setdefault((site.event, self.invoke, self.steps), {})
        key = (site.port, view)
        proxy = reads.get(key)
        if proxy is None:
            line = user_line(sys._getframe(2))
            proxy = reads.get((site.port, None))
            if proxy is None:
                proxy = self._append("read", site, line=line)
                reads[site.port, None] = proxy
            if view == "logits":
                proxy = self._append("apply", "loupe.logits", (proxy._ref,), line=line)
            elif view == "hidden_states":
                proxy = make_proxy(self, proxy._ref, tensor=self.execution.is_tensor(site), block_site=site)
            reads[key] = proxy
        return proxy

    def write(self, site: Site, value: Any) -> None:
        """Record that the model goes on with `value` at a site."""
        line = user_line(sys._getframe(2))
        self._append("write", site, (self.encode(value),), line=line)
        for known in list(self._reads):
            if known[0] == site.event or known[2] != self.steps:
                del self._reads[known]

    def gradient(self, proxy: Proxy) -> Proxy:
        """Record the reading of a value's gradient: in the open backward block, or the last one, or the next."""
        return self.read(self._gradient_site(proxy))

    def write_gradient(self, proxy: Proxy, value: Any) -> None:
        """Record that a backward pass goes on with another gradient of a value."""
        self.write(self._gradient_site(proxy), value)

    def _gradient_site(self, proxy: Proxy) -> Site:
        call = self.backward if self.backward is not None else max(len(self.graph.backwards) - 1, 0)
        return Site(f"%{proxy._ref.node}", "grad", call)

    def run_backward(self, proxy: Proxy, args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
        """Record a backward pass from a value; returns its number."""
        number = len(self.graph.backwards)
        options = dict(zip(("gradient", "retain_graph", "create_graph"), args, strict=False)) | kwargs
        if self.parameter_gradients:
            options["parameter_gradients"] = True
        self._append("backward", None, (proxy._ref,), {key: self.encode(value) for key, value in options.items()})
        return number

    def save(self, proxy: Proxy, name: str | None = None) -> Proxy:
        """Record that a value is kept past the block."""
        if proxy._cell is not None and name is None:
            return proxy
        node = len(self.graph.nodes)
        if name is None:
            name = f"value{node}"
        elif name in self.cells:
            raise BlockError(
                f"two values are saved as {name!r}", remedy="give each its own name", line=user_line(sys._getframe(2))
            )
        cell = Cell(proxy)
        outer, self.steps = self.steps, self.graph[proxy._ref.node].steps
        if self.steps is not None:
            cell.most = self.execution.steps()
        self._append("save", name, (proxy._ref,))
        self.steps = outer
        self.cells[name] = cell
        proxy._cell = cell
        return proxy

    def _append(
        self,
        kind: Any,
        target: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
        line: Line | None = None,
    ) -> Proxy:
        if not self.open:
            raise BlockError(
                "a value of a block is used where the block cannot record",
                remedy="use it inside the `with` block that made it, or save it there",
                line=user_line(sys._getframe(2)),
            )
        nodes = self.graph.nodes
        ref = Ref(len(nodes))
        nodes.append(
            Node(
                ref.node, kind, target, args, kwargs or {}, self.invoke, line or user_line(sys._getframe(2)), self.steps
            )
        )
        return make_proxy(self, ref, tensor=self._is_tensor(kind, target, args, kwargs))

    def set_item(self, proxy: Proxy, key: Any, value: Any) -> None:
        """Record `value[key] = …`: in place in a tensor, a list or a dict; a tuple or model output is written anew."""
        node = self.graph[proxy._ref.node]
        if node.kind == "read" and type(key) in (int, str) and not self.execution.is_tensor(node.site):
            self.write(node.site, self.apply("loupe.with_item", (proxy, key, value)))
        else:
            self.apply("operator.setitem", (proxy, key, value))

    def _is_tensor(self, kind: str, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any] | None) -> bool:
        """Whether a node's value is, or may be, a tensor."""
        if kind == "read":
            return target.port == "grad" or self.execution.is_tensor(target)
        if kind != "apply":
            return True
        name = target.rpartition(".")[2]
        if name in _BY_DIMENSION:
            return (len(args) < 2 and not (kwargs and "dim" in kwargs)) or type(args[-1]) is Ref
        return name not in _SEVERAL

    # -- steps of a generation -----------------------------------------------------------------------------------------

    def at_step(self, site: Site) -> Site:
        """The site as the block means it where it stands: at the step of its loop, moved on by `module.next()`."""
        call = site.call + self.step + self.shifts.get(site.path, 0)
        return site if call == site.call else site._replace(call=call)

    def enter_steps(self, start: int, stop: int | None, stride: int) -> None:
        """What follows is about each of these steps."""
        if self.steps is not None or self.step:
            raise BlockError(
                "a step-wise block stands inside another",
                remedy="put one after the other",
                line=user_line(sys._getframe(2)),
            )
        self._groups += 1
        self.steps = Steps(self._groups, start, stop, stride)

    def leave_steps(self) -> None:
        """What follows is about the run as a whole again."""
        self.steps = None
        self.step = 0

    # -- arguments -----------------------------------------------------------------------------------------------------

    def encode(self, value: Any) -> Any:
        """Turn an argument into what a node holds: references for proxies, constants for tensors and other objects."""
        kind = type(value)
        if issubclass(kind, Proxy):
            if value._recorder is self:
                return value._ref
            return self.encode(value.value)
        if kind in _INLINE:
            return value
        if kind is tuple:
            return tuple([self.encode(item) for item in value])
        if kind is list:
            return [self.encode(item) for item in value]
        if kind is slice:
            return slice(self.encode(value.start), self.encode(value.stop), self.encode(value.step))
        if kind is dict:
            return {key: self.encode(item) for key, item in value.items()}
        if kind is torch.Size:
            return tuple(value)
        const = self._constants.get(id(value))
        if const is None:
            const = self._constants[id(value)] = Const(len(self.graph.constants))
            self.graph.constants.append(value)
        return const

    # -- the block's life ----------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Open the block in this thread."""
        for other in open_recorders():
            if other.owner is self.owner:
                raise BlockError(
                    "a block is already open on this model in this thread",
                    remedy="end it first, or use tracer.invoke(...) for several prompts in one pass",
                    line=self.line,
                )
        self.open = True
        open_recorders().append(self)
        self._mode = BlockMode(self)
        self._mode.__enter__()

    def end(self) -> None:
        """Close the block; nothing is recorded from here on."""
        self.open = False
        stack = open_recorders()
        if self in stack:
            stack.remove(self)
            self._mode.__exit__(None, None, None)

    def fill(self, results: dict[str, Any]) -> None:
        """Give the saved values to the user's handles, and put them into saved containers."""
        for name, cell in self.cells.items():
            cell.steps = {step: results[key] for step in range(cell.most) if (key := step_name(name, step)) in results}
            if cell.steps:
                cell.value, cell.filled = cell.steps[max(cell.steps)], True
            elif name in results:
                cell.value, cell.filled = results[name], True
        for container in self.containers:
            replace_proxies(container, self)
        for cell in self.cells.values():
            proxy = cell.proxy() if cell.proxy is not None and cell.filled else None
            if proxy is not None:
                settle(proxy)

    def keep_container(self, container: Any) -> Any:
        """Keep the values that a list or dict holds when the block ends."""
        self.containers.append(container)
        return container

    def save_containers(self) -> None:
        """Record the saving of every value inside the saved containers."""
        found: list[Proxy] = []
        for container in self.containers:
            find_proxies(container, self, found)
        for proxy in found:
            if proxy._cell is None:
                self.save(proxy)
