"""Turn the arguments of an operation into what a node holds: references to other nodes, and constants."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import torch

from loupe.errors import BlockError
from loupe.graph.graph import Graph, Open
from loupe.graph.node import Const, Ref, Steps
from loupe.graph.steps import LAST_STEP
from loupe.trace.proxy import Proxy
from loupe.trace.scope import Scope
from loupe.trace.source import user_line

if TYPE_CHECKING:
    from loupe.trace.recorder import Recorder

_INLINE = frozenset(
    (
        *(int, float, bool, complex, str, type(None), type(Ellipsis)),
        *(torch.dtype, torch.device, torch.layout, torch.memory_format),
    )
)


class Arguments:
    """What the nodes of a graph take beside the values of their own block, each written down once.

    `given` are the values of earlier blocks of the session, by name. The recorder comes with every call, for one that
    is kept here would be a cycle, which keeps a block's tensors until Python collects it.
    """

    def __init__(self, graph: Graph, scope: Scope) -> None:
        self._graph = graph
        self._scope = scope
        self.given: dict[str, Ref] = {}
        self._constants: dict[int, Const] = {}
        self._opened: dict[tuple[str, Steps | None], Ref] = {}
        self._last_steps: dict[tuple[int, int | None], Ref] = {}

    def encode(self, value: Any, recorder: Recorder) -> Any:
        """Turn an argument into references for proxies, and constants for tensors and other objects."""
        kind = type(value)
        if kind in _INLINE:
            return value
        if issubclass(kind, Proxy):
            if kind.leaves_open:
                return self._left_open(value.name, value.opened, recorder)
            if value._recorder is recorder:
                return self._from_here(value._ref, recorder)
            name = None if recorder.session is None else recorder.session.name_of(value, recorder)
            if name is None:
                return self.encode(value.value, recorder)
            if name not in self.given:
                self.given[name] = recorder.append("given", name)._ref
            return self.given[name]
        if kind is tuple:
            return tuple([self.encode(item, recorder) for item in value])
        if kind is list:
            return [self.encode(item, recorder) for item in value]
        if kind is slice:
            return slice(
                self.encode(value.start, recorder),
                self.encode(value.stop, recorder),
                self.encode(value.step, recorder),
            )
        if kind is dict:
            return {key: self.encode(item, recorder) for key, item in value.items()}
        if kind is torch.Size:
            return tuple(value)
        const = self._constants.get(id(value))
        if const is None:
            const = self._constants[id(value)] = Const(len(self._graph.constants))
            self._graph.constants.append(value)
        return const

    def _left_open(self, name: str, opened: Open, recorder: Recorder) -> Ref:
        """The value of a parameter that the graph leaves open; raises BlockError where another has its name."""
        default = opened if opened.required else Open(self.encode(opened.default, recorder))
        if self._graph.parameters.setdefault(name, default) != default:
            raise BlockError(
                f"two parameters with different defaults are called {name!r}",
                remedy="give each a name of its own",
                line=user_line(sys._getframe(2)),
            )
        key = (name, self._scope.steps)
        if key not in self._opened:
            self._opened[key] = recorder.append("given", name)._ref
        return self._opened[key]

    def _from_here(self, ref: Ref, recorder: Recorder) -> Ref:
        """A value of each step, seen from a loop, is that of its step; from elsewhere, of the last that happens."""
        scope = self._scope
        if scope.steps is not None or self._graph.nodes[ref.node].steps is None:
            return ref
        key = (ref.node, scope.step)
        if key not in self._last_steps:
            here = (ref,) if scope.step is None else (ref, scope.step)
            self._last_steps[key] = recorder.append("apply", LAST_STEP, here)._ref
        return self._last_steps[key]
