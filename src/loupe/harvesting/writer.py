"""Write shards in a thread of its own, each row where it belongs in the file, while the model runs on."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from pathlib import Path
from queue import Queue
from typing import Any, Self

import torch

from loupe.harvesting.folder import UNFINISHED, Folder, writing
from loupe.harvesting.layout import FileLayout

_AHEAD = 2  # batches that wait to be written, at most


class Writer:
    """Takes the tensors of one batch after the other, and puts a shard under its name once all of it is on disk.

    Use it with `with`: at the end everything is written, or after an error what was begun is gone.
    """

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._queue: Queue[Any] = Queue(_AHEAD)
        self._error: BaseException | None = None
        self._file: _ShardFile | None = None
        self._thread = threading.Thread(target=self._work, name="loupe-harvest", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: object, *rest: object) -> None:
        if kind is not None:
            self._error = self._error or InterruptedError()
        self._queue.put(None)
        self._thread.join()
        if self._file is not None:
            self._file.discard()
        if kind is None:
            self._check()

    def begin(self, shard: int, layout: FileLayout) -> None:
        """What follows belongs to this shard."""
        self._put((shard, layout))

    def add(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Rows of every tensor of the shard, behind those that it has."""
        self._put(tensors)

    def _put(self, job: Any) -> None:
        self._check()
        self._queue.put(job)

    def _check(self) -> None:
        if self._error is not None:
            with writing(self._folder.path):
                raise self._error

    def _work(self) -> None:
        while (job := self._queue.get()) is not None:
            if self._error is not None:
                continue  # so that nobody waits for room
            try:
                if isinstance(job, tuple):
                    shard, layout = job
                    self._file = _ShardFile(self._folder.path / self._folder.shards[shard].file, layout, shard)
                else:
                    assert self._file is not None
                    self._file.add(job)
                if self._file.complete:
                    self._file.finish()
                    self._folder.shards[self._file.shard].complete = True
                    self._file = None
                    self._folder.write()
            except BaseException as error:  # raised in the thread that harvests
                self._error = error


class _ShardFile:
    """The file of a shard, under another name until it is complete."""

    def __init__(self, path: Path, layout: FileLayout, shard: int) -> None:
        self.shard = shard
        self._path = path
        self._beside = path.with_name(f".{path.name}{UNFINISHED}")
        self._places = dict(layout.starts)
        self._left = layout.size - len(layout.header)
        self._file = open(self._beside, "wb", buffering=0)  # noqa: SIM115 (it stays open from batch to batch)
        self._write(layout.header, 0)

    @property
    def complete(self) -> bool:
        """Whether every byte is written."""
        return not self._left

    def add(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Write rows of each tensor behind those that are there."""
        for name, tensor in tensors.items():
            entries: Any = tensor.cpu().contiguous().view(-1).view(torch.uint8).numpy()
            data = memoryview(entries)
            self._write(data, self._places[name])
            self._places[name] += data.nbytes
            self._left -= data.nbytes

    def _write(self, data: bytes | memoryview, place: int) -> None:
        left = memoryview(data)
        self._file.seek(place)
        while left:
            left = left[self._file.write(left) :]

    def finish(self) -> None:
        """Make sure of the data, and give the file its name."""
        os.fsync(self._file.fileno())
        self._file.close()
        os.replace(self._beside, self._path)

    def discard(self) -> None:
        """Remove what is half written."""
        self._file.close()
        self._beside.unlink(missing_ok=True)
