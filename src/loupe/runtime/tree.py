"""Keep the list of a model's modules from run to run, and notice in a few microseconds where it is another by now."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from itertools import chain, repeat
from typing import Any

import torch
from torch import nn

from loupe.runtime.plain import OWN_WAYS, is_special, modules_of, unusual_among
from loupe.runtime.tensors import memory_of

_data_ptr = torch._C.TensorBase.data_ptr


class Tree:
    """The modules of a model.

    What is known holds as long as each module has the submodules, and the class, that it had: all are compared at each
    question, by identity, in a few passes at the speed of C. A module keeps the tables that it was made with.
    """

    def __init__(self) -> None:
        self._modules: list[nn.Module] = []
        self._own: list[dict[str, Any]] = []
        self._holders: list[dict[str, nn.Module | None]] = []  # tables of submodules that have some
        self._childless: list[dict[str, nn.Module | None]] = []  # those that have none
        self._parts: list[nn.Module | None] = []
        self._classes: list[type] = []
        self._special: list[nn.Module] = []
        self._attributes: list[Any] = []
        self._lists: list[tuple[list[Any], list[Any]]] = []
        self._filled: list[dict[str, Any]] = []  # tables of parameters and buffers that have some
        self._empty: list[dict[str, Any]] = []  # those that have none
        self._pointers: list[int] = []
        self._memory: set[int | None] = set()

    def modules(self, root: nn.Module) -> Collection[nn.Module]:
        """Every module from `root` down, in no order."""
        if not self._is_current(root):
            self._modules = list(modules_of(root))
            self._own = [module.__dict__ for module in self._modules]
            self._holders, self._childless = _divided([own["_modules"] for own in self._own])
            self._parts = list(chain.from_iterable(map(dict.values, self._holders)))
            self._classes = list(map(type, self._modules))
            self._special = list(filter(is_special, self._modules))
            self._divide_tables()
        return self._modules

    def _divide_tables(self) -> None:
        self._filled, self._empty = _divided([own[name] for own in self._own for name in ("_parameters", "_buffers")])

    def unusual(self, root: nn.Module) -> Collection[nn.Module]:
        """The modules that may be compiled or gradient-checkpointed, or that have a forward of their own."""
        self.modules(root)
        compiled, forward, checkpointing = OWN_WAYS
        if not (
            any(map(dict.get, self._own, repeat(compiled)))
            or any(map(dict.get, self._own, repeat(forward)))
            or any(map(dict.get, self._own, repeat(checkpointing)))
        ):
            return self._special
        return unusual_among(self._modules)

    def is_at_rest(self, root: nn.Module) -> bool:
        """Whether every attribute of every module is the object that it was when this was asked last."""
        self.modules(root)
        now = list(chain.from_iterable(map(dict.values, self._own)))
        try:
            if now == self._attributes and all(each == before for each, before in self._lists):
                return True
        except Exception:  # an attribute of the user's that cannot be compared is another one
            pass
        self._attributes = now
        self._lists = [(each, list(each)) for each in now if type(each) is list]
        return False

    def memory(self) -> set[int | None] | None:
        """The memory of all parameters and buffers, as `memory_of` names it; None where it is not theirs for long.

        It is about the modules that `modules` has given last.
        """
        if any(map(dict.__contains__, self._own, repeat("_hf_hook"))):  # offloaded weights are brought for each call
            return None
        if any(self._empty):
            self._divide_tables()
        tensors: list[Any] = [each for each in chain.from_iterable(map(dict.values, self._filled)) if each is not None]
        try:
            pointers = list(map(_data_ptr, tensors))
        except RuntimeError:
            return None
        if pointers != self._pointers or 0 in pointers:
            self._memory = {memory_of(each) for each in tensors} - {None}
            self._pointers = pointers
        return self._memory

    def _is_current(self, root: nn.Module) -> bool:
        return (
            bool(self._modules)
            and self._modules[0] is root
            and not any(self._childless)
            and list(chain.from_iterable(map(dict.values, self._holders))) == self._parts
            and list(map(type, self._modules)) == self._classes
        )


def _divided(tables: Iterable[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The tables that have entries, and those that have none."""
    found: tuple[list[dict[str, Any]], list[dict[str, Any]]] = ([], [])
    for table in tables:
        found[not table].append(table)
    return found
