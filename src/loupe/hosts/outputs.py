"""Say how the outputs of a model and of its blocks are to be seen: as logits, as hidden states."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from functools import cache
from typing import Any, get_args

from torch import nn

from loupe.runtime.plain import named_parts, submodule


class Outputs:
    """Knows which outputs of a model are seen in another form."""

    def __init__(self, module: Callable[[], nn.Module]) -> None:
        self._module = module
        self._block_names: frozenset[str] | None = None

    def view(self, path: str, port: str) -> str | None:
        """The model's output as logits where it has them, a block's output by its hidden states."""
        if port != "output":
            return None
        if not path:
            return "logits" if _returns_logits(self._module()) else None
        return "hidden_states" if self._is_block(path) else None

    def blocks(self) -> list[str]:
        """The paths of the blocks through which all passes, in order; none where there are several stacks."""
        found = [path for path, _ in named_parts(self._module()) if path and self._is_block(path)]
        stacks = {path.rpartition(".")[0] for path in found}
        return found if len(stacks) == 1 else []

    def _is_block(self, path: str) -> bool:
        whole = self._module()
        parent, _, _name = path.rpartition(".")
        if not isinstance(submodule(whole, parent), nn.ModuleList):
            return False
        module = submodule(whole, path)
        if self._block_names is None:
            named = (getattr(base, "_no_split_modules", None) or () for base in whole.modules())
            self._block_names = frozenset(name for names in named for name in names)
        bases = {base.__name__ for base in type(module).__mro__}
        return type(module).__name__ in self._block_names or "GradientCheckpointingLayer" in bases


def _returns_logits(module: nn.Module) -> bool:
    """By the class that `forward` says it returns; a model that does not say has logits if it has a head for them."""
    stated = _stated_fields(type(module))
    if stated is not None:
        return "logits" in stated
    get = getattr(module, "get_output_embeddings", None)
    return get is not None and get() is not None


@cache
def _stated_fields(kind: type[nn.Module]) -> frozenset[str] | None:
    forward = inspect.unwrap(kind.forward)
    stated: Any = getattr(forward, "__annotations__", {}).get("return")
    if isinstance(stated, str):  # of a file that keeps its annotations as text
        names = getattr(forward, "__globals__", {})
        kinds = tuple(names.get(name.strip()) for name in stated.split("|"))
    else:
        kinds = (stated, *get_args(stated))
    outputs = [each for each in kinds if isinstance(each, type) and dataclasses.is_dataclass(each)]
    return frozenset(field.name for each in outputs for field in dataclasses.fields(each)) if outputs else None
