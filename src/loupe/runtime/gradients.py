"""Run a backward pass of a block: gradients of activations are sites, with a tensor hook as their tap."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from loupe.errors import Line, OperationError
from loupe.graph.node import Event, Node


@dataclass(frozen=True, slots=True)
class Slice:
    """A tensor that a read narrowed to the rows of one invoke: the whole one, and where in it the rows are."""

    whole: torch.Tensor
    axis: int
    start: int
    size: int


class OpenGradient:
    """The gradient of one value while the backward pass stands there."""

    __slots__ = ("event", "value")

    def __init__(self, event: Event, value: torch.Tensor) -> None:
        self.event = event
        self.value = value

    def read(self, node: Node) -> torch.Tensor:
        """The gradient, as a tensor that can be changed in place."""
        return self.value

    def write(self, node: Node, value: Any) -> None:
        """Let the backward pass go on with another gradient."""
        self.value = torch.as_tensor(value, dtype=self.value.dtype, device=self.value.device).expand_as(self.value)

    def shares(self, node: Node, storages: set[int]) -> bool:
        """A gradient that is open belongs to the value that the block asked about."""
        return False


@dataclass(frozen=True, slots=True)
class Target:
    """A value whose gradient is wanted: the moment at which it is open, and whether it is kept on the tensor."""

    tensor: torch.Tensor
    rows: Slice | None
    event: Event | None
    keep: bool


def run_backward(
    loss: torch.Tensor,
    options: dict[str, Any],
    targets: Iterable[Target],
    leaves: list[torch.Tensor],
    visit: Callable[[OpenGradient], None],
    line: Line | None,
) -> None:
    """Run a backward pass from `loss` as far as the targets and leaves, and stop at each target on the way.

    Only `leaves` (the user's own parameters) collect `.grad`, as after `loss.backward()`; the model's weights do not.
    """
    targets = list(targets)
    inputs = list(
        {
            id(t): t for t in [target.rows.whole if target.rows else target.tensor for target in targets] + leaves
        }.values()
    )
    inputs = [tensor for tensor in inputs if tensor.requires_grad]
    if not isinstance(loss, torch.Tensor) or not loss.requires_grad or not inputs:
        what = "the loss" if not inputs else "a value whose gradient is asked for"
        raise OperationError(
            f"backward has nothing to reach: {what} does not depend on anything that requires a gradient",
            remedy="derive the loss from the model's values; "
            "frozen models need x.requires_grad = True on an early value",
            line=line,
        )
    handles = [_hook(target, visit) for target in targets if target.tensor.requires_grad]
    try:
        gradients = torch.autograd.grad(
            loss,
            inputs,
            grad_outputs=options.get("gradient"),
            retain_graph=options.get("retain_graph"),
            create_graph=bool(options.get("create_graph")),
            allow_unused=True,
        )
    finally:
        for handle in handles:
            handle.remove()
    found = {id(tensor): gradient for tensor, gradient in zip(inputs, gradients, strict=True)}
    for leaf in leaves:
        gradient = found.get(id(leaf))
        if gradient is not None:
            leaf.grad = gradient if leaf.grad is None else leaf.grad + gradient


def _hook(target: Target, visit: Callable[[OpenGradient], None]) -> Any:
    rows = target.rows

    def at_gradient(gradient: torch.Tensor) -> torch.Tensor:
        whole = gradient.clone()
        part = whole if rows is None else whole.narrow(rows.axis, rows.start, rows.size)
        if target.event is not None:
            site = OpenGradient(target.event, part)
            with torch.no_grad():
                visit(site)
            if site.value is not part:
                part.copy_(site.value)
        if (
            target.keep and rows is not None
        ):  # torch keeps it itself, but not for rows that the model does not go through
            kept = target.tensor.grad
            target.tensor.grad = part.clone() if kept is None else kept + part
        return whole

    return (target.tensor if rows is None else rows.whole).register_hook(at_gradient)


def leaves_of(tensor: torch.Tensor) -> Iterator[torch.Tensor]:
    """The leaf tensors that a tensor of the user's own was made from, and that collect gradients."""
    if tensor.is_leaf:
        if tensor.requires_grad:
            yield tensor
        return
    stack, seen = [tensor.grad_fn], set()
    while stack:
        function = stack.pop()
        if function is None or function in seen:
            continue
        seen.add(function)
        variable = getattr(function, "variable", None)
        if variable is not None:
            yield variable
        stack.extend(following for following, _ in function.next_functions)
