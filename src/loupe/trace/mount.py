"""Make `list().save()`, `dict().save()` and `shape.save()` work for the length of a block, and only for that.

Builtin types refuse new attributes from Python; their dictionary is reached through the garbage collector, and the
type's method cache is told. That throws away what the interpreter has learned of all lists and dicts, so it happens
once, at the first block: what is put there answers while a block is open, and otherwise as if it were not there.
"""

from __future__ import annotations

import ctypes
import gc
import threading
from typing import Any

import torch

_lock = threading.Lock()
_count = 0
_TYPES = (list, dict, torch.Size)


class _Save:
    """The method, in the types that have it while a block is open."""

    def __get__(self, value: Any, kind: type) -> Any:
        if not _count:
            raise AttributeError(f"type object {kind.__name__!r} has no attribute 'save'")
        from loupe.trace.saving import save

        return save if value is None else lambda: save(value)


def mount() -> None:
    """Give list and dict a `save` method."""
    global _count  # noqa: PLW0603 (a count of open blocks, held under the lock)
    with _lock:
        _count += 1
        if "save" not in list.__dict__:
            for cls in _TYPES:
                gc.get_referents(cls.__dict__)[0]["save"] = _Save()
                ctypes.pythonapi.PyType_Modified(ctypes.py_object(cls))


def unmount() -> None:
    """Take `save` away again; the last block to end does it."""
    global _count  # noqa: PLW0603 (a count of open blocks, held under the lock)
    with _lock:
        _count -= 1
