"""Put a document into a file, and read it from there with its tensors left on the disk until they are used."""

from __future__ import annotations

import mmap
import os
import secrets
from pathlib import Path

from loupe.errors import LoadError
from loupe.wire.document import Document
from loupe.wire.file import read_file, write_file


def write_to(path: str | os.PathLike[str], document: Document) -> None:
    """Write a file as a whole, or not at all: what was there before stays until then. Raises LoadError."""
    path = Path(path)
    pieces = write_file(document)
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        try:
            with open(beside, "xb") as file:
                for piece in pieces:
                    file.write(piece)
            os.replace(beside, path)
        finally:
            beside.unlink(missing_ok=True)
    except OSError as error:
        raise LoadError(
            f"the graph cannot be written to {str(path)!r}: {error.strerror}",
            remedy="name a file in a folder that is there",
        ) from error


def read_from(path: str | os.PathLike[str], *, check_data: bool) -> Document:
    """The document of a file. Its tensors are windows on the file: changing them changes nothing in it.

    Raises LoadError for a file that cannot be opened, and WireError for one that is no graph.
    """
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) if size else b""
    except (OSError, ValueError) as error:
        fact = getattr(error, "strerror", None) or str(error)
        raise LoadError(
            f"no graph can be read from {os.fspath(path)!r}: {fact}", remedy="name a file that graph.save has written"
        ) from error
    return read_file(data, check_data=check_data)
