"""Leave an input of a graph open: a number or tensor that whoever runs the graph may say."""

from __future__ import annotations

import sys
from typing import Any

from loupe.errors import BlockError
from loupe.graph.graph import Open
from loupe.graph.node import Ref
from loupe.trace.handles import unwrap
from loupe.trace.proxy import Proxy, set_slot
from loupe.trace.recorder import Recorder
from loupe.trace.source import user_line
from loupe.trace.stacks import open_recorders

_REQUIRED = object()


class OpenParameter(Proxy):
    """Stands for a parameter in the graph of whatever block it is used in."""

    __slots__ = ("__weakref__", "name", "opened")
    leaves_open = True
    name: str
    opened: Open

    def __init__(self, name: str, opened: Open) -> None:
        set_slot(self, "name", name)
        set_slot(self, "opened", opened)

    _cell = None
    _block_site = None

    @property
    def _recorder(self) -> Recorder:  # pyrefly: ignore[bad-override]  (it is whichever is open)
        recorders = open_recorders()
        if not recorders:
            raise BlockError(
                f"the open parameter {self.name!r} is used where no block is open",
                remedy="compute with it inside `with model.trace(...):`",
                line=user_line(sys._getframe(1)),
            )
        return recorders[-1]

    @property
    def _ref(self) -> Ref:  # pyrefly: ignore[bad-override]
        return self._recorder.encode(self)

    @property
    def __class__(self) -> type:
        return type(self)

    def __repr__(self) -> str:
        return f"param({self.name!r})" if self.opened.required else f"param({self.name!r}, {self.opened.default!r})"


def param(name: str, default: Any = _REQUIRED) -> Any:
    """A parameter that graphs leave open; a block runs with its default.

    >>> strength = loupe.param("strength", 1.0)
    >>> with model.trace("The Eiffel Tower is in") as tracer:
    ...     model.transformer.h[5].output[0][:, -1] *= strength
    ...     logits = model.output.save("logits")
    >>> model.run(tracer.graph, "The Eiffel Tower is in", strength=2.0)["logits"]

    `default` is a number, a string, a tensor, or a list, tuple or dict of these. Without one, a run has to say it. A
    look at its value (`if strength > 1:`) bakes the default in. Raises BlockError for what is no name.
    """
    line = user_line(sys._getframe(1))
    if type(name) is not str or not name.isidentifier():
        raise BlockError(f"{name!r} cannot be a parameter's name", remedy="use letters and digits", line=line)
    return OpenParameter(name, Open(required=True) if default is _REQUIRED else Open(unwrap(default)))
