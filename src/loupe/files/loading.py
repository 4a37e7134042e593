"""Load what a graph's `save` has written."""

from __future__ import annotations

import os
from typing import Any

from loupe.files.intervention import from_document
from loupe.files.storing import read_from


def load(path: str | os.PathLike[str], *, check_data: bool = True) -> Any:
    """The graph of a file, or the graphs of a session; nothing in the file is run.

    >>> graph = loupe.load("steer.loupe")
    >>> results = model.run(graph, "The Eiffel Tower is in")

    Large constants stay in the file until they are used. `check_data=False` does not compare them with their digests,
    which reads all of them once. Raises LoadError for a file that cannot be opened, and WireError for one that is no
    graph, is damaged, or names what no graph may name.
    """
    return from_document(read_from(path, check_data=check_data))
