"""Look up what the paths in a graph name: modules, parameters and buffers, and nothing else that a module has."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from loupe.errors import UnknownModuleError, nearest
from loupe.graph.graph import Graph
from loupe.graph.node import RESULT, Node

Modules = Callable[[str], nn.Module]


def module_named(modules: Modules, path: str) -> nn.Module:
    """The module at a path; raises UnknownModuleError with the near names."""
    try:
        return modules(path)
    except KeyError:
        pass
    parts, known = path.split("."), 0
    holder = modules("")
    for place in range(1, len(parts)):
        try:
            holder, known = modules(".".join(parts[:place])), place
        except KeyError:
            break
    raise UnknownModuleError(
        f"no module {parts[known]!r} under {'.'.join(parts[:known]) or 'the model'}",
        remedy=nearest(parts[known], list(holder._modules)),
    )


def strictly(modules: Modules) -> Modules:
    """The same lookup of modules, which raises UnknownModuleError."""
    return lambda path: module_named(modules, path)


def place_of(modules: Modules, path: str) -> tuple[dict[str, Any], str]:
    """The table in which a module keeps the parameter or buffer at a path, and its name there.

    Raises UnknownModuleError where the path names anything else, or nothing.
    """
    owner, _, name = path.rpartition(".")
    module = module_named(modules, owner)
    for table in (module._parameters, module._buffers):
        if name in table:
            return table, name
    known = [*module._parameters, *module._buffers]
    raise UnknownModuleError(f"no parameter or buffer {name!r} in {owner or 'the model'}", remedy=nearest(name, known))


def tensor_named(modules: Modules, path: str) -> torch.Tensor:
    """The parameter or buffer at a path; raises UnknownModuleError where there is none."""
    table, name = place_of(modules, path)
    value = table[name]
    if value is None:
        raise UnknownModuleError(f"{path} is None in this model", remedy="leave out the lines about it")
    return value


def with_line(error: UnknownModuleError, graph: Graph, modules: Modules) -> UnknownModuleError:
    """What is not found in a run, told with the line of the first node that names it."""
    if error.line is not None:
        return error
    found = next((node for node in graph if _is_unknown(node, modules, error)), None)
    return error if found is None else UnknownModuleError(error.fact, remedy=error.remedy, line=found.line)


def _is_unknown(node: Node, modules: Modules, error: UnknownModuleError) -> bool:
    try:
        if node.kind in ("parameter", "set_parameter"):
            tensor_named(modules, node.target)
        elif node.kind == "call":
            module_named(modules, node.target)
        elif node.kind in ("read", "write") and node.gradient_of is None and node.site.path != RESULT:
            module_named(modules, node.site.path)
    except UnknownModuleError as other:
        return other.fact == error.fact
    return False
