"""Let a pass track gradients where the block asks for one, and of the weights alone that it asks about."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from loupe.runtime.host import Batch
from loupe.runtime.leaves import Leaves, Untracked
from loupe.runtime.plan import Plan


class Tracking:
    """Whether one pass tracks gradients, and of which weights; decided when it begins."""

    def __init__(self, leaves: Leaves, batch: Batch) -> None:
        self.is_on = False
        self._leaves = leaves
        self._batch = batch
        self._asked: frozenset[str] | None = frozenset()

    def begin(self, plan: Plan) -> AbstractContextManager[None]:
        """Autograd runs only where a gradient is asked for; gradients of gradients need an attention that has them."""
        self.is_on = self._leaves.needs_grad(plan, self._batch)
        if not self.is_on:
            return self.again()
        self._asked = self._leaves.asked(plan)
        twice = any(plan.graph[node].kwargs.get("create_graph") for node in plan.backwards)
        return self._twice() if twice else self.again()

    def again(self) -> AbstractContextManager[None]:
        """Track gradients where the pass does, of the weights that it asks about alone."""
        return self._leaves.tracked(self._asked) if self.is_on else Untracked()

    @contextmanager
    def _twice(self) -> Generator[None]:
        with self.again(), sdpa_kernel(SDPBackend.MATH):
            yield

    def covers(self, plan: Plan, values: Mapping[int, Any]) -> bool:
        """Whether the pass tracks what a longer plan asks gradients of; what has passed untracked is too late."""
        if not self.is_on:
            return not self._leaves.needs_grad(plan, self._batch)
        asked = self._leaves.asked(plan)
        if self._asked is not None and (asked is None or not asked <= self._asked):
            return False
        found = [values.get(node) for nodes in plan.gradients.values() for node in nodes]
        return all(v.requires_grad or not v.is_floating_point() for v in found if isinstance(v, torch.Tensor))

    def pause(self) -> None:
        """The user's lines run, and see the weights as they are."""
        self._leaves.require(True)

    def resume(self) -> None:
        """The pass goes on."""
        self._leaves.require(False)
