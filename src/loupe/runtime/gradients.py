"""Run a backward pass of a block: gradients of its values are sites, with a hook on a tensor as their tap."""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Iterable, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from loupe.errors import Line, LoupeError, OperationError, WriteError
from loupe.graph.node import Event, Node
from loupe.ops.gradients import Pin, Slice, arrival_of, hook_on, keep_gradient, kept_gradient, let_through
from loupe.runtime.checkpoints import WITHOUT_CHECKPOINT
from loupe.runtime.leaves import leaves_of
from loupe.runtime.plan import Plan
from loupe.runtime.tensors import summary, tensors_in
from loupe.runtime.weights import Weights

_REMEDIES = {
    "torch.utils.checkpoint": WITHOUT_CHECKPOINT,
    "modified by an inplace operation": "a value that the backward pass needs is changed in place: write the site anew "
    "(`module.output = value` in place of `module.output[:] = value`), or compute from x.clone()",
    "second time": "give the backward pass before it retain_graph=True, or let both have a loss of their own",
}


class Arrival:
    """A tensor by which a backward pass comes: the gradient that is there, and the values that it is the gradient of.

    Values of several sites may be one tensor (a block's output, the next one's input): their gradients are one.
    """

    def __init__(self, tensor: torch.Tensor, pin: Pin | None, visit: Callable[..., None], grad_mode: bool) -> None:
        self.tensor = tensor
        self.pin = pin
        self.gradient = tensor
        self.events: list[tuple[Event, Slice | None]] = []
        self.kept: list[tuple[torch.Tensor, torch.Tensor | None, Slice]] = []
        self._visit = visit
        self._grad_mode = grad_mode

    def attach(self) -> Callable[[], None]:
        """Be called when the pass comes by; returns what undoes it."""
        if self.pin is None:
            return hook_on(self.tensor, self).remove
        return self.pin.attach(self)

    def __call__(self, gradient: torch.Tensor | None) -> torch.Tensor | None:
        """What the hook does: open the sites, and let the pass go on with what the block made of the gradient."""
        if gradient is None:  # an operation behind it has no derivative (quantized layers): nothing arrives
            return None
        self.gradient = own = torch.empty_like(self.tensor).copy_(gradient)  # laid out in memory as the values are
        version = own._version
        with torch.set_grad_enabled(self._grad_mode):
            self._visit(*(OpenGradient(event, self, rows) for event, rows in self.events))
        for value, before, rows in self.kept:
            keep_gradient(value, before, rows.of(self.gradient).detach())
        return None if self.gradient is own and own._version == version else self.gradient


class OpenGradient:
    """The gradient of one value while the backward pass stands there."""

    __slots__ = ("_arrival", "_rows", "event")

    def __init__(self, event: Event, arrival: Arrival, rows: Slice | None) -> None:
        self.event = event
        self._arrival = arrival
        self._rows = rows

    def read(self, node: Node) -> torch.Tensor:
        """The gradient, as a tensor that can be changed in place."""
        gradient = self._arrival.gradient
        return gradient if self._rows is None else self._rows.of(gradient)

    def write(self, node: Node, value: Any) -> None:
        """Let the backward pass go on with another gradient."""
        part = self.read(node)
        try:
            new = torch.as_tensor(value, dtype=part.dtype, device=part.device)
            new = new if new.shape == part.shape else new.expand_as(part).clone()
        except (RuntimeError, TypeError, ValueError) as error:
            raise WriteError(
                f"a gradient of {summary(part)} cannot be replaced by {summary(value)}",
                remedy="assign a number, or a tensor of the gradient's shape",
                line=node.line,
            ) from error
        if self._rows is not None:
            whole = self._arrival.gradient.clone()
            self._rows.of(whole).copy_(new)
            new = whole
        self._arrival.gradient = new

    def shares(self, node: Node, storages: set[int]) -> bool:
        """A gradient that is open belongs to the value that the block asked about."""
        return False


def ask(node: Node, value: Any, weights: Weights) -> None:
    """Let a gradient come to the value of a node, although nothing before it may ask for any.

    Raises OperationError for what has none: a weight that is frozen, a value that is no tensor.
    """
    if not isinstance(value, torch.Tensor):
        raise OperationError(
            f"a gradient is asked for of {summary(value)}, which is no tensor",
            remedy="ask for the gradient of one of the tensors in it: x[0].grad",
            line=node.line,
        )
    if value.requires_grad:
        return
    if node.kind == "parameter":
        raise OperationError(
            f"the gradient of {node.target} is asked for, which is frozen: it requires none",
            remedy=f"unfreeze it before the block: model.{node.target}.requires_grad_(True)",
            line=node.line,
        )
    if node.kind == "apply" and node.target in ("Tensor.detach", "torch.detach"):
        value.requires_grad_(True)  # it shares memory with a tensor of the model, whose history is to stay as it is
    elif value.is_floating_point() or value.is_complex():
        weights.track(node, value)
        let_through(value)


