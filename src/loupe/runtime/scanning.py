"""Run a block on tensors without data: every value has its shape and dtype, and no weights are needed."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import nn

from loupe.errors import BlockError, InputError, Line, LoupeError, OperationError, WriteError
from loupe.graph.graph import Graph
from loupe.graph.node import Event, Site
from loupe.runtime.foresight import Foresight
from loupe.runtime.host import Batch, Host, Input
from loupe.runtime.meta import MetaMode, Scanner, to_meta


class MetaHost:
    """A host's model without data: the same inputs, the same modules, and nothing but shapes and dtypes in them."""

    def __init__(self, host: Host, scanner: Scanner) -> None:
        self._host = host
        self._scanner = scanner
        self.lock = scanner.lock

    @property
    def module(self) -> nn.Module:
        """The copy of the model that has no data."""
        return self._scanner.twin()

    @property
    def prefix(self) -> str:
        """Its path in the model whose paths sites use."""
        return self._host.prefix

    def load(self) -> None:
        """No weights are needed."""

    def merge(self, inputs: Sequence[Input], generation: dict[str, Any] | None = None) -> Batch:
        """The call of the model, with floating-point inputs without data."""
        if generation is not None:
            raise InputError(
                "a scan is one forward pass, and cannot generate",
                remedy="scan one forward pass, or generate with `with model.generate(...)`",
                line=inputs[-1].line if inputs else None,
            )
        batch = self._host.merge(inputs)
        return Batch(to_meta(batch.args), to_meta(batch.kwargs), batch.rows, batch.total)

    def call(self, batch: Batch) -> Any:
        """The forward pass."""
        return self.module(*batch.args, **batch.kwargs)

    def steps(self, batch: Batch) -> int:
        """A forward pass is one step."""
        return 1

    def settings(self, graph: Graph, module: nn.Module) -> AbstractContextManager[None]:
        """What the model runs with, and the mode that lets tensors with and without data meet."""
        return self._without_data(self._host.settings(graph, module))

    def settings_key(self, graph: Graph) -> str:
        """As for the model itself."""
        return self._host.settings_key(graph)

    def blocks(self) -> list[str]:
        """As for the model itself."""
        return self._host.blocks()

    def stand_in(self, site: Site) -> Site | None:
        """As for the model itself."""
        return self._host.stand_in(site)

    def reorders(self, event: Event) -> bool:
        """Without data nothing depends on the data."""
        return False

    @contextmanager
    def _without_data(self, settings: AbstractContextManager[None]) -> Generator[None]:
        with settings, MetaMode():
            yield


class ConstantsWithoutData:
    """A block's constants as a scan has them: copies, so that the user's own tensors stay as they are."""

    def __init__(self) -> None:
        self._known: list[Any] = []

    def graph(self, graph: Graph) -> Graph:
        """The graph with its constants without data; the same ones each time."""
        self._known += [_without_data(each) for each in graph.constants[len(self._known) :]]
        copied = Graph()
        copied.nodes, copied.constants = graph.nodes, list(self._known)
        copied.functions, copied.events = graph.functions, graph.events
        return copied


def _without_data(value: Any) -> Any:
    if not isinstance(value, torch.Tensor):
        return to_meta(value)
    return to_meta(value).requires_grad_(value.requires_grad)


def explain(error: Exception, foresight: Foresight, line: Line | None) -> None:
    """Raise BlockError where a scan has failed because it has no values; a model that has is told on the line."""
    if isinstance(error, OperationError) and _for_want_of_values(error):
        raise BlockError(
            f"a scan has shapes and dtypes, and no values, which this line needs: {error.fact}",
            remedy="leave it out of the scan, or run the block with model.trace(...)",
            line=error.line,
        ) from error
    own = foresight.of_run().error
    if own is not None and (isinstance(error, WriteError) or not isinstance(error, LoupeError)):
        raise BlockError(
            f"the model cannot be run to its end without data: {type(own).__name__}: {own}",
            remedy="save values from before that place only, or run the block with model.trace(...)",
            line=line,
        ) from error


def _for_want_of_values(error: LoupeError) -> bool:
    """Whether an operation has failed on tensors without data because of that, and not for their shape or dtype."""
    return isinstance(error.__cause__, NotImplementedError) or "meta tensor" in str(error.__cause__)


def has_no_data(value: Any) -> bool:
    """Whether a value is a tensor of which only shape and dtype are known."""
    return isinstance(value, torch.Tensor) and value.is_meta
