"""Let the model run with other parameters than its own for the length of a pass, and put its own back."""

from __future__ import annotations

from typing import Any

import torch

from loupe.errors import OrderError, WriteError
from loupe.graph.node import Node
from loupe.runtime.lookup import Modules, place_of
from loupe.runtime.offloaded import parameter_at
from loupe.runtime.tensors import summary
from loupe.runtime.weights import Weights


class Exchange:
    """The parameters that a pass has set, each in the place of the model's own.

    `aside` has what is not in its place just now, as `(table, name, value)`; `memory`, which looks at it, copies
    weights that are set.
    """

    def __init__(self, modules: Modules, memory: Weights, aside: list[tuple[dict[str, Any], str, Any]]) -> None:
        self._modules = modules
        self._memory = memory
        self._aside = aside
        self._is_closed = False

    def close(self) -> None:
        """The model is called now: a parameter that is set from here on comes too late."""
        self._is_closed = True

    def set(self, node: Node, value: Any) -> None:
        """Let the model run with another parameter; raises WriteError where that cannot take its place."""
        own, name = place_of(self._modules, node.target)
        before = own[name]
        if self._is_closed:
            raise OrderError(
                f"{node.target} is set to a value that the model computes only while it runs",
                remedy="set a parameter to a value made from parameters and tensors of your own",
                line=node.line,
            )
        if not isinstance(value, torch.Tensor) or not isinstance(before, torch.Tensor) or value.shape != before.shape:
            raise WriteError(
                f"{node.target} is set to {summary(value)}, where it is {summary(before)}",
                remedy="set it to a tensor of its own shape",
                line=node.line,
            )
        if parameter_at(self._modules, node.target) is not before:
            raise WriteError(
                f"{node.target} is offloaded: its data is brought anew for each call, and what is set here is lost",
                remedy="load the model with a device_map that keeps this module on a device",
                line=node.line,
            )
        new: Any = self._memory.apart(value.to(device=before.device, dtype=before.dtype), ())
        self._aside.append((own, name, before))
        own[name] = new

    def put(self) -> None:
        """Put what the pass has set in the place of the model's own."""
        for place in range(len(self._aside)):
            self._swap(place)

    def put_back(self) -> None:
        """Put the model's own parameters back."""
        for place in reversed(range(len(self._aside))):
            self._swap(place)

    def _swap(self, place: int) -> None:
        parameters, name, value = self._aside[place]
        self._aside[place] = (parameters, name, parameters[name])
        parameters[name] = value

    def forget(self) -> None:
        """Let go of all tensors."""
        self._aside.clear()
