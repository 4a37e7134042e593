"""Refuse changes in a part of the model that a backward pass computes a second time, without them."""

from __future__ import annotations

from loupe.errors import OperationError
from loupe.graph.node import Site
from loupe.runtime.plan import Plan

WITHOUT_CHECKPOINT = "call that part without torch.utils.checkpoint while the block runs"


def refuse_second_run(plan: Plan, path: str) -> None:
    """A checkpointed module runs again in the backward pass; what the block has changed there would be missing."""
    changed = {read for node in plan.memory.mutates if node in plan.live for read in plan.change(node).sites}
    for node in (plan.graph[place] for places in plan.gates.values() for place in places):
        there = isinstance(node.target, Site) and node.gradient_of is None and node.site.path == path
        if there and (node.kind == "write" or node.id in changed):
            raise OperationError(
                f"{node.site.lands} is changed, and lies in a part that the backward pass computes a second "
                "time (torch.utils.checkpoint), without the change",
                remedy=WITHOUT_CHECKPOINT,
                line=node.line,
            )
