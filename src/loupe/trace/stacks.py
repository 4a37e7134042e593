"""Keep the blocks and the sessions that are open, thread by thread."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from loupe.trace.recorder import Recorder
    from loupe.trace.session import Session


class _Open(threading.local):
    """What is open in one thread."""

    def __init__(self) -> None:
        self.recorders: list[Recorder] = []
        self.sessions: list[Session] = []


_open = _Open()


def open_recorders() -> list[Recorder]:
    """The recorders of the blocks that are open in this thread, the innermost last."""
    return _open.recorders


def open_sessions() -> list[Session]:
    """The sessions that are open in this thread, the innermost last."""
    return _open.sessions
