"""Wrap any torch module."""

from __future__ import annotations

from typing import Any

from torch import nn

from loupe.envoy.model import Root
from loupe.envoy.names import Rename
from loupe.errors import LoadError
from loupe.hosts.module import Collate, ModuleHost
from loupe.runtime.host import lock_of
from loupe.runtime.plain import uncompiled


class Model(Root):
    """Any `torch.nn.Module`, with its inside open to blocks.

    >>> model = loupe.Model(torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU()))
    >>> with model.trace(torch.randn(5, 4)):
    ...     hidden = model[0].output.save()
    >>> hidden.shape
    torch.Size([5, 8])

    Several invokes are joined along dimension 0 of their tensors; `collate(inputs)` does it for anything else: it takes
    a list of `(args, kwargs)` and returns the joined args, the joined kwargs, and a list with the number of rows of
    each input. `rename={"0": "first"}` gives modules further names: both work. A module that is compiled runs
    uncompiled in blocks. Raises LoadError for what is no module.
    """

    def __init__(self, module: nn.Module, *, collate: Collate | None = None, rename: Rename | None = None) -> None:
        given: Any = module
        if not isinstance(given, nn.Module):
            raise LoadError(f"{type(given).__name__} is no torch module", remedy="pass a torch.nn.Module")
        whole = uncompiled(module)
        super().__init__(ModuleHost(lambda: whole, lock_of(whole), collate=collate), rename)

    def __repr__(self) -> str:
        return f"Model({super().__repr__()})"


NNsight = Model
