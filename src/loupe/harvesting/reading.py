"""Read what a harvest has written: tensors on the disk, shard by shard, with the tokens they belong to."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from loupe.errors import InputError, LoadError, UnknownModuleError, nearest
from loupe.harvesting.asked import Request
from loupe.harvesting.folder import Folder, ShardEntry, read_folder
from loupe.harvesting.layout import IDS, POSITIONS, PROMPTS


class Shard(Mapping[str, torch.Tensor]):
    """One file of a harvest: a tensor `[tokens, …]` for each module, which stays on the disk until it is used.

    The tokens of a prompt are neighbours, in order. `token_ids`, `prompt_numbers` and `positions` (int32 `[tokens]`)
    say which token an entry belongs to.
    """

    def __init__(self, path: Path, entry: ShardEntry, modules: Sequence[str]) -> None:
        self.path = path / entry.file
        self.tokens = entry.tokens
        self._modules = modules
        try:
            self._file: Any = safe_open(str(self.path), framework="pt")
        except (OSError, SafetensorError) as error:
            raise LoadError(
                f"the shard {str(self.path)!r} cannot be read: {error}",
                remedy="harvest into its folder again: shards that are not there are done anew",
            ) from error

    @property
    def token_ids(self) -> torch.Tensor:
        """The id of each token."""
        return self._file.get_tensor(IDS)

    @property
    def prompt_numbers(self) -> torch.Tensor:
        """The place of its prompt among the prompts that were given."""
        return self._file.get_tensor(PROMPTS)

    @property
    def positions(self) -> torch.Tensor:
        """Its place in its prompt, from 0."""
        return self._file.get_tensor(POSITIONS)

    def __getitem__(self, path: str) -> torch.Tensor:
        if path not in self._modules:
            raise UnknownModuleError(
                f"the harvest holds nothing of {path!r}", remedy=nearest(path, list(self._modules))
            )
        return self._file.get_tensor(path)

    def __iter__(self) -> Iterator[str]:
        return iter(self._modules)

    def __len__(self) -> int:
        return len(self._modules)

    def __repr__(self) -> str:
        return f"<shard {self.path.name}: {self.tokens} tokens of {len(self)} modules>"


class Harvested(Sequence[Shard]):
    """What a harvest has written: its shards that are complete, in order.

    >>> found = loupe.harvested("states")
    >>> for shard in found:
    ...     states, ids = shard["transformer.h.5"], shard.token_ids        # [tokens, hidden], [tokens]
    """

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._entries = [each for each in folder.shards if folder.is_there(each)]

    @property
    def request(self) -> Request:
        """What was asked for: model, modules, dtypes, and a digest of the data."""
        return self._folder.request

    @property
    def modules(self) -> list[str]:
        """The paths of the modules."""
        return list(self.request.modules)

    @property
    def complete(self) -> bool:
        """Whether every shard is there; if not, the same call of `harvest` goes on."""
        return len(self._entries) == len(self._folder.shards)

    @property
    def tokens(self) -> int:
        """How many tokens are there, in all shards."""
        return sum(each.tokens for each in self._entries)

    def read(self, path: str) -> torch.Tensor:
        """All that there is of a module, `[tokens, …]`, in memory: the shards one after the other."""
        return torch.cat([shard[path] for shard in self]) if self._entries else self._empty(path)

    def _empty(self, path: str) -> torch.Tensor:
        raise InputError(f"no shard is complete yet, so there is nothing of {path!r}", remedy="harvest again")

    def __getitem__(self, place: Any) -> Any:
        if isinstance(place, slice):
            return [self._shard(each) for each in self._entries[place]]
        return self._shard(self._entries[place])

    def _shard(self, entry: ShardEntry) -> Shard:
        return Shard(self._folder.path, entry, self.modules)

    def __len__(self) -> int:
        return len(self._entries)

    def __repr__(self) -> str:
        state = "" if self.complete else f" of {len(self._folder.shards)}, not complete yet"
        return f"<harvest of {len(self.modules)} modules: {self.tokens} tokens in {len(self)} shards{state}>"


def harvested(folder: str | os.PathLike[str]) -> Harvested:
    """What a harvest has written to a folder; it may still be going on.

    >>> found = loupe.harvested("states")
    >>> found.modules, found.tokens, found.complete
    (['transformer.h.0', 'transformer.h.1'], 5, True)
    >>> found[0]["transformer.h.1"].shape
    torch.Size([5, 96])

    Tensors of a shard stay on the disk until they are used. Raises LoadError for a folder without a harvest.
    """
    return Harvested(read_folder(Path(folder)))
