"""Tell which leaf tensors a run tracks gradients of: the user's own, and the weights that a block asks about."""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from itertools import chain
from typing import Any

import torch
from torch import nn

from loupe.graph.node import constants_in, is_within
from loupe.graph.opset import TRACKING
from loupe.runtime.host import Batch
from loupe.runtime.lookup import tensor_named
from loupe.runtime.plan import Plan
from loupe.runtime.tensors import tensors_in


def leaves_of(tensor: torch.Tensor) -> Iterator[torch.Tensor]:
    """The leaf tensors that a tensor was made from, and that collect gradients."""
    if tensor.is_leaf:
        if tensor.requires_grad:
            yield tensor
        return
    stack: list[Any] = [tensor.grad_fn]
    seen = {tensor.grad_fn, None}
    accumulates = _kind_of_leaf()
    while stack:
        for function, _ in stack.pop().next_functions:
            if function in seen:
                continue
            seen.add(function)
            if type(function) is accumulates:
                yield function.variable
            else:
                stack.append(function)


@cache
def _kind_of_leaf() -> type:
    """The class of what torch has in its graph for a leaf."""
    with torch.enable_grad(), torch._C.DisableTorchFunction():
        view: Any = torch.zeros(1, requires_grad=True).view(1)
    return type(view.grad_fn.next_functions[0][0])


class Untracked:
    """Runs without autograd; as `torch.no_grad`, which takes longer to come and go."""

    __slots__ = ("_before",)

    def __enter__(self) -> None:
        self._before = torch.is_grad_enabled()
        torch._C._set_grad_enabled(False)

    def __exit__(self, *error: object) -> None:
        torch._C._set_grad_enabled(self._before)


def may_need_grad(plan: Plan, batch: Batch, *, collects: bool) -> bool:
    """Whether a run could track gradients, as far as that can be told without a look at the model."""
    if plan.backwards or collects:
        return True
    if not torch.is_grad_enabled():
        return False
    if plan.tracks or plan.given or plan.called:
        return True
    for value in (*batch.args, *batch.kwargs.values(), *plan.graph.constants):
        if type(value) is torch.Tensor:
            if value.requires_grad:
                return True
        elif any(tensor.requires_grad for tensor in tensors_in(value)):
            return True
    return False


class Leaves:
    """Tells the user's own leaf tensors from the weights of a model, which require a gradient only where one is asked.

    `attached` are the paths of modules of the user's, `given` looks up what comes into the run from outside, `parts`
    are the modules of the whole model. With `collects` every weight is asked for.
    """

    def __init__(
        self,
        modules: Callable[[str], nn.Module],
        attached: Collection[str],
        given: Callable[[str], Any],
        parts: Callable[[], Iterable[nn.Module]],
        *,
        collects: bool,
    ) -> None:
        self._modules = modules
        self._attached = attached
        self._given = given
        self._parts = parts
        self._collects = collects
        self._own: dict[int, nn.Parameter] | None = None
        self._aside: list[nn.Parameter] = []

    def weights(self) -> dict[int, nn.Parameter]:
        """The model's own parameters, by their ids, as they are before an edit sets others."""
        if self._own is None:
            if self._attached:
                named = self._modules("").named_parameters(remove_duplicate=False)
                self._own = {id(weight): weight for path, weight in named if not is_within(path, self._attached)}
            else:
                own = chain.from_iterable([module._parameters.values() for module in self._parts()])
                self._own = {id(weight): weight for weight in own if weight is not None}
        return self._own

    def needs_grad(self, plan: Plan, batch: Batch) -> bool:
        """Whether a gradient could be asked for: by a backward pass, or after the block by what requires one."""
        if not may_need_grad(plan, batch, collects=self._collects):
            return False
        if plan.backwards or self._collects:
            self.weights()
            return True
        return plan.tracks or self._are_used(plan, batch)

    def _are_used(self, plan: Plan, batch: Batch) -> bool:
        """Whether the run uses something of the user's that requires a gradient."""
        graph = plan.graph
        used: list[Any] = []
        for value in (*batch.args, *batch.kwargs.values()):
            used += [value] if isinstance(value, torch.Tensor) else tensors_in(value)
        used = [tensor for tensor in used if tensor.requires_grad]
        if graph.constants and any(isinstance(each, torch.Tensor) and each.requires_grad for each in graph.constants):
            used += [graph.constants[const.index] for node in plan.live for const in constants_in(graph[node])]
        if plan.given:
            used += [self._given(graph[node].target) for node in plan.given if node in plan.live]
        for node in plan.called if self._attached else ():
            if is_within(graph[node].target, self._attached):
                used += self._modules(graph[node].target).parameters()
        tracked = [value for value in used if isinstance(value, torch.Tensor) and value.requires_grad]
        if not tracked:
            return False
        weights = self.weights()
        return any(id(leaf) not in weights for tensor in tracked for leaf in leaves_of(tensor))

    def asked(self, plan: Plan) -> frozenset[str] | None:
        """The paths of the weights that have to require a gradient during a run; None for all of them.

        A backward pass of the block says itself what collects, and needs all: a value may be read where the model has
        used it already. One after the block is torch's own, which lets everything collect that requires a gradient.
        """
        graph = plan.graph
        if self._collects or plan.backwards:
            return None
        nodes = [ref for node in graph if node.kind == "apply" and node.target in TRACKING for ref in node.refs()]
        return frozenset(graph[node].target for node in nodes if graph[node].kind == "parameter")

    @contextmanager
    def tracked(self, asked: frozenset[str] | None) -> Generator[None]:
        """Track gradients for a while, and let other weights than the asked ones require none."""
        if asked is not None:
            wanted = {id(tensor_named(self._modules, path)) for path in asked}
            self._aside = [w for w in self.weights().values() if w.requires_grad and w.is_leaf and id(w) not in wanted]
        self.require(False)
        try:
            with torch.enable_grad():
                yield
        finally:
            self.require(True)
            self._aside = []

    def require(self, wanted: bool) -> None:
        """Whether the weights that are set aside require a gradient just now: they do while the user's lines run."""
        for weight in self._aside:
            weight.requires_grad_(wanted)
