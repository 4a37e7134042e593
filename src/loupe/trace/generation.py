"""Stand for a call of `model.generate`: a block when it is entered, its token ids when it is used."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Any

from loupe.graph.node import Ref
from loupe.trace.proxy import Cell, Proxy, set_slot
from loupe.trace.tracer import Tracer


class Generation(Proxy):
    """`with model.generate(...) as tracer:` opens a block; `ids = model.generate(...)` is the plain call.

    The plain call runs when its ids `[batch, seq]` are first used.
    """

    __slots__ = ("__weakref__", "_block_site", "_cell", "_plain", "_recorder", "_ref", "_tracer")

    def __init__(self, tracer: Tracer, plain: Callable[[], Any]) -> None:
        for name, value in (
            ("_recorder", tracer._recorder),
            ("_ref", Ref(-1)),
            ("_cell", Cell()),
            ("_block_site", None),
        ):
            set_slot(self, name, value)
        set_slot(self, "_tracer", tracer)
        set_slot(self, "_plain", plain)

    @property
    def value(self) -> Any:
        """The token ids; the first look at them runs the plain call."""
        cell = self._cell
        assert cell is not None
        if not cell.filled:
            cell.value, cell.filled = self._plain(), True
        return cell.value

    @property
    def __class__(self) -> type:
        return type(self.value)

    def __repr__(self) -> str:
        return repr(self.value)

    def __enter__(self) -> Tracer:
        return self._tracer.__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._tracer.__exit__(kind, error, traceback)
