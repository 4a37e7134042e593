"""Run blocks that are alike together, a batch of neighbours at a time, and leave those alone that have to be."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import torch

from loupe.errors import LoupeError
from loupe.graph.graph import Graph
from loupe.graph.merge import kind_of_run
from loupe.graph.opset import TRACKING
from loupe.runtime.budget import is_out_of_memory
from loupe.runtime.host import Batch, Host
from loupe.runtime.together import Joining, Results, Together


def has_to_run_alone(graph: Graph) -> bool:
    """Whether a graph tracks gradients in a way that is about its own run."""
    if not graph.backwards and any(getattr(value, "requires_grad", False) for value in graph.constants):
        return True  # what is saved may be differentiated after the block, each by itself
    return any(node.kind == "apply" and node.target in TRACKING for node in graph)


def kind_of(host: Host, graph: Graph, batch: Batch) -> Hashable:
    """What a run has to have in common with others to be run with them: its model, the form of its inputs, its kind."""
    form = tuple(
        (name, tuple(value.shape[1:]), value.dtype) if isinstance(value, torch.Tensor) else (name, repr(value))
        for name, value in (*enumerate(batch.args), *batch.kwargs.items())
    )
    return id(host.module), host.prefix, form, kind_of_run(graph), host.settings_key(graph)


def run_joined(joint: Together, blocks: list[Joining], most: int | None) -> tuple[list[Results | None], str | None]:
    """What blocks of one kind save when they are run as batches of at most so many rows, or of as many as fit.

    None stands for a block that has to be run alone; the text says why.
    """
    left = blocks
    if most is None:
        most = joint.rows_that_fit(left)
    saved: list[Results | None] = []
    reason: str | None = None
    while left:
        count = _neighbours(left, most)
        try:
            saved += joint.run(left[:count])
        except (NameError, AttributeError):
            raise  # a mistake in a program, and none that would go away block by block
        except Exception as error:  # each alone says what is wrong with it, on its own line
            if is_out_of_memory(error) and count > 1:
                most = joint.fewer(left[:count])
                continue
            saved += [None] * count
            reason = _reason_of(error)
        left = left[count:]
    return saved, reason


def _neighbours(blocks: Sequence[Joining], most: int) -> int:
    """How many of the first blocks have no more than so many rows together; at least one."""
    total = 0
    for count, block in enumerate(blocks):
        total += block.rows
        if total > most and count:
            return count
    return len(blocks)


def _reason_of(error: Exception) -> str:
    """Why blocks did not run together, in a few words."""
    fact = error.fact if isinstance(error, LoupeError) else f"{type(error).__name__}: {error}"
    return fact.splitlines()[0] if fact else type(error).__name__
