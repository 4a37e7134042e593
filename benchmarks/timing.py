"""Time two ways of doing one thing side by side: A B A B in one process, with the garbage collector standing still."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

Call = Callable[[], Any]


@dataclass(frozen=True, slots=True)
class Spread:
    """A median between its quartiles."""

    low: float
    median: float
    high: float

    @classmethod
    def of(cls, samples: Sequence[float]) -> Spread:
        """The quartiles of at least two samples."""
        return cls(*statistics.quantiles(samples, n=4, method="inclusive"))

    def text(self, digits: int = 2) -> str:
        """`1.20 (1.18-1.23)`."""
        return f"{self.median:.{digits}f} ({self.low:.{digits}f}-{self.high:.{digits}f})"


@dataclass(frozen=True, slots=True)
class Comparison:
    """What one call costs by hand and with loupe, in CPU microseconds, and the ratios of neighbouring samples."""

    hooks: Spread
    loupe: Spread
    cpu_ratio: Spread
    wall_ratio: Spread


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    """Collect once, then keep the collector out of what is timed."""
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.unfreeze()


def nothing_to_wait_for() -> None:
    """What the CPU has been told to do is done."""


def sample(call: Call, calls: int, wait: Callable[[], None]) -> tuple[float, float]:
    """Microseconds of CPU time and of wall time for one call, as the mean of a few in a row; `wait` for the device."""
    wait()
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(calls):
        call()
    wait()
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    return cpu * 1e6 / calls, wall * 1e6 / calls


def compare(
    hooks: Call, loupe: Call, *, rounds: int, calls: int, wait: Callable[[], None] = nothing_to_wait_for
) -> Comparison:
    """Time both in turn: a ratio is that of two neighbouring samples, so that a machine which slows down slows both."""
    for each in (hooks, loupe):
        sample(each, 3 * calls, wait)
    pairs = []
    with no_garbage_collection():
        for _ in range(rounds):
            pairs.append((sample(hooks, calls, wait), sample(loupe, calls, wait)))
    return Comparison(
        hooks=Spread.of([one[0] for one, _ in pairs]),
        loupe=Spread.of([other[0] for _, other in pairs]),
        cpu_ratio=Spread.of([other[0] / one[0] for one, other in pairs]),
        wall_ratio=Spread.of([other[1] / one[1] for one, other in pairs]),
    )
