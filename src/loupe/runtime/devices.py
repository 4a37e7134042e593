"""Bring tensors of the user's to the device of the values, modules and sites that they meet."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from loupe.graph.node import Const, Node
from loupe.runtime.offloaded import devices_of
from loupe.runtime.plan import Plan
from loupe.runtime.tensors import map_tensors, tensors_in

_ABOUT_DEVICES = frozenset(("Tensor.to", "Tensor.type_as"))  # here the device of a constant is what is meant


class Devices:
    """The constants of a graph, on the devices on which a run needs them.

    A constant that the block changes in place is the user's own tensor: it stays where it is.
    """

    def __init__(self) -> None:
        self._moved: dict[tuple[int, torch.device], torch.Tensor] = {}

    def bring(
        self, plan: Plan, node: Node, args: list[Any], kwargs: dict[str, Any], device: torch.device | None
    ) -> None:
        """Replace constants among the arguments of a node by the same on a device; `args`, `kwargs` are its own."""
        if device is None or node.target in _ABOUT_DEVICES:
            return
        for place, given in enumerate(node.args):
            args[place] = self.brought(plan, given, args[place], device)
        for name, given in node.kwargs.items():
            kwargs[name] = self.brought(plan, given, kwargs[name], device)

    def brought(self, plan: Plan, given: Any, value: Any, device: torch.device, *, nested: bool = False) -> Any:
        """The value of an argument, with its constants on a device; a lone number is welcome on every device."""
        kind = type(given)
        if kind is tuple or kind is list:
            return kind([self.brought(plan, *pair, device, nested=True) for pair in zip(given, value, strict=True)])
        if kind is dict:
            return {key: self.brought(plan, item, value[key], device, nested=True) for key, item in given.items()}
        if kind is not Const or not isinstance(value, torch.Tensor) or value.device == device:
            return value
        if given.index in plan.written or not (value.dim() or nested):
            return value
        key = (given.index, device)
        if key not in self._moved:
            self._moved[key] = value.to(device)
        return self._moved[key]


def device_of(values: Iterable[Any]) -> torch.device | None:
    """Where the first tensor in these values is; lone numbers count where there is nothing else."""
    number: torch.Tensor | None = None
    for value in values:
        for tensor in tensors_in(value):
            if tensor.dim():
                return tensor.device
            number = tensor if number is None else number
    return None if number is None else number.device


def device_of_module(module: nn.Module) -> torch.device | None:
    """Where a module's first parameter is while it runs."""
    return next(devices_of(module), None)


def beside(before: Any, new: Any) -> Any:
    """What is written, on a device on which there is a part of what it replaces."""
    there = [tensor.device for tensor in tensors_in(before)]
    if not there or all(tensor.device in there for tensor in tensors_in(new)):
        return new
    return map_tensors(new, lambda tensor: tensor if tensor.device in there else tensor.to(there[0]))
