"""Make `list().save()`, `dict().save()` and `shape.save()` work for the length of a block, and only for that.

Builtin types refuse new attributes from Python; their dictionary is reached through the garbage collector, and the
type's method cache is told.
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


def _save(self: Any) -> Any:
    """Keep this, or the values in it, past the open block."""
    from loupe.trace.saving import save

    return save(self)


def mount() -> None:
    """Give list and dict a `save` method; the first open block does it."""
    global _count  # noqa: PLW0603 (a count of open blocks, held under the lock)
    with _lock:
        _count += 1
        if _count == 1:
            _set(_save)


def unmount() -> None:
    """Take `save` away again; the last block to end does it."""
    global _count  # noqa: PLW0603 (a count of open blocks, held under the lock)
    with _lock:
        _count -= 1
        if _count == 0:
            _set(None)


def _set(method: Any) -> None:
    for cls in _TYPES:
        namespace = gc.get_referents(cls.__dict__)[0]
        if method is None:
            namespace.pop("save", None)
        else:
            namespace["save"] = method
        ctypes.pythonapi.PyType_Modified(ctypes.py_object(cls))
