"""Host any module: its arguments are the user's, and several inputs are joined along dimension 0."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from loupe.errors import InputError
from loupe.graph.graph import Graph
from loupe.graph.node import Event, Site
from loupe.hosts.attention import Attention
from loupe.runtime.host import Batch, Host, Input

Collate = Callable[[list[tuple[tuple[Any, ...], dict[str, Any]]]], tuple[tuple[Any, ...], dict[str, Any], list[int]]]


class ModuleHost:
    """Calls a module with the arguments of the block.

    `collate`, where given, joins the inputs of several invokes: it takes a list of `(args, kwargs)` and returns the
    joined args, the joined kwargs, and the number of rows of each input. `whole` hosts the model that the module, at
    the path `prefix`, is a part of.
    """

    def __init__(
        self,
        module: Callable[[], nn.Module],
        lock: threading.RLock,
        prefix: str = "",
        collate: Collate | None = None,
        whole: Host | None = None,
    ) -> None:
        self._module = module
        self._ways: Host | Attention = Attention(module) if whole is None else whole
        self._prefix = prefix
        self._collate = collate
        self.lock = lock

    @property
    def module(self) -> nn.Module:
        """The module that a run calls."""
        return self._module()

    @property
    def prefix(self) -> str:
        """Its path in the model whose paths sites use."""
        return self._prefix

    def load(self) -> None:
        """Modules come with their weights."""

    def merge(self, inputs: Sequence[Input], generation: dict[str, Any] | None = None) -> Batch:
        """One call for several inputs: tensors joined along dimension 0, everything else the same in all."""
        if generation is not None:
            raise InputError("a plain module cannot generate", remedy="use trace(...), or wrap it in LanguageModel")
        if len(inputs) == 1:
            size = rows_of(inputs[0])
            return Batch(inputs[0].args, inputs[0].kwargs, ((0, size),), size)
        if self._collate is not None:
            args, kwargs, sizes = self._collate([(each.args, each.kwargs) for each in inputs])
            if len(sizes) != len(inputs):
                raise InputError(
                    f"collate gave the rows of {len(sizes)} inputs, where there are {len(inputs)}",
                    remedy="return the number of rows of each input, in order, as the third value",
                    line=inputs[-1].line,
                )
        else:
            args, kwargs, sizes = join(inputs)
        starts = [sum(sizes[:place]) for place in range(len(sizes))]
        return Batch(args, kwargs, tuple(zip(starts, sizes, strict=True)), sum(sizes))

    def call(self, batch: Batch) -> Any:
        """The forward pass."""
        return self.module(*batch.args, **batch.kwargs)

    def steps(self, batch: Batch) -> int:
        """A forward pass is one step."""
        return 1

    def settings(self, graph: Graph, module: nn.Module) -> AbstractContextManager[None]:
        """A plain module is run as it is, one of the transformers library as its attention patterns ask for."""
        return self._ways.settings(graph, module)

    def settings_key(self, graph: Graph) -> str:
        """Names what a run of a graph has set."""
        return self._ways.settings_key(graph)

    def stand_in(self, site: Site) -> Site | None:
        """A plain module's sites are where they are named, but for dropout in attention of the transformers library."""
        return self._ways.stand_in(site)

    def reorders(self, event: Event) -> bool:
        """A plain module's rows stay in order, as far as one can know, but in experts of the transformers library."""
        return self._ways.reorders(event)

    def blocks(self) -> list[str]:
        """The items of a sequence, or of the one list of modules that the module has; none in a part of a model."""
        module = self.module
        if self._prefix:
            return []
        if isinstance(module, nn.Sequential):
            return list(module._modules)
        lists = [path for path, part in module.named_modules() if isinstance(part, (nn.ModuleList, nn.Sequential))]
        outer = [path for path in lists if not any(path.startswith(f"{other}.") for other in lists)]
        return [f"{outer[0]}.{name}" for name in module.get_submodule(outer[0])._modules] if len(outer) == 1 else []

    def view(self, path: str, port: str) -> str | None:
        """A plain module's values are seen as they are."""
        return None


def rows_of(value: Input) -> int:
    """The number of rows of an input: the length of its first tensor."""
    if value.args and isinstance(value.args[0], torch.Tensor) and value.args[0].dim() > 0:
        return value.args[0].shape[0]
    for leaf in tree_flatten((value.args, value.kwargs))[0]:
        if isinstance(leaf, torch.Tensor) and leaf.dim() > 0:
            return leaf.shape[0]
    return 1


def join(inputs: Sequence[Input]) -> tuple[tuple[Any, ...], dict[str, Any], list[int]]:
    """Join inputs along dimension 0 of their tensors; a tensor or object that is the same in all is passed once.

    Raises InputError where they do not fit together.
    """
    flat = [_flatten(each) for each in inputs]
    for (leaves, spec), each in zip(flat, inputs, strict=True):
        if spec != flat[0][1] or len(leaves) != len(flat[0][0]):
            raise InputError(
                "the invokes of a block have different arguments",
                remedy="give each the same positional and keyword arguments, or pass collate= to Model",
                line=each.line,
            )
    sizes = [rows_of(each) for each in inputs]
    joined = []
    for leaves in zip(*(leaves for leaves, _ in flat), strict=True):
        first = leaves[0]
        if all(leaf is first for leaf in leaves) and not _has_rows(first, sizes[0]):
            joined.append(first)
        elif all(_has_rows(leaf, size) for leaf, size in zip(leaves, sizes, strict=True)):
            if len({tuple(leaf.shape[1:]) for leaf in leaves}) > 1:
                shapes = ", ".join(str(list(leaf.shape)) for leaf in leaves)
                raise InputError(
                    f"tensors of shapes {shapes} cannot be joined along dimension 0",
                    remedy="bring them to one shape, or pass collate= to Model",
                    line=inputs[-1].line,
                )
            joined.append(torch.cat(leaves, dim=0))
        elif all(type(leaf) is type(first) and _equal(leaf, first) for leaf in leaves):
            joined.append(first)
        else:
            raise InputError(
                f"the invokes give different values for one argument ({first!r:.60} and others), "
                "which cannot be joined",
                remedy="give the same value in each invoke, or pass collate= to Model",
                line=inputs[-1].line,
            )
    form = flat[0][1]
    if form is None:
        return tuple(joined), {}, sizes
    args, kwargs = tree_unflatten(joined, form)
    return args, kwargs, sizes


def _flatten(value: Input) -> tuple[Sequence[Any], TreeSpec | None]:
    """The leaves of an input, and its form; tensors by position, which most inputs are, have none."""
    if not value.kwargs and all(isinstance(arg, torch.Tensor) for arg in value.args):
        return value.args, None
    return tree_flatten((value.args, value.kwargs))


def _has_rows(leaf: Any, size: int) -> bool:
    return isinstance(leaf, torch.Tensor) and leaf.dim() > 0 and leaf.shape[0] == size


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return one.shape == other.shape and torch.equal(one, other)
    return bool(one == other)
