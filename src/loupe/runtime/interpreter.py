"""Run the nodes of a plan, each as soon as what it needs is there, in the order of the block."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from functools import cached_property
from heapq import heappop, heappush
from typing import Any, Protocol

import torch

from loupe.errors import LoupeError, OperationError
from loupe.graph.node import Const, Event, Node, Ref
from loupe.graph.steps import LAST_STEP
from loupe.ops.gradients import without_history
from loupe.ops.modes import in_modes
from loupe.ops.table import function_of
from loupe.runtime.aliasing import Aliasing, Tap
from loupe.runtime.batching import Unavailable
from loupe.runtime.devices import Devices, device_of, device_of_module
from loupe.runtime.gradients import ask, run_backward
from loupe.runtime.history import History
from loupe.runtime.missed import late_write
from loupe.runtime.own_parameters import OwnParameters
from loupe.runtime.plan import Plan, waits_for_pass
from loupe.runtime.tensors import summary, tensors_in

_NUMBERS = frozenset((int, type(None)))


class Surroundings(Protocol):
    """What nodes need beside values: the model's modules and parameters, and what surrounds a call of a module."""

    own: OwnParameters

    def module(self, path: str) -> Any:
        """The module at a path."""
        ...

    def given(self, name: str) -> Any:
        """What comes into the run from outside."""
        ...

    def calling(self, node: Node) -> AbstractContextManager[None]:
        """Surrounds the call of a module that a node makes."""
        ...

    def stand_at(self, *sites: Tap) -> None:
        """Open sites that open together, do what is due, and close them."""
        ...


