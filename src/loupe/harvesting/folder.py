"""Keep the index of a harvest's folder: what was asked for, and which shards are complete."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loupe.errors import InputError, LoadError
from loupe.harvesting.asked import Request
from loupe.wire.canonical import write_json

INDEX = "index.json"
VERSION = 1
UNFINISHED = ".part"  # ends the names of files that are being written


@dataclass(slots=True)
class ShardEntry:
    """What the index says of a shard: its file, how many tokens it has, how many bytes, and whether it is complete."""

    file: str
    tokens: int
    size: int
    complete: bool = False


class Folder:
    """The folder of one harvest, with its index."""

    def __init__(self, path: Path, request: Request, shards: list[ShardEntry]) -> None:
        self.path = path
        self.request = request
        self.shards = shards

    def write(self) -> None:
        """Write the index as a whole."""
        shards = [
            {"bytes": each.size, "complete": each.complete, "file": each.file, "tokens": each.tokens}
            for each in self.shards
        ]
        text = write_json({"harvest": VERSION, "request": self.request.to_json(), "shards": shards})
        beside = self.path / f".{INDEX}.{secrets.token_hex(4)}{UNFINISHED}"
        with writing(self.path):
            try:
                with open(beside, "x", encoding="utf-8") as file:
                    file.write(text)
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(beside, self.path / INDEX)
            finally:
                beside.unlink(missing_ok=True)

    def clear(self) -> None:
        """Remove what a run that was killed has left half written."""
        with writing(self.path):
            for left in self.path.glob(f".*{UNFINISHED}"):
                left.unlink(missing_ok=True)

    def is_there(self, shard: ShardEntry) -> bool:
        """Whether a shard is complete, and its file as it was written."""
        try:
            return shard.complete and (self.path / shard.file).stat().st_size == shard.size
        except OSError:
            return False


@contextmanager
def writing(path: Path) -> Generator[None]:
    """Say what could not be written, and that what is complete stays."""
    try:
        yield
    except OSError as error:
        raise LoadError(
            f"the harvest cannot be written to {str(path)!r}: {error.strerror or error}",
            remedy="make room, or name a folder that can be written to; shards that are complete stay, and the same "
            "call goes on behind them",
        ) from error


def read_folder(path: Path) -> Folder:
    """The folder of a harvest, as its index tells; raises LoadError where there is none."""
    remedy = "name a folder that loupe.harvest has written"
    try:
        value: Any = json.loads((path / INDEX).read_text(encoding="utf-8"))
    except OSError as error:
        raise LoadError(f"no harvest can be read from {str(path)!r}: {error.strerror}", remedy=remedy) from error
    except ValueError as error:
        raise LoadError(f"{str(path / INDEX)!r} is not JSON: {error}", remedy=remedy) from error
    try:
        version = value["harvest"]
        if version == VERSION:
            shards = [ShardEntry(e["file"], e["tokens"], e["bytes"], e["complete"]) for e in value["shards"]]
            if any(Path(each.file).name != each.file for each in shards):
                raise ValueError("a shard lies in another folder")
            return Folder(path, Request.from_json(value["request"]), shards)
    except (KeyError, TypeError, ValueError) as error:
        raise LoadError(f"{str(path / INDEX)!r} is no index of a harvest: {error!r}", remedy=remedy) from error
    raise LoadError(
        f"the harvest in {str(path)!r} is of version {version!r}, and this loupe reads {VERSION}",
        remedy="read it with the loupe that has written it",
    )


def open_folder(path: Path, request: Request, shards: Sequence[ShardEntry], *, resume: bool) -> Folder:
    """A new folder, or the one in which the same was begun before.

    Raises InputError where another harvest is in it, or files that would be overwritten.
    """
    if (path / INDEX).exists():
        there = read_folder(path)
        other = request.differences(there.request)
        if other:
            raise InputError(
                f"{str(path)!r} holds another harvest, which differs in {'; '.join(other)}",
                remedy="name another folder, or ask for the same again to go on with it",
            )
        if not resume:
            raise InputError(
                f"{str(path)!r} holds this harvest already",
                remedy="name another folder, or pass resume=True to go on where it ended",
            )
        there.clear()
        for each in there.shards:
            each.complete = there.is_there(each)
        return there
    if any((path / each.file).exists() for each in shards):
        raise InputError(
            f"{str(path)!r} has shards of a harvest, and no {INDEX}", remedy="name another folder, or remove them"
        )
    folder = Folder(path, request, list(shards))
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)
    folder.write()
    return folder
