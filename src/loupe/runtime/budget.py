"""Find out how many rows a batch may have: by what a run without data takes, by what is free, and by what failed."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Any

import psutil  # pyrefly: ignore[untyped-import]
import torch

from loupe.graph.graph import Graph
from loupe.runtime.estimate import measured, size_of
from loupe.runtime.host import Host, Input
from loupe.runtime.meta import Scanner
from loupe.runtime.scanning import MetaHost
from loupe.runtime.tensors import tensors_in

MOST = 512  # more rows make no pass faster
_SHARE = 0.5  # of the memory that is free
_WITHIN = 4  # what a module makes on the way to its output is no more than so many times what passes at modules


def surely_fit(host: Host, passing: Iterable[Any], rows: int) -> bool:
    """Whether so many rows fit even if nothing that passes at the modules of one is freed before the end."""
    known = {id(tensor): size_of(tensor) for value in passing for tensor in tensors_in(value)}
    return rows <= MOST and rows * sum(known.values()) * _WITHIN <= _free(host) * _SHARE


def rows_that_fit(host: Host, scanner: Scanner, graph: Graph, given: Input, form: object) -> int:
    """How many rows of a form may run together in a run like that of a graph; the scanner keeps what a row takes."""
    gradients = bool(graph.backwards)
    key = (form, gradients)
    if key not in scanner.bytes_of_rows:
        scanner.bytes_of_rows[key] = _bytes_of_a_row(host, scanner, graph, given, gradients=gradients)
    return max(1, min(MOST, int(_free(host) * _SHARE) // scanner.bytes_of_rows[key]))


def note_failure(scanner: Scanner, graph: Graph, form: object) -> None:
    """A batch that was to fit did not: a row takes more than was thought."""
    key = (form, bool(graph.backwards))
    scanner.bytes_of_rows[key] = 2 * scanner.bytes_of_rows.get(key, 1)


def _bytes_of_a_row(host: Host, scanner: Scanner, graph: Graph, given: Input, *, gradients: bool) -> int:
    """What one row more takes at once, by runs without data of one input and of two."""
    meta = MetaHost(host, scanner)
    peaks: list[int] = []
    rows: list[int] = []
    for times in (1, 2):
        batch = meta.merge([given] * times)
        settings: AbstractContextManager[None] = meta.settings(graph, meta.module)
        with scanner.lock, torch.set_grad_enabled(gradients), settings, measured() as memory:
            kept = meta.call(batch)  # a value that is saved keeps all of its batch
            del kept
        peaks.append(memory.peak)
        rows.append(batch.total)
    return max(1, (peaks[1] - peaks[0]) // (rows[1] - rows[0]))


def _free(host: Host) -> int:
    device = next((p.device for p in host.module.parameters() if not p.is_meta), torch.device("cpu"))
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return psutil.virtual_memory().available


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a run has failed because its batch was too large."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or (
        isinstance(error, RuntimeError) and "allocate memory" in str(error)
    )
