"""Keep the blocks and the sessions that are open, thread by thread."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from loupe.trace.recorder import Recorder
    from loupe.trace.session import Session

_open = threading.local()


def open_recorders() -> list[Recorder]:
    """The recorders of the blocks that are open in this thread, the innermost last."""
    stack: list[Recorder] | None = getattr(_open, "recorders", None)
    if stack is None:
        stack = []
        _open.recorders = stack
    return stack


def open_sessions() -> list[Session]:
    """The sessions that are open in this thread, the innermost last."""
    stack: list[Session] | None = getattr(_open, "sessions", None)
    if stack is None:
        stack = []
        _open.sessions = stack
    return stack
