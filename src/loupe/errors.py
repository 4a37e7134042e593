"""Name every mistake once: what was wrong, on which line of the user's, and what to write instead.

LoupeError
├── BlockError             a block is used in a way that it does not allow
├── InputError             the prompt or the arguments of a run are not usable
├── UnknownModuleError     no module, parameter or operation has this name (also an AttributeError and a LookupError)
├── UnsavedError           a value is read after its block, and was not saved
├── OperationError         an operation of the block failed while it ran
├── OrderError             a write needs a value that the model computes only later
├── NotReachedError        a module or an operation that the block names did not run
├── RowsError              a value has no rows that could be split among invokes
├── WriteError             the model could not go on with what was written
├── GraphError             a graph is not well formed
│   └── WireError          a file or message is no graph, or not one that this version reads
├── PortableError          something in a graph can be used in this process only
├── FitError               a graph is about another model than the one that is to run it
└── LoadError              a model cannot be loaded
"""

from __future__ import annotations

import linecache
from typing import NamedTuple


class Line(NamedTuple):
    """A line of the user's program: where a node of a graph was written; `source` is its text where a file tells it."""

    filename: str
    number: int
    source: str | None = None

    @property
    def text(self) -> str:
        """The source text of the line, or '' where there is no source (as under `exec`)."""
        return linecache.getline(self.filename, self.number).strip() if self.source is None else self.source

    def __str__(self) -> str:
        where = f"{self.filename}:{self.number}"
        return f"{where}: {self.text}" if self.text else where


class LoupeError(Exception):
    """Base of every error that loupe raises: the fact, the user's line, the way out.

    >>> raise LoupeError("the prompt is empty", remedy="pass at least one token")
    """

    def __init__(self, fact: str, *, remedy: str, line: Line | None = None) -> None:
        self.fact = fact
        self.remedy = remedy
        self.line = line
        super().__init__(fact)

    def __str__(self) -> str:
        where = f"\n  at {self.line.filename}:{self.line.number}" if self.line else ""
        source = f"\n    {self.line.text}" if self.line and self.line.text else ""
        return f"{self.fact}{where}{source}\n  {self.remedy}"

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), self.fact, self.remedy, self.line))


def _rebuild(cls: type[LoupeError], fact: str, remedy: str, line: Line | None) -> LoupeError:
    return cls(fact, remedy=remedy, line=line)


class BlockError(LoupeError):
    """A block is used in a way that it does not allow."""


class InputError(LoupeError):
    """The prompt or the arguments of a run are not usable."""


class UnknownModuleError(LoupeError, AttributeError, LookupError):
    """No module, parameter or operation has this name."""


class UnsavedError(LoupeError):
    """A value is read after its block, and was not saved."""


class OperationError(LoupeError):
    """An operation of the block failed while it ran; the cause is chained."""


class OrderError(LoupeError):
    """A write needs a value that the model computes only later."""


class NotReachedError(LoupeError):
    """A module or an operation that the block names did not run."""


class RowsError(LoupeError):
    """A value has no rows that could be split among invokes."""


class WriteError(LoupeError):
    """The model could not go on with what was written."""


class GraphError(LoupeError):
    """A graph is not well formed."""


class WireError(GraphError):
    """A file or message is no graph, or not one that this version of loupe reads."""


class PortableError(LoupeError):
    """Something in a graph can be used in this process only: it cannot be stored or sent."""


class FitError(LoupeError):
    """A graph is about another model than the one that is to run it."""


class LoadError(LoupeError):
    """A model cannot be loaded."""


class LoupeWarning(UserWarning):
    """Something that loupe did, or that the block does, is likely not what was meant."""


class OriginWarning(LoupeWarning):
    """A graph runs on a model that is not the one for which it was written."""


class OverwrittenWarning(LoupeWarning):
    """A saved tensor is overwritten in place by a later line."""


def nearest(name: str, known: list[str]) -> str:
    """A sentence with the near names: `did you mean 'l2'?`, or what there is."""
    import difflib

    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    if close:
        return "did you mean " + " or ".join(repr(c) for c in close) + "?"
    if not known:
        return "it has none"
    shown = ", ".join(known[:12]) + (", …" if len(known) > 12 else "")
    return f"there are: {shown}"
