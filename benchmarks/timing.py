"""Time ways of doing one thing side by side: A B C A B C in one process, with the garbage collector standing still."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

Call = Callable[[], Any]
Sample = tuple[float, float]  # microseconds of CPU time and of wall time


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
    """What one call costs by hand and another way, in CPU microseconds, and the ratios of samples of one round."""

    hooks: Spread
    other: Spread
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


def sample(call: Call, calls: int, wait: Callable[[], None]) -> Sample:
    """Microseconds of CPU time and of wall time for one call, as the mean of a few in a row; `wait` for the device."""
    wait()
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(calls):
        call()
    wait()
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    return cpu * 1e6 / calls, wall * 1e6 / calls


def compare(
    hooks: Call, *others: Call, rounds: int, calls: int, wait: Callable[[], None] = nothing_to_wait_for
) -> list[Comparison]:
    """Time all in turn and hold each of the others against the hooks: a machine that slows down slows a whole round."""
    ways = (hooks, *others)
    for each in ways:
        sample(each, 3 * calls, wait)
    with no_garbage_collection():
        found = [[sample(each, calls, wait) for each in ways] for _ in range(rounds)]
    by_hand, *rest = zip(*found, strict=True)
    return [_beside(by_hand, samples) for samples in rest]


def _beside(hooks: Sequence[Sample], other: Sequence[Sample]) -> Comparison:
    pairs = list(zip(hooks, other, strict=True))
    return Comparison(
        hooks=Spread.of([one[0] for one, _ in pairs]),
        other=Spread.of([another[0] for _, another in pairs]),
        cpu_ratio=Spread.of([another[0] / one[0] for one, another in pairs]),
        wall_ratio=Spread.of([another[1] / one[1] for one, another in pairs]),
    )
