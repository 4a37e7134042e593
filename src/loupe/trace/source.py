"""Find the user's line behind a recorded operation: the innermost frame outside loupe and installed libraries."""

from __future__ import annotations

import os
import sysconfig
from types import FrameType

import torch

from loupe.errors import Line

_OWN = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
_LIBRARIES = (
    os.path.dirname(os.path.dirname(os.path.abspath(torch.__file__))) + os.sep,
    sysconfig.get_paths()["stdlib"] + os.sep,
)
_is_library: dict[str, bool] = {}


def user_line(frame: FrameType | None) -> Line:
    """The line of the innermost frame that is the user's own, seen from `frame` outwards."""
    first: Line | None = None
    while frame is not None:
        name = frame.f_code.co_filename
        library = _is_library.get(name)
        if library is None:
            library = _is_library[name] = name.startswith(_OWN) or name.startswith(_LIBRARIES)
        if not library:
            return Line(name, frame.f_lineno)
        if first is None and not name.startswith(_OWN):
            first = Line(name, frame.f_lineno)
        frame = frame.f_back
    return first or Line("<unknown>", 0)
