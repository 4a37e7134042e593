"""Say how large a file may be, so that reading one costs no more than its size."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """The most that a reader takes; what is larger is refused before anything is made of it.

    `header` and `text` are bytes and characters, `depth` is of nested containers, `nodes` is for all blocks together.
    """

    header: int = 256 << 20
    nodes: int = 1_000_000
    blocks: int = 100_000
    depth: int = 32
    text: int = 1 << 16
    items: int = 1 << 20
    dimensions: int = 64


DEFAULT = Limits()