class Interpreter:
    """Keeps the values of a run and does its nodes; one method per kind of node.

    `keep_values` holds on to every value, for runs that are peeked at: the block may still name any of them.
    """

    def __init__(self, surroundings: Surroundings, *, keep_values: bool = False) -> None:
        self.surroundings = surroundings
        self.keep_values = keep_values
        self.values: dict[int, Any] = {}
        self.results: dict[str, Any] = {}
        self.done: set[int] = set()
        self.failed: set[int] = set()
        self.collected: list[tuple[torch.Tensor, torch.Tensor | None]] = []
        self.plan: Plan | None = None
        self.routines: Mapping[Event, tuple[int, ...]] = {}
        self.wanted: set[int] = set()
        self.stopped = False
        self.returned = False
        self._loaded = 0
        self._unmet: dict[int, int] = {}
        self._waiters: dict[int, tuple[int, ...]] = {}
        self._uses: dict[int, int] = {}
        self._ready: list[int] = []
        self._gate_open: set[int] = set()
        self.taps: list[Tap] = []
        self._snapshots: dict[int, dict[int, Any]] = {}

    @cached_property
    def _aliasing(self) -> Aliasing:
        own = self.surroundings.own
        return Aliasing(self.values, self.results, self.done, self.taps, own.read, own.memory, self._snapshots)

    @cached_property
    def _history(self) -> History:
        return History(self.values)

    @cached_property
    def _devices(self) -> Devices:
        return Devices()

    # -- the schedule --------------------------------------------------------------------------------------------------

    def load(self, plan: Plan) -> None:
        """Take a plan, or the longer plan of a graph that has grown since."""
        fresh = self.plan is None
        self.plan = plan
        if fresh:
            self.wanted = set(plan.wanted)
            self.routines = {} if self.keep_values else plan.routines  # a longer plan may follow where values are kept
            self._unmet, self._waiters = dict(plan.unmet), dict(plan.waiters)
            self._ready += plan.ready
        else:
            self.wanted = set(plan.wanted) - self.done
            self._load_more(plan)
        self._loaded = len(plan.graph.nodes)
        if not self.keep_values:
            self._uses = dict(plan.uses)
        for tap in self.taps:
            self._open_gate(tap.event)
        if self.returned:
            self._settle_last_steps()

    def _load_more(self, plan: Plan) -> None:
        for node in range(self._loaded, len(plan.graph.nodes)) if plan.grows else plan.unmet:
            if node in self.done or node in self._unmet:
                continue
            unmet = [need for need in plan.needs[node] if need not in self.done]
            self._unmet[node] = len(unmet) + waits_for_pass(plan.graph[node])
            for need in unmet:
                self._waiters[need] = (*self._waiters.get(need, ()), node)
            if not self._unmet[node]:
                heappush(self._ready, node)

    def follow(self, tap: Tap, routine: Iterable[int]) -> None:
        """Open a site at which it is known ahead what runs."""
        self.taps.append(tap)
        self._perform(routine)

    def open(self, *taps: Tap) -> None:
        """Open a site, or several at which one value passes, and do what can be done there.

        A site may open while a node is being done (in a backward pass, in a module that the block calls): what was
        ready before then waits until that node is done.
        """
        self.taps.extend(taps)
        outer = self._ready
        self._ready = list[int]()
        try:
            for tap in taps:
                self._open_gate(tap.event)
            self.drain()
        finally:
            self._ready = outer

    def close(self, tap: Tap) -> None:
        """Close a site; a write that is still waiting there can never happen."""
        plan, done = self.plan, self.done
        assert plan is not None
        self.taps.remove(tap)
        for node_id in plan.gates.get(tap.event, ()):
            if node_id not in done:
                raise late_write(plan, done, plan.graph[node_id])

    def leave(self, taps: Iterable[Tap]) -> None:
        """Close sites whatever still waits there."""
        for tap in taps:
            if tap in self.taps:
                self.taps.remove(tap)

    def settle_last_steps(self) -> None:
        """The model has returned: a value of a step that has not happened is that of the last one."""
        self.returned = True
        if len(self.done) < len(self._unmet):
            self._settle_last_steps()
            self.drain()

    def _settle_last_steps(self) -> None:
        assert self.plan is not None
        for node_id in sorted(self.plan.live - self.done):
            node = self.plan.graph[node_id]
            if node.target == LAST_STEP and self._unmet[node_id] and not self.done.isdisjoint(node.refs()):
                self._unmet[node_id] = 0
                heappush(self._ready, node_id)

    def drain(self) -> None:
        """Do every node that is ready, in the order of the block."""
        ready = self._ready
        while ready:
            self.do(heappop(ready))

    def do(self, node_id: int) -> None:
        """Do one node, and let those go on that wait for it."""
        self._perform((node_id,))
        unmet = self._unmet
        for waiter in self._waiters.get(node_id, ()):
            unmet[waiter] -= 1
            if not unmet[waiter]:
                heappush(self._ready, waiter)

    def _perform(self, node_ids: Iterable[int]) -> None:
        """Do nodes one after the other, keep their values, and free what nobody needs any more."""
        plan, values = self.plan, self.values
        assert plan is not None
        nodes, differentiated, uses, frees = plan.graph.nodes, plan.differentiated, self._uses, plan.frees
        for node_id in node_ids:
            node = nodes[node_id]
            values[node_id] = value = _KINDS[node.kind](self, node)
            if node_id in differentiated:
                ask(node, value, self.surroundings.own.memory)
            self.done.add(node_id)
            self.wanted.discard(node_id)
            if self.keep_values:
                continue
            for taken in frees[node_id]:
                uses[taken] -= 1
                if not uses[taken]:
                    values.pop(taken, None)
            if not uses[node_id]:
                values.pop(node_id, None)
            if self._snapshots:
                self._snapshots.pop(node_id, None)

    def _open_gate(self, event: Event) -> None:
        assert self.plan is not None
        for node_id in self.plan.gates.get(event, ()):
            if node_id not in self._gate_open and node_id in self._unmet:
                self._gate_open.add(node_id)
                self._unmet[node_id] -= 1
                if not self._unmet[node_id]:
                    heappush(self._ready, node_id)

    def forget(self) -> None:
        """Let go of all values."""
        for held in (self.values, self.results, self._snapshots, self.taps):
            held.clear()

    # -- the kinds of node ---------------------------------------------------------------------------------------------

    def _read(self, node: Node) -> Any:
        assert self.plan is not None
        tap = self.taps[-1]
        return (tap if tap.event == self.plan.events[node.id] else self._tap_of(node)).read(node)

    def _write(self, node: Node) -> Any:
        value = self._resolve(node, node.args[0])
        assert self.plan is not None
        if self.plan.differentiated and any(value is constant for constant in self.plan.graph.constants):
            value = without_history(value)
        if node.site.port == "skip" and node.id in self.plan.constants:
            device = device_of_module(self.surroundings.module(node.site.path))
            value = value if device is None else self._devices.brought(self.plan, node.args[0], value, device)
        tap = self._tap_of(node)
        memory = self.surroundings.own.memory
        if node.gradient_of is None and memory.is_in(value):
            there = () if node.site.port == "skip" else {id(tensor) for tensor in tensors_in(tap.read(node))}
            value = memory.apart(value, there)
        tap.write(node, value)
        return value

    def _tap_of(self, node: Node) -> Tap:
        assert self.plan is not None
        event = self.plan.events[node.id]
        taps = self.taps
        place = len(taps) - 1
        while taps[place].event != event:
            place -= 1
        return taps[place]

    def _apply(self, node: Node) -> Any:
        assert self.plan is not None
        if node.target == LAST_STEP:
            return self._resolve(node, next(Ref(ref) for ref in reversed(node.refs()) if ref in self.done))
        return self._invoke(node, self.plan.graph.functions.get(node.target) or function_of(node.target))

    def _call(self, node: Node) -> Any:
        with self.surroundings.calling(node):
            return self._invoke(node, self.surroundings.module(node.target))

    def _parameter(self, node: Node) -> Any:
        return self.surroundings.own.read(node.target)

    def _set_parameter(self, node: Node) -> Any:
        value = self._resolve(node, node.args[0])
        self.surroundings.own.set(node, value)
        return value

    def _given(self, node: Node) -> Any:
        return self.surroundings.given(node.target)

    def _stop(self, node: Node) -> None:
        self.stopped = True

    def _save(self, node: Node) -> Any:
        value = self.results[node.target] = self._resolve(node, node.args[0])
        return value

    def _backward(self, node: Node) -> None:
        assert self.plan is not None
        options = {key: self._resolve(node, arg) for key, arg in node.kwargs.items()}
        loss = self._resolve(node, node.args[0])
        weights, visit = self.surroundings.own.by_id, self.surroundings.stand_at
        retain = self.keep_values
        self.collected += run_backward(self.plan, node, self.values, loss, options, weights, visit, retain=retain)

    def _invoke(self, node: Node, function: Callable[..., Any]) -> Any:
        plan = self.plan
        assert plan is not None
        args = [self._resolve(node, arg) for arg in node.args]
        kwargs = {key: self._resolve(node, arg) for key, arg in node.kwargs.items()} if node.kwargs else {}
        try:
            if node.id in plan.constants:
                self._devices.bring(plan, node, args, kwargs, self._device_for(node))
            if node.modes is not None:
                with in_modes(node.modes):
                    return self._applied(node, function, args, kwargs)
            return self._applied(node, function, args, kwargs)
        except LoupeError:
            raise
        except Exception as error:
            self.failed.add(node.id)
            shown = [summary(arg) for arg in args] + [f"{key}={summary(arg)}" for key, arg in kwargs.items()]
            name = node.target if node.kind == "apply" else f"the call of {node.target or 'the model'}"
            raise OperationError(
                f"{name} failed on ({', '.join(shown)}): {type(error).__name__}: {error}",
                remedy="mend this line; the model is as it was",
                line=node.line,
            ) from error

    def _applied(self, node: Node, function: Callable[..., Any], args: list[Any], kwargs: dict[str, Any]) -> Any:
        plan = self.plan
        assert plan is not None
        if torch.is_grad_enabled():
            with self._history.around(plan, node):
                return self._changing(plan, node, function, args, kwargs)
        return self._changing(plan, node, function, args, kwargs)

    def _changing(
        self, plan: Plan, node: Node, function: Callable[..., Any], args: list[Any], kwargs: dict[str, Any]
    ) -> Any:
        if node.id in plan.memory.mutates:
            return self._aliasing.apply(plan, node, (args, kwargs), lambda a: function(*a[0], **a[1]))
        if node.kind == "call" or node.target in plan.graph.functions:
            return self.surroundings.own.memory.spare(node, (args, kwargs), lambda a: function(*a[0], **a[1]))
        return function(*args, **kwargs)

    # -- arguments -----------------------------------------------------------------------------------------------------

    def _resolve(self, node: Node, arg: Any) -> Any:
        kind = type(arg)
        if kind is Ref:
            snapshots = self._snapshots.get(node.id)
            value = self.values[arg.node] if snapshots is None or arg.node not in snapshots else snapshots[arg.node]
            if type(value) is Unavailable:
                raise value.error(node.line)
            return value
        if kind is Const:
            assert self.plan is not None
            return self.plan.graph.constants[arg.index]
        if kind is tuple:
            return tuple([self._resolve(node, item) for item in arg])
        if kind is list:
            return [self._resolve(node, item) for item in arg]
        if kind is slice:
            bounds = (arg.start, arg.stop, arg.step)
            return arg if _NUMBERS.issuperset(map(type, bounds)) else slice(*self._resolve(node, bounds))
        if kind is dict:
            return {key: self._resolve(node, item) for key, item in arg.items()}
        return arg

    def _device_for(self, node: Node) -> torch.device | None:
        """Where the constants that a node takes are wanted: with the module that it calls, or with its other values."""
        called = device_of_module(self.surroundings.module(node.target)) if node.kind == "call" else None
        return called or device_of(self._resolve(node, Ref(ref)) for ref in node.refs())


_KINDS: dict[str, Callable[[Interpreter, Node], Any]] = {
    "read": Interpreter._read,
    "write": Interpreter._write,
    "apply": Interpreter._apply,
    "call": Interpreter._call,
    "parameter": Interpreter._parameter,
    "set_parameter": Interpreter._set_parameter,
    "given": Interpreter._given,
    "save": Interpreter._save,
    "backward": Interpreter._backward,
    "stop": Interpreter._stop,
}
