"""Work out shape and dtype of a block's values without a run: by the scan for sites, by meta kernels for operations."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import nn

from loupe.errors import LoupeError
from loupe.graph.graph import Graph
from loupe.graph.node import Const, Node, Ref, map_argument
from loupe.graph.opset import effect_of
from loupe.graph.passes import changed_refs
from loupe.graph.steps import LAST_STEP
from loupe.ops.modes import in_modes
from loupe.ops.table import function_of
from loupe.ops.views import first_input
from loupe.runtime.batching import Axes, Rows, narrow
from loupe.runtime.lookup import module_named, tensor_named
from loupe.runtime.meta import MetaMode, Scan, Scanner, to_meta
from loupe.runtime.tensors import map_tensors, tensors_in


class Undescribed(Exception):
    """Shape and dtype cannot be known without a run."""


class Describer:
    """Values of a graph's nodes as tensors without data, remembered by node."""

    def __init__(self, graph: Graph, scanner: Scanner, given: Callable[[str], Any]) -> None:
        self._graph = graph
        self._scanner = scanner
        self._given = given
        self._known: dict[int, Any] = {}

    def forget(self) -> None:
        """Inputs have changed."""
        self._known.clear()

    def describe(self, node_id: int, scan: Scan, rows: Rows, axes: Axes) -> Any:
        """The value of a node without data; raises Undescribed where only a run can tell."""
        try:
            with torch.no_grad(), MetaMode():
                return self._value(node_id, scan, rows, axes)
        except (Undescribed, LoupeError):
            raise
        except Exception as error:
            raise Undescribed(str(error)) from error

    def _value(self, node_id: int, scan: Scan, rows: Rows, axes: Axes) -> Any:
        known = self._known
        stack = [node_id]
        while stack:
            node = self._graph[stack[-1]]
            missing = [ref for ref in node.refs() if ref not in known]
            if missing:
                stack.extend(missing)
                continue
            known[stack.pop()] = self._one(node, scan, rows, axes)
        return known[node_id]

    def _one(self, node: Node, scan: Scan, rows: Rows, axes: Axes) -> Any:
        if node.kind == "read":
            return self._read(node, scan, rows, axes)
        args = [self._argument(arg) for arg in node.args]
        kwargs = {key: self._argument(arg) for key, arg in node.kwargs.items()}
        if node.kind in ("write", "save", "set_parameter", "backward"):
            return args[0]
        if node.kind == "given":
            return to_meta(self._given(node.target))
        if node.kind == "parameter":
            return _apart(tensor_named(self._scanner.twin_module, node.target))
        if node.kind == "call":
            return module_named(self._scanner.twin_module, node.target)(*args, **kwargs)
        if node.target == LAST_STEP:
            raise Undescribed("only a run tells which step is the last")
        if node.target in self._graph.functions:
            raise Undescribed(f"{node.target} is a function of the user's")
        if effect_of(node.target) == "inplace" and not changed_refs(node):
            return args[0]  # a tensor of the user's own is not touched before the run
        with nullcontext() if node.modes is None else in_modes(node.modes):
            return function_of(node.target)(*args, **kwargs)

    def _argument(self, arg: Any) -> Any:
        def replace(leaf: Any) -> Any:
            if type(leaf) is Ref:
                return self._known[leaf.node]
            if type(leaf) is Const:
                return to_meta(self._graph.constants[leaf.index])
            return leaf

        return map_argument(arg, replace)

    def _read(self, node: Node, scan: Scan, rows: Rows, axes: Axes) -> Any:
        site = node.site
        if node.gradient_of is not None:
            return self._known[node.gradient_of]
        for earlier in reversed(self._graph.nodes[: node.id]):
            if earlier.kind != "write":
                continue
            same = earlier.site == site or earlier.site.lands == site.event
            if same and earlier.site.port in (site.port, "skip") and earlier.invoke == node.invoke:
                return (
                    self._known[earlier.id] if earlier.id in self._known else self._value(earlier.id, scan, rows, axes)
                )
            self._check_shape_kept(earlier, scan, rows, axes)
        if site.event not in scan.values:
            raise Undescribed(f"{site} was not reached without data: {scan.error}")
        value = map_tensors(scan.values[site.event], _apart)
        if not rows.covers_all(node.invoke):
            assert node.invoke is not None
            value = narrow(value, axes.of(site.event), rows, node.invoke, site.event)
        return first_input(value) if site.port == "input" else value

    def _check_shape_kept(self, write: Node, scan: Scan, rows: Rows, axes: Axes) -> None:
        """A write of another shape changes what comes after it: only a run knows how."""
        before = scan.values.get(write.site.lands)
        if before is None:
            raise Undescribed(f"{write.site} is written, and unknown")
        if write.site.port == "input":
            before = first_input(before)
        now = self._known[write.id] if write.id in self._known else self._value(write.id, scan, rows, axes)
        if not rows.covers_all(write.invoke) and write.invoke is not None:
            return  # rows of one prompt keep their shape, or the write is refused
        if [t.shape for t in tensors_in(now)] != [t.shape for t in tensors_in(before)]:
            raise Undescribed(f"{write.site} is replaced by a value of another shape")


def _apart(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor of the scan for lines that may change it: the next block has the same scan, and the same twin."""
    own = tensor.detach() if tensor.is_meta else tensor.detach().clone()
    return nn.Parameter(own, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else own
