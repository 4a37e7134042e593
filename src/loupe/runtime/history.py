"""Keep autograd right where tensors are changed in place: copies for the backward pass, and where gradients arrive."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from loupe.graph.node import Node
from loupe.graph.passes import changed_refs, is_opaque
from loupe.ops.gradients import arrival_of
from loupe.runtime.plan import Plan
from loupe.runtime.tensors import share_memory, storages_of


class History:
    """Surrounds the nodes of a run that tracks gradients; shares the values of the interpreter that it belongs to."""

    def __init__(self, values: Mapping[int, Any]) -> None:
        self._values = values

    @contextmanager
    def around(self, plan: Plan, node: Node) -> Generator[None]:
        """Run a node so that backward passes later find the values, and the gradients, of the lines above."""
        if node.id in plan.memory.mutates:
            self._pin(plan, node)
        roots = plan.memory.roots
        fragile = [
            value
            for ref in node.refs()
            if isinstance(value := self._values.get(ref), torch.Tensor)
            and (roots[ref] & plan.changed if roots else arrival_of(value) and not value.requires_grad)
        ]
        if not fragile:
            yield
            return
        with _keeping_copies(storages_of(fragile)):
            yield

    def _pin(self, plan: Plan, node: Node) -> None:
        """A change in place gives a whole tensor another history: rows of other prompts keep to the one they had."""
        refs = node.refs() if is_opaque(plan.graph, node) or node.kind == "call" else changed_refs(node)
        storages = storages_of([self._values.get(ref) for ref in refs])
        for place, value in self._values.items():
            rows = arrival_of(value) if isinstance(value, torch.Tensor) else None
            if rows is None or not share_memory(rows.whole, storages):
                continue
            if plan.graph[place].invoke is None or node.invoke in (None, plan.graph[place].invoke):
                rows.pin, rows.changed = None, True
            elif rows.pin is None:
                rows.hold()


def _keeping_copies(storages: set[int]) -> torch.autograd.graph.saved_tensors_hooks:
    """Let autograd keep copies of the tensors in these storages, for a backward pass with the values as they are now.

    A change in place would make that pass impossible otherwise, also where it is about the rows of another prompt.
    """

    def pack(tensor: torch.Tensor) -> tuple[torch.Tensor, int]:
        own = tensor.detach()
        kept = own.clone() if share_memory(own, storages) else own
        return kept, kept._version

    def unpack(packed: tuple[torch.Tensor, int]) -> torch.Tensor:
        kept, version = packed
        if kept._version != version:
            raise RuntimeError("a tensor that the backward pass needs was modified by an inplace operation")
        return kept

    return torch.autograd.graph.saved_tensors_hooks(pack, unpack)
