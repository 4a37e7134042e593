"""Remember which sites a block has replaced, to say so where the model cannot go on with what was written there."""

from __future__ import annotations

from typing import Any

from loupe.errors import WriteError
from loupe.graph.node import Node
from loupe.runtime.tensors import summary, tensors_in


class Replaced:
    """The writes of one pass, as text: no tensor is kept for an error that may never come."""

    def __init__(self) -> None:
        self._written: list[tuple[Node, str]] = []

    def note(self, node: Node, before: Any, after: Any) -> None:
        """A node has replaced what passed at its site."""
        if node.site.port == "skip":
            self._written.append((node, f" with {summary(after)}"))
            return
        old = [(tensor.shape, tensor.dtype) for tensor in tensors_in(before)]
        kept = old == [(tensor.shape, tensor.dtype) for tensor in tensors_in(after)]
        self._written.append((node, "" if kept else f" by {summary(after)} where it was {summary(before)}"))

    def error(self, error: Exception) -> WriteError:
        """The model failed after sites were replaced: name them, those with another shape or dtype first."""
        written = self._written
        reshaped = any(change for _, change in written)
        shown = []
        for node, change in sorted(written, key=lambda each: not each[1])[:3]:
            what = f"{node.site.module} was skipped" if node.site.port == "skip" else f"{node.site} was replaced"
            shown.append(what + change + (f" (at {node.line})" if node.line else ""))
        return WriteError(
            f"the model could not go on after {'; '.join(shown)}: {type(error).__name__}: {error}",
            remedy="write a value of the shape and dtype that is read there"
            if reshaped
            else "write values that the model can use there; without the write it fails as it always does",
            line=written[0][0].line if len(written) == 1 else None,
        )
