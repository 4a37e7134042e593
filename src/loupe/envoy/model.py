"""Bring recording and running together: the model's front door opens blocks, and hands their graphs to a run."""

from __future__ import annotations

import sys
from typing import Any, Protocol

from torch import nn

from loupe.config import CONFIG
from loupe.envoy.envoy import Envoy
from loupe.errors import BlockError, Line
from loupe.graph.graph import Graph
from loupe.graph.node import Site
from loupe.hosts.module import ModuleHost
from loupe.runtime.host import Host
from loupe.runtime.local import LocalRun
from loupe.runtime.meta import Scanner
from loupe.trace.recorder import Recorder, open_recorders
from loupe.trace.source import user_line
from loupe.trace.tracer import Tracer


class ViewingHost(Host, Protocol):
    """A host that also knows how sites of its model are to be seen."""

    def view(self, path: str, port: str) -> str | None:
        """The view of a site: "logits", "hidden_states", or None."""
        ...


class Root(Envoy):
    """The envoy of a whole model: keeps its modules by path, and opens blocks on it."""

    def __init__(self, host: ViewingHost) -> None:
        super().__init__(None, "")
        self._host = host
        self._root = self
        self._by_path: dict[str, nn.Module] = {}
        self._known_module: nn.Module | None = None
        self._envoys: dict[str, Envoy] = {"": self}
        self._views: dict[tuple[str, str], str | None] = {}
        self._scanners: dict[str, Scanner] = {}
        self._attached: set[str] = set()

    @property
    def _model(self) -> nn.Module:
        """The module that is wrapped."""
        return self._host.module

    def module_at(self, path: str) -> nn.Module:
        """The module at a path, in the model as it is now (weights may have been loaded since)."""
        module = self._host.module
        if module is not self._known_module:
            self._by_path = dict(module.named_modules(remove_duplicate=False))
            self._known_module = module
        return self._by_path[path]

    def envoy_at(self, path: str) -> Envoy:
        """The envoy of the module at a path; the same object each time."""
        found = self._envoys.get(path)
        if found is None:
            found = self._envoys[path] = Envoy(self, path)
        return found

    def view(self, site: Site) -> str | None:
        """How the value at a site is to be seen."""
        if site.op is not None:
            return None
        key = (site.path, site.port)
        if key not in self._views:
            self._views[key] = self._host.view(*key)
        found = self._views[key]
        return None if found == "hidden_states" and not CONFIG.version_stable_outputs else found

    def open_recorder(self) -> Recorder | None:
        """The recorder of the block that is open on this model in this thread."""
        for recorder in reversed(open_recorders()):
            if recorder.owner is self:
                return recorder
        return None

    def recorder(self, what: str) -> Recorder:
        """The open recorder; raises BlockError, naming what was asked for, where there is none."""
        found = self.open_recorder()
        if found is None:
            raise BlockError(
                f"{what} is used outside a block, where no model runs",
                remedy="put this line inside `with model.trace(...):`",
                line=user_line(sys._getframe(2)),
            )
        return found

    def attach(self, path: str, name: str, module: nn.Module) -> None:
        """Give the model a further submodule; its calls in a block have sites.

        Raises BlockError where the name is taken by something that was not attached.
        """
        parent, place = self.module_at(path), f"{path}.{name}" if path else name
        if hasattr(parent, name) and place not in self._attached:
            raise BlockError(
                f"{name!r} of {path or 'the model'} is there already",
                remedy="attach the module under a new name",
                line=user_line(sys._getframe(2)),
            )
        self._attached.add(place)
        parent.add_module(name, module)
        self._known_module = None
        self._scanners.clear()

    def open_block(
        self,
        path: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        line: Line,
        generation: dict[str, Any] | None = None,
    ) -> Tracer:
        """A block on the whole model, or on one of its modules alone."""
        host: Host = self._host
        if path:
            self._host.load()
            host = ModuleHost(lambda: self.module_at(path), self._host.lock, prefix=path, whole=self._host)
        scanner = self._scanners.get(path)
        if scanner is None:
            scanner = self._scanners[path] = Scanner(lambda: host.module, path)
        graph = Graph()
        return Tracer(
            Recorder(self, LocalRun(host, self.module_at, graph, scanner, self._attached), graph, line),
            args,
            kwargs,
            generation,
        )