def run_backward(
    plan: Plan,
    node: Node,
    values: Mapping[int, Any],
    loss: Any,
    options: dict[str, Any],
    weights: Callable[[], Collection[int]],
    visit: Callable[..., None],
    *,
    retain: bool,
) -> list[tuple[torch.Tensor, torch.Tensor | None]]:
    """Run a backward pass as far as the values whose gradients are asked for, and stop at each of them on the way.

    The user's own leaf tensors collect `.grad` as after a plain `loss.backward()`. The model's weights (`weights` has
    their ids) do not, except those whose gradient is asked for, or with the option `parameter_gradients`. `retain` says
    that a pass may follow which is not in the plan yet. Returns what collected, each with the `.grad` that it had, for
    one who may have to take that back; where torch lets all weights collect, in a block that runs alone, nobody does.
    """
    arrivals = _arrivals(plan, node, values, visit, bool(options.get("create_graph")))
    number = plan.graph.backwards.index(node.id)
    # Where a peek has asked, and nobody else does, there is nothing left to do.
    looked_at = not arrivals and any(n.gradient_of is not None and n.site.call == number for n in plan.graph)
    if not isinstance(loss, torch.Tensor) or not loss.requires_grad:
        if looked_at:
            return []
        raise OperationError(
            "backward has nothing to reach: the loss does not depend on anything that requires a gradient",
            remedy="derive the loss from floating-point values of the model by operations that torch differentiates; "
            "a generation, and a block under torch.inference_mode(), run without autograd, and values of an earlier "
            "block of a session come without their history",
            line=node.line,
        )
    if loss.numel() != 1 and options.get("gradient") is None:
        raise OperationError(
            f"backward starts from {summary(loss)}, which is not one number",
            remedy="reduce it first (loss.sum().backward()), or pass gradient= with its shape",
            line=node.line,
        )
    if retain or any(n > node.id and plan.graph[n].invoke != node.invoke for n in plan.graph.backwards):
        options = {**options, "retain_graph": True}  # alone, the other prompt would have a graph of its own
    if options.get("parameter_gradients") and not arrivals and not retain and not options.get("only_inputs"):
        _accumulate(loss, options, node.line)
        return []
    leaves: list[torch.Tensor] = []
    if not options.get("only_inputs"):
        asked = {id(values[n]) for n in plan.gradients[node.id] if plan.graph[n].kind == "parameter"}
        others = set() if options.get("parameter_gradients") else set(weights()) - asked
        leaves = [leaf for leaf in leaves_of(loss) if id(leaf) not in others]
    leaves = list({id(leaf): leaf for leaf in leaves}.values())
    inputs: list[Any] = [each.tensor if each.pin is None else each.pin.edge for each in arrivals] + leaves
    if not inputs and looked_at:
        return []
    if not inputs:
        raise OperationError(
            "backward has nothing to reach: nobody asks for a gradient",
            remedy="read x.grad of a value or of a weight in the block, use a tensor of your own that requires a "
            "gradient, or say model.trace(..., parameter_gradients=True)",
            line=node.line,
        )
    gradients = _differentiate(loss, inputs, arrivals, options, node.line)
    collected = []
    for leaf, gradient in zip(leaves, gradients[len(arrivals) :], strict=True):
        before = leaf.grad
        if gradient is not None:
            collected.append((leaf, before))
            leaf.grad = gradient if before is None else before + gradient
    return collected


def _arrivals(
    plan: Plan, backward: Node, values: Mapping[int, Any], visit: Callable[..., None], grad_mode: bool
) -> list[Arrival]:
    """The tensors at which a backward pass is awaited, each with the values of the block that arrive there."""
    number = plan.graph.backwards.index(backward.id)
    found: dict[object, Arrival] = {}
    for place, kept in plan.gradients[backward.id].items():
        for value in tensors_in(values[place]):
            rows = arrival_of(value)
            tensor = value if rows is None else rows.carrier
            if not tensor.requires_grad:
                continue
            pin = None if rows is None else rows.pin
            key = id(tensor) if pin is None else (pin.edge.node, pin.edge.output_nr)
            arrival = found.setdefault(key, Arrival(tensor, pin, visit, grad_mode))
            event = Event(f"%{place}", "grad", number)
            if event in plan.gates:
                arrival.events.append((event, rows))
            if kept and rows is not None:  # for what is no part, torch does it
                arrival.kept.append((value, kept_gradient(value), rows))
    return list(found.values())


def _differentiate(
    loss: torch.Tensor,
    inputs: list[Any],
    arrivals: Iterable[Arrival],
    options: dict[str, Any],
    line: Line | None,
) -> tuple[torch.Tensor | None, ...]:
    handles = [arrival.attach() for arrival in arrivals]
    try:
        with _told(loss, line):
            return torch.autograd.grad(
                loss,
                inputs,
                grad_outputs=options.get("gradient"),
                retain_graph=options.get("retain_graph"),
                create_graph=bool(options.get("create_graph")),
                allow_unused=True,
            )
    finally:
        for handle in handles:
            handle()


def _accumulate(loss: torch.Tensor, options: dict[str, Any], line: Line | None) -> None:
    """Let every leaf collect: torch's own backward pass."""
    with _told(loss, line):
        torch.autograd.backward(
            loss,
            options.get("gradient"),
            retain_graph=options.get("retain_graph"),
            create_graph=bool(options.get("create_graph")),
        )


@contextmanager
def _told(loss: torch.Tensor, line: Line | None) -> Generator[None]:
    """Tell what fails in a backward pass with the user's line."""
    try:
        yield
    except LoupeError:
        raise
    except Exception as error:
        remedies = (remedy for part, remedy in _REMEDIES.items() if part in str(error))
        raise OperationError(
            f"backward failed from {summary(loss)}: {type(error).__name__}: {error}",
            remedy=next(remedies, "mend this line; the model is as it was"),
            line=line,
        ) from error
