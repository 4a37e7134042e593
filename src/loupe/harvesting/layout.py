"""Decide which prompt goes into which shard and batch, and where in a shard's file each tensor lies."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod

from loupe.wire.constants import STORED
from loupe.wire.container import SIZES

IDS, PROMPTS, POSITIONS = "token_ids", "prompt_numbers", "positions"
OF_TOKENS = (IDS, PROMPTS, POSITIONS)  # what a shard has beside the modules, int32 [tokens]


@dataclass(frozen=True, slots=True)
class Stored:
    """What is kept of a module for each token: entries of this shape and dtype."""

    shape: tuple[int, ...]
    dtype: str

    @property
    def size(self) -> int:
        """The bytes of one token."""
        return prod(self.shape) * SIZES[STORED[self.dtype]] // 8


@dataclass(frozen=True, slots=True)
class ShardPlan:
    """The prompts of one shard by their numbers, longest first, and how many tokens are kept of them."""

    prompts: tuple[int, ...]
    tokens: int

    def batches(self, size: int) -> Iterator[tuple[int, ...]]:
        """The prompts that run together."""
        return (self.prompts[start : start + size] for start in range(0, len(self.prompts), size))


def cut(lengths: Sequence[int], bytes_of_token: int, shard_size: int, *, last: bool) -> list[ShardPlan]:
    """Prompts by length, the longest first, cut into shards of about so many bytes.

    So neighbours need little padding, and what takes the most memory comes first.

    >>> cut([3, 5, 4], bytes_of_token=10, shard_size=90, last=False)
    [ShardPlan(prompts=(1, 2), tokens=9), ShardPlan(prompts=(0,), tokens=3)]
    """
    shards: list[ShardPlan] = []
    prompts: list[int] = []
    tokens = 0
    for number in sorted(range(len(lengths)), key=lambda place: (-lengths[place], place)):
        kept = 1 if last else lengths[number]
        if prompts and (tokens + kept) * bytes_of_token > shard_size:
            shards.append(ShardPlan(tuple(prompts), tokens))
            prompts = list[int]()
            tokens = 0
        prompts.append(number)
        tokens += kept
    return [*shards, ShardPlan(tuple(prompts), tokens)]


@dataclass(frozen=True, slots=True)
class FileLayout:
    """The header of a shard's file, where each of its tensors begins, and how long the file is."""

    header: bytes
    starts: Mapping[str, int]
    size: int


def file_layout(modules: Mapping[str, Stored], tokens: int, note: str) -> FileLayout:
    """A safetensors file of known tensors; `note` stands in its metadata."""
    entries = {**dict.fromkeys(OF_TOKENS, Stored((), "int32")), **modules}
    ordered = sorted(entries.items(), key=lambda pair: (-SIZES[STORED[pair[1].dtype]], pair[0]))
    described: dict[str, object] = {"__metadata__": {"format": "pt", "loupe.harvest": note}}
    starts: dict[str, int] = {}
    end = 0
    for name, stored in ordered:
        start, end = end, end + stored.size * tokens
        starts[name] = start
        shape = [tokens, *stored.shape]
        described[name] = {"dtype": STORED[stored.dtype], "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(described, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    header = struct.pack("<Q", len(text)) + text
    return FileLayout(header, {name: len(header) + start for name, start in starts.items()}, len(header) + end)
