"""Keep the sessions that are open, thread by thread."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from loupe.trace.session import Session

_open = threading.local()


def open_sessions() -> list[Session]:
    """The sessions that are open in this thread, the innermost last."""
    stack: list[Session] | None = getattr(_open, "stack", None)
    if stack is None:
        stack = []
        _open.stack = stack
    return stack
