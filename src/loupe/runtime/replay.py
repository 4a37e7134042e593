"""Put back what a pass has changed, so that a second pass of the same run starts where the first one did."""

from __future__ import annotations

from collections.abc import Collection, Generator, Iterable
from contextlib import contextmanager
from operator import attrgetter

import torch
from torch import nn

from loupe.runtime.host import Batch
from loupe.runtime.plan import Plan
from loupe.runtime.tensors import tensors_in

_is_training = attrgetter("training")


class Start:
    """What a run was given when its first pass began: random numbers, inputs, statistics of a model that trains."""

    def __init__(self, modules: Collection[nn.Module], batch: Batch) -> None:
        self._cpu = torch.get_rng_state()
        self._cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
        self._kept: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self._gradients: dict[int, tuple[torch.Tensor, torch.Tensor | None]] = {}
        for tensor in tensors_in((batch.args, batch.kwargs)):
            self._keep(tensor)
        if any(map(_is_training, modules)):
            for buffer in [buffer for each in modules for buffer in each.buffers(recurse=False)]:
                self._keep(buffer)

    def keep_changed(self, plan: Plan) -> None:
        """Keep the user's own tensors that a plan is about to change; call it before the plan runs."""
        for roots in plan.memory.mutates.values():
            for kind, index in roots:
                value = plan.graph.constants[index] if kind == "const" else None
                if isinstance(value, torch.Tensor):
                    self._keep(value)

    def keep_gradients(self, collected: Iterable[tuple[torch.Tensor, torch.Tensor | None]]) -> None:
        """Keep the `.grad` that the user's own tensors had before a backward pass added to it."""
        for leaf, before in collected:
            self._gradients.setdefault(id(leaf), (leaf, before))

    def restore(self) -> None:
        """Put everything back."""
        torch.set_rng_state(self._cpu)
        if self._cuda:
            torch.cuda.set_rng_state_all(self._cuda)
        with torch.no_grad(), torch._C.DisableTorchFunction():  # none of this is a line of the block that is open
            for leaf, gradient in self._gradients.values():
                leaf.grad = gradient
            for tensor, before in self._kept.values():
                if not torch.equal(tensor, before):
                    tensor.copy_(before)

    def _keep(self, tensor: torch.Tensor) -> None:
        if id(tensor) not in self._kept:
            with torch._C.DisableTorchFunction():
                self._kept[id(tensor)] = (tensor, tensor.detach().clone())


@contextmanager
def aside(module: nn.Module) -> Generator[None]:
    """A pass that is none of the run's: random numbers and buffers are afterwards as they were."""
    buffers = [(buffer, buffer.detach().clone()) for buffer in module.buffers()]
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    try:
        with torch.random.fork_rng(devices=devices), torch.no_grad():
            yield
    finally:
        with torch.no_grad():
            for buffer, value in buffers:
                buffer.copy_(value)
