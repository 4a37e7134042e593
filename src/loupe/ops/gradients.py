"""Let gradients come to the values of a run, and keep them there."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.autograd.graph import get_gradient_edge
from torch.utils.hooks import RemovableHandle

from loupe.ops.views import CausalLMLogits


def hook_on(tensor: torch.Tensor, hook: Callable[[torch.Tensor], torch.Tensor | None]) -> RemovableHandle:
    """Put a hook on a tensor, which may be a view of what was changed in place since its history was last looked at."""
    _ = tensor.grad_fn  # this look brings it up to date; without it torch (as of 2.13) crashes
    return tensor.register_hook(hook)


class Pin:
    """A tensor as it is now, for a backward pass to come by, although it will be changed in place."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.edge = get_gradient_edge(tensor)
        self._visitors: list[Callable[[torch.Tensor], torch.Tensor | None]] = []
        visitors = self._visitors  # the hook must not know the edge, which knows the hook

        def hook(gradient: torch.Tensor) -> torch.Tensor | None:
            return visitors[-1](gradient) if visitors else None

        hook_on(tensor, hook)

    def attach(self, visitor: Callable[[torch.Tensor], torch.Tensor | None]) -> Callable[[], None]:
        """Have a function called with the gradient, which may return another; returns what undoes it."""
        self._visitors.append(visitor)
        return self._visitors.clear


@dataclass(slots=True)
class Slice:
    """A tensor that is a part of the one with which the model goes on: that whole one, and where in it the part is.

    `pin` is the whole as it was when these rows last changed in place, where those of others have changed since;
    `changed` says that these have.
    """

    whole: torch.Tensor
    axis: int
    start: int
    size: int
    pin: Pin | None = None
    changed: bool = False

    @property
    def carrier(self) -> torch.Tensor:
        """The tensor by which every gradient of the part comes: the whole, or what that is a view of.

        Where one of several views is changed in place, torch lets all of them follow from the tensor that they are
        views of, and no longer from each other.
        """
        base = self.whole._base
        return self.whole if base is None or not (self.changed or self.pin) else base

    def hold(self) -> None:
        """Keep to the whole as it is now."""
        if self.whole.requires_grad:
            base = self.whole._base
            self.pin = Pin(self.whole if base is None else base)

    def of(self, gradient: torch.Tensor) -> torch.Tensor:
        """The part of the carrier's gradient, as a view."""
        carrier = self.carrier
        if carrier is self.whole:
            return gradient.narrow(self.axis, self.start, self.size)
        part = self.whole.detach().narrow(self.axis, self.start, self.size)
        return gradient.as_strided(part.shape, part.stride(), part.storage_offset() - carrier.storage_offset())


def remember_whole(part: torch.Tensor, place: Slice) -> None:
    """Note on a tensor that its gradient arrives at another one."""
    part.__dict__["_loupe_rows"] = place


def arrival_of(tensor: torch.Tensor) -> Slice | None:
    """Where the gradient of a value arrives, unless that is the value itself: rows of an invoke, logits of an output.

    The model goes on with all rows, and computes a loss from its own logits, so what is computed from the value in the
    block is one part of its gradient only.
    """
    if isinstance(tensor, CausalLMLogits):
        output = tensor.model_output
        inner = output[0] if isinstance(output, tuple) else output.logits
        return arrival_of(inner) or Slice(inner, 0, 0, inner.shape[0])
    return tensor.__dict__.get("_loupe_rows")


def without_history(tensor: torch.Tensor) -> torch.Tensor:
    """The same memory as another tensor: a tensor of the user's own is not to require a gradient after the run."""
    return tensor.detach() if isinstance(tensor, torch.Tensor) and not tensor.requires_grad else tensor


def let_through(tensor: torch.Tensor) -> None:
    """Let a tensor require a gradient although nothing before it does (a frozen model).

    `requires_grad_` would make it a leaf: nobody may change that in place, and the whole of which it is a view would
    not know. So it is given a history, an addition in place to none of its entries: views of it learn of that too.
    """
    if tensor.requires_grad or not torch.is_grad_enabled() or torch.is_inference_mode_enabled():
        return
    nothing = torch.zeros((), dtype=tensor.dtype, device=tensor.device, requires_grad=True)
    try:
        tensor.unsqueeze(0)[:0].add_(nothing)
        place = arrival_of(tensor)
        if place is not None:
            place.changed = True
    except RuntimeError:  # torch lets some views be changed by nobody, but a leaf can be made of them
        tensor.requires_grad_(True)


def retain_grad(value: torch.Tensor) -> torch.Tensor:
    """Keep the gradient of a value on it: `value.grad` may be read after the block."""
    if not torch.is_grad_enabled():
        return value
    let_through(value)
    place = arrival_of(value)
    if place is None:
        value.retain_grad()
        return value
    held = weakref.ref(value)
    axis, start, size = place.axis, place.start, place.size

    def keep(gradient: torch.Tensor) -> None:
        value = held()
        if value is not None:
            keep_gradient(value, kept_gradient(value), gradient.narrow(axis, start, size))

    hook_on(place.whole, keep)
    return value


def require_grad(value: torch.Tensor, tracked: bool = True) -> torch.Tensor:
    """What `value.requires_grad = True` means for a value of the model: its gradient is wanted, and kept on it."""
    return retain_grad(value) if tracked else value.requires_grad_(False)


def kept_gradient(part: torch.Tensor) -> torch.Tensor | None:
    """What has been kept so far as the gradient of a part; torch warns of a look at its `.grad`."""
    return part.__dict__.get("_loupe_kept")


def keep_gradient(part: torch.Tensor, before: torch.Tensor | None, gradient: torch.Tensor) -> None:
    """Keep what was there before and a further gradient as the gradient of a part."""
    kept = gradient.clone() if before is None else before + gradient
    part.__dict__["_loupe_kept"] = part.grad = kept
