"""Describe what a block asks about before it runs: values, whether a site has a tensor, operations of a module."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from loupe.errors import NotReachedError, UnknownModuleError
from loupe.graph.graph import Graph
from loupe.graph.node import Node, Site
from loupe.ops.views import first_input
from loupe.runtime.batching import Rows
from loupe.runtime.describe import Describer
from loupe.runtime.foresight import Foresight
from loupe.runtime.host import Host
from loupe.runtime.inputs import Inputs
from loupe.runtime.lookup import Modules, with_line
from loupe.runtime.meta import Scanner
from loupe.runtime.ops_tap import Operation, listing
from loupe.runtime.plain import plainly
from loupe.runtime.replay import aside


class Descriptions:
    """Answers a block out of scans of its run, and without values.

    `given` describes what comes into the run from outside, by name. `end_pass` gives up a pass that stands still,
    before the model is called for another purpose.
    """

    def __init__(
        self,
        host: Host,
        modules: Modules,
        graph: Graph,
        inputs: Inputs,
        scanner: Scanner,
        foresight: Foresight,
        given: Callable[[str], Any],
        end_pass: Callable[[], None],
    ) -> None:
        self._host = host
        self._modules = modules
        self._graph = graph
        self._inputs = inputs
        self._scanner = scanner
        self._foresight = foresight
        self._given = given
        self._end_pass = end_pass
        self._describer: Describer | None = None

    def forget(self) -> None:
        """Inputs have changed."""
        self._describer = None

    def value(self, node: int) -> Any:
        """The value of a node as tensors without data; raises Undescribed where only a run can tell."""
        batch = self._inputs.batch()
        watch = tuple(sorted({site.path for site in self._graph.sites if site.op is not None}))
        stand_ins = {s.event: o.event for s in self._graph.sites if (o := self._host.stand_in(s)) is not None}
        watch = tuple(sorted({*watch, *(event.path for event in stand_ins.values())}))
        scan = self._foresight.of_run(watch)
        for event, other in stand_ins.items():
            if event not in scan.values and other in scan.values:
                scan.values[event] = scan.values[other]
        if self._describer is None:
            self._describer = Describer(self._graph, self._scanner, self._given)
        try:
            return self._describer.describe(node, scan, Rows(batch.rows, batch.total), self._foresight.axes())
        except UnknownModuleError as error:
            raise with_line(error, self._graph, self._modules) from None

    def is_tensor(self, site: Site) -> bool:
        """Whether the value at a site is a tensor, by one scan of the model; true where that cannot tell."""
        if self._host.stand_in(site) is not None:
            return site.port != "inputs"  # a dropout takes one tensor and gives one: no need of a scan for each layer
        scan = self._foresight.of_run((site.path,) if site.op is not None else ())
        if site.event not in scan.values:
            return site.port != "inputs"
        value = scan.values[site.event]
        return isinstance(first_input(value) if site.port == "input" else value, torch.Tensor)

    def operations(self, path: str, call: int) -> list[Operation]:
        """The torch operations of one call of a module, in order, as in a block that taps one of them.

        Known without data, but for modules that go on as their data decides.
        """
        tapping = Graph()
        tapping.nodes.append(Node(0, "read", Site(path, "output", call, "any")))
        if self._host.reorders(tapping[0].site.event):
            found = self._run_operations(path, tapping)
            if call in found:
                return found[call]
        scan = self._foresight.of_run((path,), tapping)
        if (path, call) not in scan.operations:
            raise NotReachedError(
                f"{path or 'the model'} is not called in this pass, so it has no operations to list",
                remedy=self._foresight.missed().what_ran(path),
            )
        return scan.operations[path, call]

    def _run_operations(self, path: str, tapping: Graph) -> dict[int, list[Operation]]:
        self._end_pass()  # a pass that stands still has its taps on the model
        host, batch, found = self._host, self._inputs.batch(), dict[int, list[Operation]]()
        host.load()
        with host.lock, aside(host.module), host.settings(tapping, host.module), plainly(host.module):
            with listing(self._modules(path), found):
                host.module(*batch.args, **batch.kwargs)
        return found
