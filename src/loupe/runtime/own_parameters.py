"""Look after the model's own parameters for the length of a pass: read them, set others for them, track gradients."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager
from functools import cached_property
from typing import Any

from torch import nn

from loupe.graph.node import Node
from loupe.runtime.exchange import Exchange
from loupe.runtime.host import Batch, Host
from loupe.runtime.leaves import Leaves, Untracked, may_need_grad
from loupe.runtime.offloaded import parameter_at
from loupe.runtime.plain import modules_of
from loupe.runtime.plan import Plan
from loupe.runtime.tracking import Tracking
from loupe.runtime.tree import Tree
from loupe.runtime.weights import Weights


class OwnParameters:
    """The parameters of a model, as one pass finds and leaves them.

    `attached` are the paths of modules of the user's, whose parameters are none of these; `given` looks up what comes
    into the run from outside. With `collects` every weight collects gradients. `tracks` says that the pass has begun to
    track gradients. What most passes never need is made when one does.
    """

    def __init__(
        self,
        host: Host,
        modules: Callable[[str], nn.Module],
        attached: Collection[str],
        given: Callable[[str], Any],
        tree: Tree,
        batch: Batch,
        *,
        collects: bool,
    ) -> None:
        self.tracks = False
        self._host = host
        self._modules = modules
        self._attached = attached
        self._given = given
        self._tree = tree
        self._batch = batch
        self._collects = collects
        self._is_called = False
        self._memory: Weights | None = None
        self._aside: list[tuple[dict[str, Any], str, Any]] = []

    @cached_property
    def parts(self) -> Collection[nn.Module]:
        """The modules of the whole model, of which the host's may be one."""
        return list(modules_of(self._modules(""))) if self._host.prefix else self._tree.modules(self._host.module)

    @property
    def memory(self) -> Weights:
        """Keeps the parameters as they are."""
        if self._memory is None:
            self._memory = Weights(self._modules, self._attached, self._aside, lambda: self.parts, self._remembered)
        return self._memory

    def _remembered(self) -> set[int | None] | None:
        return None if self._host.prefix or not self.parts else self._tree.memory()

    @cached_property
    def _leaves(self) -> Leaves:
        return Leaves(self._modules, self._attached, self._given, lambda: self.parts, collects=self._collects)

    @cached_property
    def _tracking(self) -> Tracking:
        return Tracking(self._leaves, self._batch)

    @cached_property
    def _exchange(self) -> Exchange:
        return Exchange(self._modules, self.memory, self._aside)

    # -- what lines do with them ---------------------------------------------------------------------------------------

    def read(self, path: str) -> Any:
        """The parameter at a path; without its history where the pass tracks none."""
        value = parameter_at(self._modules, path)
        return value if self.tracks else value.detach()

    def set(self, node: Node, value: Any) -> None:
        """Let the model run with another parameter; raises OrderError where it has been called."""
        if self._is_called:
            self._exchange.close()
        self._exchange.set(node, value)

    def by_id(self) -> dict[int, nn.Parameter]:
        """The parameters by their ids, as they are before an edit sets others."""
        return self._leaves.weights()

    # -- the course of a pass ------------------------------------------------------------------------------------------

    def track(self, plan: Plan) -> AbstractContextManager[None]:
        """Begin: autograd runs where a gradient may be asked for."""
        if not may_need_grad(plan, self._batch, collects=self._collects):
            return Untracked()
        tracking = self._tracking.begin(plan)
        self.tracks = self._tracking.is_on
        return tracking

    def track_again(self) -> AbstractContextManager[None]:
        """Go on, when the model has returned, as the pass did."""
        return self._tracking.again()

    def are_tracked_for(self, plan: Plan, values: Mapping[int, Any]) -> bool:
        """Whether the pass tracks what a longer plan asks gradients of."""
        return self._tracking.covers(plan, values)

    def call(self) -> None:
        """The model is called now."""
        self._is_called = True

    def pause(self) -> None:
        """The pass stands still, and the user's other lines see the model as it is."""
        self.put_back()
        self._tracking.pause()

    def resume(self) -> None:
        """The pass goes on."""
        self._tracking.resume()
        self.put()

    def put(self) -> None:
        """Put what the pass has set in the place of the model's own."""
        if self._aside:
            self._exchange.put()

    def put_back(self) -> None:
        """Put the model's own parameters back."""
        if self._aside:
            self._exchange.put_back()

    def forget(self) -> None:
        """Let go of all tensors."""
        self._aside.clear()
        if self._memory is not None:
            self._memory.forget()
