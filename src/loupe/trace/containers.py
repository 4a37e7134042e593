"""Find the values of a block in plain containers, and put the real ones in their place afterwards."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from itertools import groupby
from types import ModuleType
from typing import Any

import torch
from torch import nn

from loupe.graph.node import Steps
from loupe.trace.handles import isinstance_proxy
from loupe.trace.proxy import Proxy


def find_proxies(
    value: Any, belongs: Callable[[Proxy], bool], found: list[Proxy], seen: set[int] | None = None
) -> None:
    """Append the proxies inside nested lists, tuples, sets and dicts that belong to a block, or blocks, to `found`."""
    seen = set() if seen is None else seen
    if isinstance_proxy(value):
        if belongs(value):
            found.append(value)
        return
    if id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, (list, tuple, set, frozenset, deque)):
        for item in value:
            find_proxies(item, belongs, found, seen)
    elif isinstance(value, dict):
        for item in value.values():
            find_proxies(item, belongs, found, seen)
    elif _has_fields(value):
        for item in vars(value).values():
            find_proxies(item, belongs, found, seen)


def _has_fields(value: Any) -> bool:
    """Whether a value is an object of the user's whose attributes may be values of the block."""
    return hasattr(value, "__dict__") and not isinstance(value, (type, ModuleType, nn.Module, torch.Tensor))


def replace_proxies(value: Any, belongs: Callable[[Proxy], bool], seen: set[int] | None = None) -> Any:
    """Replace the proxies that belong to a block, or blocks, by their values, in place in lists and dicts.

    Tuples are rebuilt.

    In a list a step-wise value becomes one entry for each step that happened, and a value of a step that never happened
    is left out.
    """
    if isinstance_proxy(value):
        cell = value._cell
        return cell.value if cell is not None and cell.filled and belongs(value) else value
    seen = set() if seen is None else seen
    if id(value) in seen:
        return value
    seen.add(id(value))
    if isinstance(value, list):
        value[:] = _replaced_items(value, belongs, seen)
    elif type(value) is tuple:
        return tuple(replace_proxies(item, belongs, seen) for item in value)
    elif isinstance(value, dict):
        for key, item in list(value.items()):
            value[key] = replace_proxies(item, belongs, seen)
    return value


def _replaced_items(items: list[Any], belongs: Callable[[Proxy], bool], seen: set[int]) -> list[Any]:
    replaced: list[Any] = []
    for steps, group in groupby(items, key=lambda item: _steps_of(item, belongs)):
        members = list(group)
        if steps is not None:
            happened = sorted({step for item in members for step in item._cell.steps})
            replaced += [item._cell.steps[step] for step in happened for item in members if step in item._cell.steps]
            continue
        for item in members:
            missed = isinstance_proxy(item) and belongs(item) and item._cell is not None and not item._cell.filled
            if not missed:
                replaced.append(replace_proxies(item, belongs, seen))
    return replaced


def _steps_of(item: Any, belongs: Callable[[Proxy], bool]) -> Steps | None:
    if isinstance_proxy(item) and item._cell is not None and belongs(item):
        return item._recorder.graph[item._ref.node].steps
    return None
