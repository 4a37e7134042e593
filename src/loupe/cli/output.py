"""Print to the terminal: text that may come from a stranger's file, errors, and warnings."""

from __future__ import annotations

import os
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.text import Text

from loupe.errors import LoadError, LoupeWarning

LABEL = 12  # characters of a label, with the gap behind it


def printable(text: str) -> str:
    """Text with what could steer a terminal written out.

    >>> printable("a\\x1b[2Jb")
    'a\\\\x1b[2Jb'
    """
    if text.isprintable():
        return text
    return "".join(
        each if each == "\n" or each.isprintable() else each.encode("unicode_escape").decode() for each in text
    )


def print_text(text: str = "", style: str = "") -> None:
    """Print lines as they are: none is wrapped, nothing in them is markup."""
    Console().print(Text(printable(text), style), soft_wrap=True, highlight=False)


def print_row(label: str, text: str) -> None:
    """Print a label, and what it is about beside it."""
    row = Text.assemble((f"{printable(label):<{LABEL - 1}} ", "bold"), printable(text))
    Console().print(row, soft_wrap=True, highlight=False)


def print_error(text: str) -> None:
    """Print the text of an error, in red."""
    Console(stderr=True).print(Text(printable(text), "red"), soft_wrap=True, highlight=False)


@contextmanager
def warnings_told() -> Generator[None]:
    """Print warnings of loupe as sentences, for as long as this is open; others come as Python prints them."""
    with warnings.catch_warnings():
        others = warnings.showwarning

        def tell(message: Any, category: type[Warning], *where: Any, **more: Any) -> None:
            if issubclass(category, LoupeWarning):
                Console(stderr=True).print(
                    Text(printable(f"warning: {message}"), "yellow"), soft_wrap=True, highlight=False
                )
            else:
                others(message, category, *where, **more)

        warnings.showwarning = tell
        warnings.simplefilter("always", LoupeWarning)
        yield


@contextmanager
def writing(path: str | os.PathLike[str]) -> Generator[None]:
    """Say which file could not be written, where one could not."""
    try:
        yield
    except OSError as error:
        raise LoadError(
            f"{os.fspath(path)!r} cannot be written: {error.strerror or error}",
            remedy="name a file in a folder that is there",
        ) from error
