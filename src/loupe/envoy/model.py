"""Bring recording and running together: the model's front door opens blocks, and hands their graphs to a run."""

from __future__ import annotations

import copy
import sys
from collections.abc import Collection, Iterator, Mapping
from typing import Any, Protocol, Self

import torch
from torch import nn

from loupe.config import CONFIG
from loupe.envoy.edits import EditBlock, edit_with, put_edits
from loupe.envoy.envoy import Envoy
from loupe.envoy.fitting import origin_of
from loupe.envoy.names import Aliases, Rename
from loupe.envoy.parts import Parts
from loupe.envoy.report import Report
from loupe.envoy.running import run_graph, run_session
from loupe.envoy.validation import validate
from loupe.errors import BlockError, InputError, Line
from loupe.files.intervention import InterventionGraph, InterventionSession
from loupe.graph.graph import Graph, Origin
from loupe.graph.node import Site
from loupe.hosts.module import ModuleHost
from loupe.runtime.given import Given, Opened
from loupe.runtime.host import Host, Input
from loupe.runtime.local import LocalRun
from loupe.runtime.meta import Scanner
from loupe.runtime.plain import submodule
from loupe.runtime.scanning import MetaHost
from loupe.trace.recorder import Recorder
from loupe.trace.session import Session
from loupe.trace.source import user_line
from loupe.trace.stacks import open_recorders, open_sessions
from loupe.trace.tracer import Tracer


class ViewingHost(Host, Protocol):
    """A host that also knows how sites of its model are to be seen."""

    def view(self, path: str, port: str) -> str | None:
        """The view of a site: "logits", "hidden_states", or None."""
        ...


