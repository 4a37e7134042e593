"""Keep a model's own parameters and buffers as they are, whatever the lines of a block do to memory."""

from __future__ import annotations

from collections.abc import Callable, Collection, Container, Generator, Iterable, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from loupe.errors import OperationError, WriteError
from loupe.graph.node import Node, is_within
from loupe.runtime.offloaded import kept_away
from loupe.runtime.plain import modules_of
from loupe.runtime.tensors import agree, map_tensors, memory_of, tensors_in, version_of

Arguments = tuple[list[Any], dict[str, Any]]
Aside = Sequence[tuple[dict[str, Any], str, Any]]


class Weights:
    """Knows the memory of the model's own parameters and buffers, and lets no line change it.

    That is decided when a line runs, by the memory that it is about: a weight comes to a block in many ways (as an
    operation's input, as a view, inside a list, from an earlier block). The model is looked through once in a pass, as
    soon as a line asks, or not even then: `remembered` gives what an earlier pass has found, where that is so still.

    Modules at the paths `attached` are the user's, and may be changed; `parts` gives all modules of the model. `aside`
    are the parameters in whose places an edit has put others: `(table, name, own)`.
    """

    def __init__(
        self,
        modules: Callable[[str], nn.Module],
        attached: Collection[str],
        aside: Aside,
        parts: Callable[[], Iterable[nn.Module]],
        remembered: Callable[[], set[int | None] | None],
    ) -> None:
        self._modules = modules
        self._remembered = remembered
        self._parts = parts
        self._attached = attached
        self._aside = aside
        self._known: set[int | None] | None = None
        self._moves = False
        self._copies: dict[int, tuple[torch.Tensor, str]] = {}

    def forget(self) -> None:
        """Let go of all tensors."""
        self._copies.clear()

    # -- what is a weight ----------------------------------------------------------------------------------------------

    def is_in(self, value: Any) -> bool:
        """Whether a tensor in the value lives in the memory of a weight."""
        return any(self._is_own(tensor) for tensor in tensors_in(value))

    def _is_own(self, tensor: torch.Tensor) -> bool:
        memory = memory_of(tensor)
        return memory in self._memory() or memory in self._copies

    def _memory(self) -> set[int | None]:
        if self._known is None or self._moves:  # offloaded weights are brought anew for each call
            with torch._C.DisableTorchFunction():  # a watch of operations may be on
                found = None if self._attached or self._aside else self._remembered()
                if found is None:
                    found = {memory_of(tensor) for tensor in self._tensors()} - {None}
            self._known = found
        return self._known

    def _own_modules(self) -> Iterable[nn.Module]:
        root = self._modules("")
        if not self._attached:
            return self._parts()
        named = root.named_modules(remove_duplicate=False)
        return {id(module): module for path, module in named if not is_within(path, self._attached)}.values()

    def _tensors(self) -> list[torch.Tensor]:
        found: list[torch.Tensor | None] = [own for _, _, own in self._aside]
        for module in self._own_modules():
            for table in (module._parameters, module._buffers):
                if table and self._aside:
                    anew = {name for own, name, _ in self._aside if own is table}
                    found += [tensor for name, tensor in table.items() if name not in anew]
                elif table:
                    found += table.values()
            if "_hf_hook" in module.__dict__:
                self._moves = True
                found += [tensor for _, tensor in kept_away(module)]
        return [tensor for tensor in found if tensor is not None]

    def _name(self, tensor: torch.Tensor) -> str:
        """The path of the weight in whose memory a tensor lives."""
        memory = memory_of(tensor)
        if memory in self._copies:
            return self._copies[memory][1]
        root = self._modules("")
        named = [*root.named_parameters(remove_duplicate=False), *root.named_buffers(remove_duplicate=False)]
        named += [(name, own) for _, name, own in self._aside]
        named += [kept for module in self._own_modules() for kept in kept_away(module)]
        own = (path for path, each in named if memory_of(each) == memory and self.is_own_path(path))
        return next(own, "weight")

    def is_own_path(self, path: str) -> bool:
        """Whether a path is one of the model's own, and not of an attached module."""
        return not is_within(path, self._attached)

    # -- what a line may do --------------------------------------------------------------------------------------------

    def refuse(self, node: Node, changed: Iterable[Any]) -> None:
        """Raise WriteError where one of these, which a line is about to change in place, is a weight.

        A list or dict that has a weight in it may be changed, unless it is a module.
        """
        for value in changed:
            if isinstance(value, torch.Tensor) and self._is_own(value):
                raise is_changed(self._name(value), node)
            if isinstance(value, nn.Module):
                raise is_changed(type(value).__name__, node)

    def spare(self, node: Node, arguments: Arguments, run: Callable[[Arguments], Any]) -> Any:
        """Run a function that may do anything: it gets copies of the weights among its arguments.

        Raises WriteError where it has changed one of them. A copy that it gives back still stands for the weight.
        """
        if not self.is_in(arguments):
            return run(arguments)
        own: list[torch.Tensor] = []
        arguments, copies = self._copied(arguments, own)
        forms = [(version_of(copy), copy.shape, copy.stride()) for copy in copies]
        result = run(arguments)
        for tensor, copy, form in zip(own, copies, forms, strict=True):
            if (version_of(copy), copy.shape, copy.stride()) != form or not agree(copy, tensor):
                raise is_changed(self._name(tensor), node)
        given = {memory_of(tensor) for tensor in tensors_in(result)}
        self._stand_in([pair for pair in zip(own, copies, strict=True) if memory_of(pair[1]) in given])
        return result

    def apart(self, value: Any, there: Container[int]) -> Any:
        """A value that the model is to go on with: with copies of weights, which the model may change in place.

        Tensors with an id in `there` are what the model goes on with by itself.
        """
        if not self.is_in(value):
            return value
        own: list[torch.Tensor] = []
        value, copies = self._copied(value, own, there)
        self._stand_in(list(zip(own, copies, strict=True)))
        return value

    def track(self, node: Node, value: Any, *, tracked: bool = True) -> None:
        """Raise where a line that asks for the gradient of a value, or for none, would change a weight by it."""
        if not isinstance(value, torch.Tensor) or not self._is_own(value):
            return
        name = self._name(value)
        if not tracked:
            raise WriteError(
                f"the model's own {name} is to require no gradient, which would outlast the block",
                remedy="use what has no history: .detach(); or freeze the weight before the block",
                line=node.line,
            )
        if value.requires_grad or not torch.is_grad_enabled():
            return
        whole = value if value._base is None else value._base
        if any(whole is own for own in self._tensors()):
            raise OperationError(
                f"a gradient is asked for of {name}, or of a view of it, which requires none in this block",
                remedy=f"ask for the gradient of model.{name} itself, unfrozen, or of a copy: .clone()",
                line=node.line,
            )
        value.requires_grad_(True)  # a detached one has the memory, and no part in the weight's history

    def _copied(
        self, value: Any, own: list[torch.Tensor], there: Container[int] = ()
    ) -> tuple[Any, list[torch.Tensor]]:
        copies: dict[int, torch.Tensor] = {}

        def copied(tensor: torch.Tensor) -> torch.Tensor:
            if id(tensor) not in copies and id(tensor) not in there and self._is_own(tensor):
                own.append(tensor)
                copies[id(tensor)] = tensor.clone()
            return copies.get(id(tensor), tensor)

        return map_tensors(value, copied), list(copies.values())

    def _stand_in(self, pairs: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
        for own, copy in pairs:
            memory = memory_of(copy)
            if memory is not None:
                self._copies[memory] = copy, self._name(own)


@contextmanager
def as_before(module: nn.Module) -> Generator[None]:
    """Let a block call a module, and leave no trace of it: statistics of one that trains, rows scaled to a norm."""
    kept: list[tuple[torch.Tensor, torch.Tensor]] = []
    for each in modules_of(module):
        changing = list(each._buffers.values()) if each.training else []
        if getattr(each, "max_norm", None) is not None:
            changing += each._parameters.values()
        kept += [(tensor, tensor.detach().clone()) for tensor in changing if tensor is not None]
    try:
        yield
    finally:
        for tensor, before in kept:
            tensor.data.copy_(before)  # a backward pass is not to take it for a change


def is_changed(name: str, node: Node) -> WriteError:
    """What a line is told that would change a weight."""
    return WriteError(
        f"the model's own {name} is changed in place, which would outlast the block",
        remedy=f"change a copy of it: {name.rpartition('.')[2]}.clone(); or change the model for good in model.edit()",
        line=node.line,
    )
