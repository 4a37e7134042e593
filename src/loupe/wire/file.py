"""Turn a document into the bytes of a file, and the bytes back into a document."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from loupe.errors import PortableError, WireError
from loupe.wire.container import read_container, write_container
from loupe.wire.document import Document, read_document, write_document
from loupe.wire.limits import DEFAULT, Limits


def write_file(document: Document) -> Iterator[bytes | memoryview]:
    """The bytes of a file, piece by piece; tensors are given as they lie in memory.

    Raises PortableError for a document that no reader would take, so that no file is written in vain.
    """
    text, tensors = write_document(document)
    try:
        read_document(text, tensors, DEFAULT)
    except WireError as error:
        raise PortableError(f"the graph cannot be stored: {error.fact}", remedy=error.remedy) from None
    return write_container(text, tensors)


def read_file(data: Any, limits: Limits = DEFAULT, *, check_data: bool = True) -> Document:
    """The document of a file's bytes (anything that has a buffer); tensors are windows on them.

    >>> read_file(Path("steer.loupe").read_bytes()).blocks[0]

    Raises WireError for bytes that are no such file, and nothing else. `check_data` says that the tensors' data are to
    be compared with their names, which reads all of them once.
    """
    text, tensors = read_container(memoryview(data).cast("B"), limits, check_data=check_data)
    return read_document(text, tensors, limits)