class Root(Envoy):
    """The envoy of a whole model: keeps its modules by path, and opens blocks on it."""

    def __init__(self, host: ViewingHost, rename: Rename | None = None) -> None:
        super().__init__(self, "")
        self._host = host
        self._edits: list[Graph] = []
        self._envoys: dict[str, Envoy] = {"": self}
        self._views: dict[tuple[str, str], str | None] = {}
        self._scanners: dict[str, Scanner] = {}
        self._parts = Parts(host, rename or {}, lambda path: dir(Envoy if path else type(self)))

    @property
    def edits(self) -> list[Graph]:
        """The graphs that every block on this model starts with, as `edit` has recorded them."""
        return self._edits

    @property
    def attached(self) -> Collection[str]:
        """The paths of modules that the user has attached."""
        return self._parts.attached

    @property
    def aliases(self) -> Aliases:
        """The further names of modules."""
        return self._parts.aliases

    @property
    def example(self) -> Input | None:
        """An input that the model can be called with, where one is known without the user's."""
        return None

    @property
    def _model(self) -> nn.Module:
        """The module that is wrapped."""
        return self._host.module

    def module_at(self, path: str) -> nn.Module:
        """The module at a path, in the model as it is now (weights may have been loaded, adapters put in)."""
        module = self._host.module
        return submodule(module, path) if path else module

    def real_path(self, path: str) -> str:
        """A path with the model's own names in place of aliases; a `model.` in front that is no module is left out."""
        return self._parts.real_path(path)

    def paths_of(self, modules: Any) -> tuple[str, ...]:
        """The paths of modules: all for None; a path, a pattern (`h.*.mlp`), an envoy, a module, a class, several."""
        return self._parts.paths_of(modules)

    def tied_to(self, path: str) -> list[str]:
        """The paths under which the model holds one parameter, the given one first."""
        return self._parts.tied_to(path)

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
        views, key = self._views, (site.path, site.port)
        found = views[key] if key in views else views.setdefault(key, self._host.view(*key))
        return None if found == "hidden_states" and not CONFIG.version_stable_outputs else found

    def open_recorder(self) -> Recorder | None:
        """The recorder of the block that is open on this model in this thread."""
        recorders = open_recorders()
        if recorders and recorders[-1].owner is self:
            return recorders[-1]
        return next((each for each in reversed(recorders) if each.owner is self), None)

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
        """Give the model a further submodule; its calls in a block have sites. See `Parts.attach`."""
        self._parts.attach(path, name, module)
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
        graph = InterventionGraph()
        graph.root = path
        if self._edits:
            put_edits(graph, self._edits, path, self._parts.attached)
            graph.edited = len(graph)
        sessions = open_sessions()
        session = next((each for each in reversed(sessions) if each.key is self._host), None) if sessions else None
        run = self.local_run(graph, path, None if session is None else Opened(graph, rest=session))
        return Tracer(Recorder(self, run, graph, line, session), args, kwargs, generation)

    def local_run(self, graph: Graph, path: str = "", given: Given | None = None) -> LocalRun:
        """What runs a graph on the whole model, or on one of its modules alone, in this process."""
        host: Host = self._host
        if path:
            self._host.load()
            host = ModuleHost(lambda: self.module_at(path), self._host.lock, prefix=path, whole=self._host)
        return LocalRun(host, self.module_at, graph, self._scanner(path, host), self._parts.attached, given)

    def _scanner(self, path: str, host: Host) -> Scanner:
        scanner = self._scanners.get(path)
        if scanner is None:
            scanner = self._scanners[path] = Scanner(lambda: host.module, path)
        return scanner

    def open_scan(self, path: str, args: tuple[Any, ...], kwargs: dict[str, Any], line: Line) -> Tracer:
        """A block without data, on the whole model or on one of its modules alone."""
        graph = InterventionGraph()
        graph.root = path
        put_edits(graph, self.edits, path, self._parts.attached)
        graph.edited = len(graph)
        return Tracer(Recorder(self, self.meta_run(graph, path), graph, line), args, kwargs)

    def meta_run(self, graph: Graph, path: str = "", given: Given | None = None) -> LocalRun:
        """What runs a graph without data, on the whole model or on one of its modules alone."""
        host: Host = self._host
        if path:
            host = ModuleHost(lambda: self.module_at(path), self._host.lock, prefix=path, whole=self._host)
        scanner = self._scanner(path, host)
        return LocalRun(
            MetaHost(host, scanner), scanner.twin_module, graph, scanner, self._parts.attached, given, scans=True
        )

    # -- blocks that outlast a run -------------------------------------------------------------------------------------

    def session(self, *, batch_size: int | None = None) -> Session:
        """Group blocks: values of one may be used in the next without saving, and they run when the session ends.

        >>> with model.session():
        ...     with model.trace("The Eiffel Tower is in"):
        ...         hidden = model.transformer.h[4].output[0]
        ...     with model.trace("The Colosseum is in"):
        ...         model.transformer.h[4].output[0][:] = hidden
        ...         logits = model.output.save()

        Blocks that do not depend on each other run as one batch, of at most `batch_size` rows. Rows with equal inputs
        are one row up to the layer at which their blocks first differ. `print(session)` says what ran together, and
        what did not, and why. Raises InputError for a batch size below one.
        """
        line = user_line(sys._getframe(1))
        if batch_size is not None and batch_size < 1:
            raise InputError(f"a batch of {batch_size} rows has none", remedy="give batch_size=1 or more", line=line)
        return Session(self._host, line, self._tensors, batch_size)

    def _tensors(self) -> Iterator[torch.Tensor]:
        yield from self._host.module.parameters()
        yield from self._host.module.buffers()

    def edit(self, graph: Graph | None = None, *, inplace: bool = False, **named: Any) -> Any:
        """Record what a copy of this model does differently from now on; the copy shares the weights.

        >>> with model.edit() as edited:
        ...     edited.transformer.h[5].output[0][:] = 0
        ...     edited.lm_head.weight[0] = 0
        >>> with edited.trace("The Eiffel Tower is in"):
        ...     logits = edited.output.save()

        `inplace=True` changes this model itself. Edits hold in traces, scans, generations (at every step), plain calls,
        and for every invoke; parameters that are set in one hold for the length of a run. Nothing runs while an edit is
        recorded, so a line that needs a value or a shape raises BlockError, as do saves and backward passes.

        With a graph that was recorded before it is no block, and gives the edited model: `model.edit(graph,
        strength=2.0)` does from now on what the graph does to the model. What the graph saves is left out.
        """
        line = user_line(sys._getframe(1))
        if graph is not None:
            return edit_with(self, graph, named, line, inplace=inplace)
        if named:
            raise BlockError(
                f"edit has no option {next(iter(named))!r}",
                remedy="open parameters are those of a graph: model.edit(graph, strength=2.0)",
                line=line,
            )
        if self.open_recorder() is not None:
            raise BlockError(
                "an edit stands inside a block on its model",
                remedy="end the block first; what it has saved can be used in the edit",
                line=line,
            )
        return EditBlock(self, line, inplace=inplace)

    def clear_edits(self) -> None:
        """Let the model do again what it does by itself."""
        self._edits.clear()

    def copy(self) -> Self:
        """Another envoy of the same model, with edits of its own; weights and modules are shared."""
        twin = copy.copy(self)
        object.__setattr__(twin, "_home", twin)
        object.__setattr__(twin, "_envoys", {"": twin})
        object.__setattr__(twin, "_edits", list(self._edits))
        return twin

    # -- graphs that were recorded before ------------------------------------------------------------------------------

    def run(self, graph: Any, *inputs: Any, **named: Any) -> Any:
        """Run a graph that was recorded before, on other inputs: what it saves, by name.

        >>> results = model.run(loupe.load("steer.loupe"), "The Colosseum is in", strength=2.0)
        >>> results["logits"]

        `inputs` are those of the block: one for each invoke where it has some, a tuple being one of several arguments.
        `named` are the graph's open parameters; other names go to the model, as in `trace`, or change options of a
        generation. What was saved at each step of a generation is a list, what a cache has collected a `Cache`. The
        graph is as it was afterwards. Of a session's graphs each takes its inputs in turn, and the results are a list.

        Raises FitError where the graph names what this model does not have, InputError for another number of inputs or
        a parameter without a value; warns with OriginWarning where the model is not the one it was written for.
        """
        line = user_line(sys._getframe(1))
        if isinstance(graph, InterventionSession):
            return run_session(self, graph, inputs, named, line)
        return run_graph(self, graph, inputs, named, line)

    def validate(self, graph: Graph | InterventionSession, *inputs: Any, **named: Any) -> Report:
        """Say, without a run, what keeps a graph from running on this model; see `InterventionGraph.validate`."""
        return validate(self, graph, inputs, named, user_line(sys._getframe(1)))

    def origin(self, modules: Collection[str]) -> Origin:
        """What a graph that names these modules says about its model."""
        return origin_of(self, modules)

    @property
    def identity(self) -> tuple[str | None, str | None]:
        """The id and the revision of the weights, where they are known."""
        return None, None

    def divide(self, named: Mapping[str, Any], *, generates: bool) -> tuple[dict[str, Any], dict[str, Any]]:
        """Tell what belongs to the input from the options of a generation, among arguments given by name."""
        return dict(named), {}
