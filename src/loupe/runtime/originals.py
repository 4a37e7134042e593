"""Keep the constants that a graph was recorded with, where its run is about to change them."""

from __future__ import annotations

import torch

from loupe.graph.graph import Graph
from loupe.graph.node import constants_of
from loupe.graph.passes import Root
from loupe.runtime.plan import Plan


def keep_originals(graph: Graph, plan: Plan) -> None:
    """Let a recorded graph say what it was recorded with, although a plan of it changes some of its constants."""
    originals = graph.originals
    roots = {root for changed in plan.memory.mutates.values() for root in changed if root[0] == "node"}
    defaults = {index for root in roots for index in _constants_behind(graph, plan, root)}
    for index in (plan.written | defaults) - originals.keys():
        value = plan.graph.constants[index]
        if isinstance(value, torch.Tensor):
            originals[index] = value.detach().clone().requires_grad_(value.requires_grad)


def _constants_behind(graph: Graph, plan: Plan, root: Root) -> list[int]:
    """The constants that are the default of an open parameter."""
    node = plan.graph[root[1]]
    opened = graph.parameters.get(node.target) if node.kind == "given" else None
    return [] if opened is None else [constant.index for constant in constants_of(opened.default)]
