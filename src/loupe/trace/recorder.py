"""Write a graph: the only place that appends nodes, and the keeper of the scope in which the block stands."""

from __future__ import annotations

import functools
import sys
import threading
import weakref
from collections.abc import Callable, Hashable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch

from loupe.errors import BlockError, Line, NotReachedError
from loupe.graph.graph import Graph, Open
from loupe.graph.node import RESULT, Const, Event, Modes, Node, Ref, Site, Steps
from loupe.graph.opset import effect_of
from loupe.graph.steps import LAST_STEP, step_name
from loupe.ops.modes import current_modes, in_modes
from loupe.ops.table import function_name
from loupe.trace.backward import backward_options
from loupe.trace.cache import Cache
from loupe.trace.containers import find_proxies, replace_proxies
from loupe.trace.execution import Execution, Owner
from loupe.trace.functions import BlockMode
from loupe.trace.handles import isinstance_proxy, unwrap
from loupe.trace.parameters import Parameters
from loupe.trace.proxy import Cell, Proxy, make_proxy, set_slot, settle
from loupe.trace.source import user_line

if TYPE_CHECKING:
    from loupe.trace.session import Session

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
_TRACKED = Modes(True)
_open = threading.local()


@functools.cache
def _gives_tensor(operation: str) -> bool | None:
    """Whether an operation gives a tensor; None where its arguments decide."""
    name = operation.rpartition(".")[2]
    return None if name in _BY_DIMENSION else name not in _SEVERAL


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

    def __init__(
        self, owner: Owner, execution: Execution, graph: Graph, line: Line, session: Session | None = None
    ) -> None:
        self.owner = owner
        self.session = session
        self.handles: list[weakref.ref[Proxy]] = []
        self.kept: set[str] = set()
        self.execution = execution
        self.graph = graph
        self.line = line
        self.open = False
        self._modes = _TRACKED
        self._mode: BlockMode | None = None
        self.failed = False
        self.invoke: int | None = None
        self.in_invoke = False
        self.step: int | None = None
        self.looks = 0
        self.steps: Steps | None = None
        self.shifts: dict[str, int] = {}
        self._groups = 0
        self._last_steps: dict[tuple[int, int | None], Ref] = {}
        self._counted = False
        self.generates = False
        self.backward: int | None = None
        self.parameter_gradients = False
        self.parameters: Parameters | None = None  # in an edit
        self.cells: dict[str, Cell] = {}
        self.containers: list[Any] = [] if session is None else session.containers
        self.inputs: list[Any] = []
        self.aside = False  # other blocks of the session run just now: what is called is no line of this one
        self.caches: dict[str, Cache] = {}
        self.written: set[int] = set()
        self._constants: dict[int, Const] = {}
        self.given: dict[str, Ref] = {}
        self._opened: dict[tuple[str, Steps | None], Ref] = {}
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
            {key: encode(arg) for key, arg in kwargs.items()} if kwargs else None,
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
        return self._append("call", path, arguments, {key: self.encode(arg) for key, arg in kwargs.items()})

    def parameter(self, path: str) -> Proxy:
        """Record the reading of a parameter or buffer; an edit gets a copy, which it may change in place."""
        line = user_line(sys._getframe(2))
        return (
            self._append("parameter", path, line=line) if self.parameters is None else self.parameters.read(path, line)
        )

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
                self._hand_out(proxy)
            reads[key] = proxy
        return proxy

    def write(self, site: Site, value: Any) -> None:
        """Record that the model goes on with `value` at a site."""
        line = user_line(sys._getframe(2))
        self._append("write", site, (self.encode(value),), line=line)
        for known in list(self._reads):
            same = known[0] in (site.event, site.lands) or known[0].phase == site.event.phase == "grad"
            if same or known[2] != self.steps:
                del self._reads[known]

    def stop(self) -> None:
        """Record that the pass ends once all above is done; in a generation, where its step has begun."""
        if self.generates and (self.steps is not None or self.step is not None) and not self._names_step():
            self.read(self.at_step(Site("", "input")))
        kwargs = {} if self.step is None else {"step": self.step}
        self._append("stop", None, (), kwargs, line=user_line(sys._getframe(2)))

    def _names_step(self) -> bool:
        """Whether a line above is about the step, or the steps, at which the block stands."""
        sites = [
            node.site
            for node in self.graph
            if node.kind in ("read", "write") and node.steps == self.steps and node.gradient_of is None
        ]
        step = self.step or 0
        return any(not step or site.call >= step * self.execution.calls_each(site.path) for site in sites)

    def cache(self, modules: Any, options: dict[str, Any], name: str | None = None) -> Cache:
        """Record that what passes at these modules is collected."""
        line = user_line(sys._getframe(2))
        if not options["outputs"] and not options["inputs"]:
            raise BlockError(
                "a cache without outputs and inputs collects nothing",
                remedy="leave include_output as it is, or ask for include_inputs=True",
                line=line,
            )
        if name is None:
            name = f"cache{len(self.graph.nodes)}"
        elif name in self.cells or name in self.caches:
            raise _named_twice(name, line)
        paths = self.owner.paths_of(modules)
        self._append("cache", name, (paths,), options, line=line)
        if self.step is not None:
            self.graph.nodes[-1].steps = Steps(0, self.step, self.step + 1)
        cache = self.caches[name] = Cache(
            line, paths, self.owner.real_path, lambda path: self.owner.view(Site(path, "output")), self.settle
        )
        return cache

    def gradient(self, proxy: Proxy) -> Proxy:
        """Record the reading of a value's gradient: in the open backward block, or the last one, or the next."""
        return self.read(self._gradient_site(proxy))

    def write_gradient(self, proxy: Proxy, value: Any) -> None:
        """Record that a backward pass goes on with another gradient of a value."""
        self.write(self._gradient_site(proxy), value)

    def _gradient_site(self, proxy: Proxy) -> Site:
        call = self.backward if self.backward is not None else max(len(self.graph.backwards) - 1, 0)
        return Site(f"%{self.encode(proxy).node}", "grad", call)

    def run_backward(
        self, proxy: Proxy, args: tuple[Any, ...], kwargs: dict[str, Any], *, only_inputs: bool = False
    ) -> int:
        """Record a backward pass from a value; returns its number. With `only_inputs` nothing collects `.grad`."""
        if self.generates:
            raise _without_autograd(user_line(sys._getframe(2)))
        number = len(self.graph.backwards)
        options = backward_options(args, kwargs)
        if only_inputs:
            options["only_inputs"] = True
        elif self.parameter_gradients:
            options["parameter_gradients"] = True
        self._append(
            "backward", None, (self.encode(proxy),), {key: self.encode(value) for key, value in options.items()}
        )
        return number

    def save(self, proxy: Proxy, name: str | None = None) -> Proxy:
        """Record that a value is kept past the block."""
        if proxy._cell is not None and name is None:
            return proxy
        if name is None:
            name = self._free_name("value")
        elif name in self.cells or name in self.caches:
            raise _named_twice(name, user_line(sys._getframe(2)))
        self._save_as(name, proxy)
        return proxy

    def _free_name(self, stem: str) -> str:
        """A name for what the user has given none, which is not the user's name for something else."""
        number = len(self.graph.nodes)
        while (name := f"{stem}{number}") in self.cells or name in self.caches:
            number += 1
        return name

    def keep(self, proxy: Proxy) -> Cell:
        """Let a block that has ended, and has not run, also keep this value: a later block of the session needs it."""
        if proxy._cell is None:
            name = self._free_name("kept")
            self._save_as(name, proxy)
            self.kept.add(name)
        assert proxy._cell is not None
        return proxy._cell

    def settle(self) -> None:
        """Let the block run, where it has ended and waits in a session."""
        if self.session is not None:
            self.session.settle(self)

    def drop_kept(self) -> None:
        """The block has run: what was kept for its session is the business of those who use it."""
        for name in self.kept:
            self.cells.pop(name, None)

    def forget_kept(self) -> None:
        """The session is over: what was kept for it, and not saved, is gone."""
        for proxy in self._held():
            if proxy._cell is not None and proxy._cell.name in self.kept:
                proxy._cell.value, proxy._cell = None, None
        self.handles.clear()

    def keep_handles(self) -> None:
        """Keep every value that is still in the user's hands."""
        for proxy in self._held():
            self.keep(proxy)

    def _held(self) -> list[Proxy]:
        held = [handle() for handle in self.handles]
        return [proxy for proxy in held if proxy is not None and isinstance_proxy(proxy)]

    def _save_as(self, name: str, proxy: Proxy) -> None:
        cell = Cell(proxy, name)
        nodes = self.graph.nodes
        node = nodes[proxy._ref.node]
        line = user_line(sys._getframe(3)) if self.open else self.line
        nodes.append(Node(len(nodes), "save", name, (proxy._ref,), {}, node.invoke, line, node.steps))
        self.cells[name] = cell
        set_slot(proxy, "_cell", cell)

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
        place = len(nodes)
        line = line or user_line(sys._getframe(2))
        node = Node(place, kind, target, args, {} if kwargs is None else kwargs, self.invoke, line, self.steps)
        if kind == "apply" or kind == "call":
            node.modes = self._modes_of_line()
        nodes.append(node)
        proxy = make_proxy(self, Ref(place), tensor=self._is_tensor(kind, target, args, kwargs))
        if self.session is not None:
            self._hand_out(proxy)
        return proxy

    def _modes_of_line(self) -> Modes | None:
        opened = self._modes
        if torch.is_grad_enabled() is opened.grad and not opened.autocast and not torch._C._is_any_autocast_enabled():
            return None
        modes = current_modes()
        return None if modes == opened else modes

    def as_opened(self) -> AbstractContextManager[None]:
        """The torch modes in which the block was opened: those in which its model runs."""
        return nullcontext() if self._modes_of_line() is None else in_modes(self._modes)

    def _hand_out(self, proxy: Proxy) -> None:
        if self.session is not None:
            self.handles.append(weakref.ref(proxy))

    def add_input(self, args: tuple[Any, ...], kwargs: dict[str, Any], line: Line) -> int:
        """Give the run one prompt (or batch); returns its number."""
        given = unwrap(args), unwrap(kwargs) if kwargs else kwargs
        self.inputs.append(given)
        with torch._C.DisableTorchFunction():  # none of what happens to a prompt is a line of the block
            return self.execution.add_input(*given, line)

    def begin_invoke(self, args: tuple[Any, ...], kwargs: dict[str, Any], line: Line) -> None:
        """What follows is about one prompt; a new one where it is given."""
        if args or kwargs:
            self.invoke = self.add_input(args, kwargs, line)
            self.graph.invokes = self.invoke + 1
        self.in_invoke = True

    def set_item(self, proxy: Proxy, key: Any, value: Any) -> None:
        """Record `value[key] = …`: in place in a tensor, a list or a dict; a tuple or model output is written anew."""
        node = self.graph[self.encode(proxy).node]
        if node.kind == "read" and type(key) in (int, str) and not self.execution.describes:
            self.write(node.site, self.apply("loupe.set_item", (proxy, key, value)))  # what it is, the run will tell
        elif node.kind == "read" and type(key) in (int, str) and not self.execution.is_tensor(node.site):
            self.write(node.site, self.apply("loupe.with_item", (proxy, key, value)))
        else:
            self.apply("operator.setitem", (proxy, key, value))

    def _is_tensor(self, kind: str, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any] | None) -> bool:
        """Whether a node's value is, or may be, a tensor."""
        if kind == "read":
            return target.port == "grad" or self.execution.is_tensor(target)
        if kind != "apply":
            return True
        known = _gives_tensor(target)
        return (
            known
            if known is not None
            else ((len(args) < 2 and not (kwargs and "dim" in kwargs)) or type(args[-1]) is Ref)
        )

    # -- steps of a generation -----------------------------------------------------------------------------------------

    def at_step(self, site: Site) -> Site:
        """The site as the block means it where it stands: at the step of its loop, moved on by `module.next()`."""
        calls = self.step * self.execution.calls_each(site.path) if self.step else 0
        call = site.call + calls + self.shifts.get(site.path, 0)
        return site if call == site.call else site._replace(call=call)

    def enter_steps(self, steps: Steps) -> None:
        """What follows is about each of these steps."""
        if self.steps is not None or self.step is not None:
            raise _nested(user_line(sys._getframe(2)))
        self._groups += 1
        self.steps = steps._replace(group=self._groups)

    def leave_steps(self) -> None:
        """What follows is about the run as a whole again."""
        self.steps = None

    def enter_loop(self, line: Line) -> int | None:
        """What follows is about one step after the other; gives the step that the block is about so far."""
        if self.steps is not None:
            raise _nested(line)
        return self.step

    def most_steps(self) -> int:
        """The most steps that the run can have; a run that is counted cannot become a generation any more."""
        self._counted = True
        return self.execution.steps()

    def happens(self, step: int, line: Line) -> bool:
        """Whether a step happens, found out by letting the run proceed to it."""
        probe = Node(len(self.graph), "read", Site("", "input", step), line=line)
        self.graph.nodes.append(probe)
        try:
            with self.as_opened():
                self.execution.peek(probe.id)
        except NotReachedError:
            return False
        return True

    def generate(self, options: dict[str, Any]) -> Proxy:
        """Turn the run into a generation with these options; its result is the generation's."""
        line = user_line(sys._getframe(2))
        if self.generates:
            raise BlockError(
                "the run of this block is a generation already",
                remedy="give all options to the first generate(...); its ids are tracer.result",
                line=line,
            )
        if self._counted:
            raise BlockError(
                "the run becomes a generation after its steps were counted",
                remedy="put generate(...) above `for step in tracer.iter[...]`, or give the loop an end",
                line=line,
            )
        if self.graph.backwards:
            raise _without_autograd(line)
        self.begin_generation(options)
        return self.read(Site(RESULT, "output"))

    def begin_generation(self, options: dict[str, Any]) -> None:
        """The run is a generation."""
        self.execution.generate(options)
        self.generates = True
        self.graph.generation = {name: self.encode(value) for name, value in options.items()}

    def peek(self, proxy: Proxy) -> Any:
        """The real value, now; refused for a value of each step where the block stands at none of them."""
        steps = self.graph[proxy._ref.node].steps
        if steps is not None and self.steps is not None:
            picked = str(self.steps)
            where, picked = ("tracer.all()", ":") if picked == "0:" else (f"tracer.iter[{picked}]", picked)
            raise BlockError(
                f"a value is looked at inside `with {where}:`, which is written once for all its steps",
                remedy=f"look at it in a loop, which runs for each step: `for step in tracer.iter[{picked}]:`",
                line=user_line(sys._getframe(2)),
            )
        self.looks += 1
        node = self.encode(proxy).node
        self.graph.looks.append((node, user_line(sys._getframe(2))))
        with self.as_opened():
            return self.execution.peek(node)

    def kind(self) -> Hashable:
        """What the run of this block has to have in common with others to be run with them; None for one alone."""
        kind = self.execution.kind()
        return None if kind is None else (kind, self._modes)

    def with_origin(self) -> Graph:
        """The graph, with what it now says about the model that it is written on."""
        self.graph.origin = self.owner.origin(self.graph.modules)
        return self.graph

    # -- arguments -----------------------------------------------------------------------------------------------------

    def encode(self, value: Any) -> Any:
        """Turn an argument into what a node holds: references for proxies, constants for tensors and other objects."""
        kind = type(value)
        if kind in _INLINE:
            return value
        if issubclass(kind, Proxy):
            if kind.leaves_open:
                return self.opened(value.name, value.opened)
            if value._recorder is self:
                return self._from_here(value._ref)
            name = None if self.session is None else self.session.name_of(value, self)
            if name is None:
                return self.encode(value.value)
            if name not in self.given:
                self.given[name] = self._append("given", name)._ref
            return self.given[name]
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

    def opened(self, name: str, opened: Open) -> Ref:
        """The value of a parameter that the graph leaves open; raises BlockError where another has its name."""
        known = self.graph.parameters.setdefault(name, self._default(opened))
        if known != self._default(opened):
            raise BlockError(
                f"two parameters with different defaults are called {name!r}",
                remedy="give each a name of its own",
                line=user_line(sys._getframe(2)),
            )
        key = (name, self.steps)
        if key not in self._opened:
            self._opened[key] = self._append("given", name)._ref
        return self._opened[key]

    def _default(self, opened: Open) -> Open:
        return opened if opened.required else Open(self.encode(opened.default))

    def _from_here(self, ref: Ref) -> Ref:
        """A value of each step, seen from a loop, is that of its step; from elsewhere, of the last that happens."""
        if self.steps is not None or self.graph.nodes[ref.node].steps is None:
            return ref
        key = (ref.node, self.step)
        if key not in self._last_steps:
            here = (ref,) if self.step is None else (ref, self.step)
            self._last_steps[key] = self._append("apply", LAST_STEP, here)._ref
        return self._last_steps[key]

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
        self._modes = current_modes()
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

    def fill(self, results: dict[str, Any]) -> None:
        """Give the saved values to the user's handles, and put them into saved containers."""
        each = {node.target for node in self.graph.nodes if node.steps is not None and node.kind == "save"}
        most = self.execution.steps() if each else 0
        for name, cell in self.cells.items():
            if name in each:
                cell.steps = {step: results[key] for step in range(most) if (key := step_name(name, step)) in results}
            if cell.steps:
                cell.value, cell.filled = cell.steps[max(cell.steps)], True
            elif name in results:
                cell.value, cell.filled = results[name], True
        for name, cache in self.caches.items():
            if name in results:
                cache.fill(results[name])
        for container in self.containers:
            replace_proxies(container, lambda proxy: proxy._recorder is self)
        for name, cell in self.cells.items():
            proxy = cell.proxy() if cell.proxy is not None and cell.filled else None
            if proxy is not None and name not in self.kept:
                settle(proxy)

    def keep_container(self, container: Any) -> Any:
        """Keep the values that a list or dict holds when the block ends."""
        if self.parameters is not None:
            raise BlockError(
                "a container is saved in an edit, which runs in blocks to come",
                remedy="save it in a trace of the edited model",
                line=user_line(sys._getframe(2)),
            )
        self.containers.append(container)
        return container

    def save_containers(self) -> None:
        """Record the saving of every value inside the saved containers."""
        found: list[Proxy] = []
        for container in self.containers:
            find_proxies(container, lambda proxy: proxy._recorder is self, found)
        for proxy in found:
            if proxy._cell is None:
                self.save(proxy)


def _without_autograd(line: Line) -> BlockError:
    return BlockError(
        "a generation runs without autograd, so that there are no gradients in its block",
        remedy="trace the ids that it gives: `with model.trace(ids):`",
        line=line,
    )


def _named_twice(name: str, line: Line) -> BlockError:
    return BlockError(f"two values are saved as {name!r}", remedy="give each its own name", line=line)


def _nested(line: Line) -> BlockError:
    return BlockError(
        "a step-wise block stands inside another, or inside a loop over steps",
        remedy="put one after the other",
        line=line,
    )
