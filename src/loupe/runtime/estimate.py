"""Estimate the memory of a run by a run without data: what it would have at once, at most."""

from __future__ import annotations

import weakref
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from loupe.runtime.tensors import tensors_in


@dataclass(frozen=True, slots=True)
class Estimate:
    """Bytes: of the model's weights, of the graph's constants, of what is saved, and of what passes at once at most.

    `passing` has what the model and the block compute, and what is saved of it.
    """

    weights: int
    constants: int
    saved: int
    passing: int

    @property
    def total(self) -> int:
        """All of it at once."""
        return self.weights + self.constants + self.passing

    def __str__(self) -> str:
        parts = ("weights", "constants", "saved", "passing")
        return ", ".join(f"{name} {_readable(getattr(self, name))}" for name in parts)


class Memory(TorchDispatchMode):
    """Counts the bytes of the tensors that operations make, for as long as each is there."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = 0
        self._now = 0
        self._known: dict[int, weakref.finalize[Any, Any]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        given = {tensor.untyped_storage()._cdata for tensor in tensors_in((args, kwargs))}
        for tensor in tensors_in(result):
            storage = tensor.untyped_storage()
            key = storage._cdata
            if key not in self._known and key not in given:
                self._now += storage.nbytes()
                self.peak = max(self.peak, self._now)
                self._known[key] = weakref.finalize(storage, self._gone, key, storage.nbytes())
        return result

    def _gone(self, key: int, size: int) -> None:
        self._known.pop(key, None)
        self._now -= size


@contextmanager
def measured() -> Generator[Memory]:
    """Count for a while."""
    memory = Memory()
    with memory:
        yield memory


def size_of(tensor: torch.Tensor) -> int:
    """The bytes of a tensor's entries."""
    return tensor.numel() * tensor.element_size()


def _readable(size: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024 or unit == "GiB":
            break
        size /= 1024
    return f"{size:.0f} {unit}" if size >= 10 or unit == "B" else f"{size:.1f} {unit}"
