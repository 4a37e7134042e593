"""Take torch out of a graph, so that it can be written down, and put it back in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from loupe.errors import Line, LoupeError, PortableError, nearest
from loupe.files.tensors import named, object_of, to_constant, to_tensor
from loupe.graph.generation import GENERATION_OPTIONS
from loupe.graph.graph import Graph
from loupe.graph.node import Const, Named, Node, map_argument
from loupe.graph.portable import why_not_portable, why_wrong
from loupe.wire.arguments import DTYPES
from loupe.wire.constants import Constant


def without_torch(graph: Graph) -> Graph:
    """A copy of a graph whose constants are `Constant`s, those that it takes, in the order in which it does.

    Raises PortableError, with the user's line, for what cannot leave the process.
    """
    return _Leaving(graph).result()


class _Leaving:
    """Copies a graph; keeps the table of constants that the copy has."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._copy = Graph()
        self._places: dict[int, Const] = {}
        self._line: Line | None = None

    def result(self) -> Graph:
        """The copy."""
        graph, copy = self._graph, self._copy
        copy.nodes = [self._node(node) for node in graph]
        self._line = None
        copy.parameters = {
            name: opened if opened.required else replace(opened, default=self._argument(opened.default))
            for name, opened in graph.parameters.items()
        }
        if graph.generation is not None:
            copy.generation = {name: self._option(name, value) for name, value in graph.generation.items()}
        copy.root, copy.invokes, copy.edited = graph.root, graph.invokes, graph.edited
        copy.origin, copy.looks = graph.origin, graph.looks
        return copy

    def _node(self, node: Node) -> Node:
        self._line = node.line
        if node.kind == "apply":
            wrong = why_not_portable(node)
            if wrong is not None:
                raise PortableError(wrong[0], remedy=wrong[1], line=node.line)
        left = replace(
            node,
            args=tuple([self._argument(arg) for arg in node.args]),
            kwargs={key: self._argument(value) for key, value in node.kwargs.items()},
        )
        wrong = why_wrong(left) if node.kind == "apply" else None
        if wrong is not None:
            raise PortableError(wrong[0], remedy=wrong[1], line=node.line)
        return left

    def _option(self, name: str, value: Any) -> Any:
        if name not in GENERATION_OPTIONS:
            raise PortableError(
                f"the option {name!r} of a generation cannot be stored or sent",
                remedy=f"options that can are data, and load nothing; {nearest(name, sorted(GENERATION_OPTIONS))}",
            )
        return self._argument(value)

    def _argument(self, value: Any) -> Any:
        return map_argument(value, self._leaf)

    def _leaf(self, leaf: Any) -> Any:
        if type(leaf) is not Const:
            return self._named(leaf)
        known = self._places.get(leaf.index)
        if known is not None:
            return known
        graph = self._graph
        value = graph.originals[leaf.index] if leaf.index in graph.originals else graph.constants[leaf.index]
        plain = _plain(value)
        if not isinstance(plain, torch.Tensor):
            if plain is value:
                raise self._refused(value)
            return plain
        try:
            constant = to_constant(plain)
        except LoupeError as error:
            raise PortableError(error.fact, remedy=error.remedy, line=self._line) from None
        found = self._places[leaf.index] = Const(len(self._copy.constants))
        self._copy.constants.append(constant)
        return found

    def _named(self, leaf: Any) -> Any:
        found = named(leaf)
        if found is not None and found.kind == "dtype" and found.name not in DTYPES:
            raise PortableError(f"the dtype {leaf} cannot be stored or sent", remedy="use another", line=self._line)
        return leaf if found is None else found

    def _refused(self, value: Any) -> PortableError:
        remedy = "pass numbers, strings, tensors, and lists, tuples, dicts and slices of these"
        if isinstance(value, nn.Module):
            remedy = "call it on values of the block (its operations are recorded), and do not pass it on"
        elif isinstance(value, torch.Generator):
            remedy = "leave the generator out, and call torch.manual_seed before the block"
        return PortableError(
            f"an object of type {type(value).__name__} cannot be stored or sent", remedy=remedy, line=self._line
        )


def _plain(value: Any) -> Any:
    """Numbers and arrays of numpy, ranges and the like as what they are to torch."""
    if isinstance(value, np.ndarray) and value.dtype != object:
        return torch.as_tensor(value)
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, range):
        return list(value)
    for kind in (bool, int, float, str):  # members of enumerations, and other kinds of number
        if isinstance(value, kind):
            return kind(value)
    return value


def with_torch(graph: Graph, into: Callable[[], Graph] = Graph) -> Graph:
    """A copy of a graph that was read, with torch's objects; each constant is a tensor of its own."""

    def leaf(value: Any) -> Any:
        return object_of(value) if type(value) is Named else value

    copy = into()
    taken: set[int] = set()
    for constant in graph.constants:
        assert isinstance(constant, Constant)
        copy.constants.append(to_tensor(constant, copied=id(constant.tensor) in taken))
        taken.add(id(constant.tensor))
    copy.nodes = [
        replace(
            node,
            args=tuple([map_argument(arg, leaf) for arg in node.args]),
            kwargs={key: map_argument(value, leaf) for key, value in node.kwargs.items()},
        )
        for node in graph
    ]
    copy.parameters = {
        name: replace(opened, default=map_argument(opened.default, leaf)) for name, opened in graph.parameters.items()
    }
    if graph.generation is not None:
        copy.generation = {name: map_argument(value, leaf) for name, value in graph.generation.items()}
    copy.root, copy.invokes, copy.edited = graph.root, graph.invokes, graph.edited
    copy.origin, copy.looks = graph.origin, list(graph.looks)
    return copy
