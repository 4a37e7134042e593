"""Print where the time of a block goes: `python benchmarks/phases.py [--quick] [--markdown FILE]`."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from statistics import median
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a script finds its neighbours under their package's name

from benchmarks.linear_stack import LinearStack
from benchmarks.page import Page, Row, machine
from benchmarks.suite import TITLES, Suite
from benchmarks.timing import no_garbage_collection
from benchmarks.tiny_gpt2 import TinyGPT2
from loupe.envoy.envoy import Envoy
from loupe.hosts.module import ModuleHost
from loupe.hosts.transformers import TransformersHost
from loupe.runtime.forward import Pass
from loupe.runtime.local import LocalRun
from loupe.runtime.plans import Plans
from loupe.runtime.taps import Taps
from loupe.trace.kept import Kept
from loupe.trace.recorder import Recorder
from loupe.trace.tracer import Tracer

BODY = "the body: recording"
PHASES: tuple[tuple[str, type, str], ...] = (
    ("opening the block", Envoy, "trace"),
    ("entering and leaving it", Tracer, "__enter__"),
    ("entering and leaving it", Tracer, "__exit__"),
    ("taking the input", Recorder, "add_input"),
    ("finding the plan", Plans, "of"),
    ("making the pass", LocalRun, "_begin_pass"),
    ("putting taps on and off", Pass, "_tapped_parts"),
    ("putting taps on and off", Taps, "attach"),
    ("putting taps on and off", Taps, "detach"),
    ("the model", ModuleHost, "call"),
    ("the model", TransformersHost, "call"),
    ("at its sites", Pass, "_visit"),
    ("the rest of the run", LocalRun, "finish"),
    ("giving values to the user", Kept, "fill"),
)
NAMES = (BODY, *dict.fromkeys(name for name, _, _ in PHASES))
SCENARIOS = ("empty", "one_save", "twelve_saves", "patch", "zero", "cross_prompt", "gradient")
SUITES: tuple[type[Suite], ...] = (LinearStack, TinyGPT2)
PAGE_HEAD = """# Where the time of a block goes

The wall time of each part of a block, in microseconds, as `make bench` measured it last: the median of many blocks that
were traced before. Each part is without the others that it calls, and with some 0.3 us for each look at the clock. The
last line is the same work by hand, with hooks.
"""


class Clock:
    """Adds up the time of phases, each without those that it calls.

    >>> clock = Clock()
    >>> with clock.watching():
    ...     clock.timed(block)
    """

    def __init__(self) -> None:
        self.spent = dict.fromkeys(NAMES, 0.0)
        self._running = [BODY]
        self._since = 0.0

    def timed(self, block: Callable[[], Any]) -> dict[str, float]:
        """Microseconds of each phase of one call."""
        self.spent = dict.fromkeys(NAMES, 0.0)
        self._since = time.perf_counter()
        block()
        self._turn()
        return {name: spent * 1e6 for name, spent in self.spent.items()}

    def _turn(self) -> None:
        now = time.perf_counter()
        self.spent[self._running[-1]] += now - self._since
        self._since = now

    def _watched(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def watched(*args: Any, **kwargs: Any) -> Any:
            self._turn()
            self._running.append(name)
            try:
                return function(*args, **kwargs)
            finally:
                self._turn()
                self._running.pop()

        return watched

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Stand between the callers of all phases and the phases, for a while."""
        before = [(owner, method, vars(owner)[method]) for _, owner, method in PHASES]
        for name, owner, method in PHASES:
            setattr(owner, method, self._watched(name, getattr(owner, method)))
        try:
            yield
        finally:
            for owner, method, function in before:
                setattr(owner, method, function)


def measured(suite: Suite, scenario: str, rounds: int) -> tuple[dict[str, float], float]:
    """The median of each phase of a scenario, and of the whole by hand, in microseconds."""
    block, hooks, clock = getattr(suite, f"loupe_{scenario}"), getattr(suite, f"hooks_{scenario}"), Clock()
    by_hand: list[float] = []
    blocks: list[dict[str, float]] = []
    with clock.watching():
        for _ in range(3):
            block()
        with no_garbage_collection():
            for _ in range(rounds):
                start = time.perf_counter()
                hooks()
                by_hand.append((time.perf_counter() - start) * 1e6)
                blocks.append(clock.timed(block))
    return {name: median(each[name] for each in blocks) for name in NAMES}, median(by_hand)


def table(suite: Suite, scenarios: tuple[str, ...], rounds: int) -> list[Row]:
    """One line a phase, one column a scenario."""
    found = [measured(suite, scenario, rounds) for scenario in scenarios]
    rows: list[Row] = [("part", *(TITLES[scenario].partition(":")[0] for scenario in scenarios))]
    rows += [(name, *(f"{phases[name]:.1f}" for phases, _ in found)) for name in NAMES]
    rows.append(("all of it", *(f"{sum(phases.values()):.1f}" for phases, _ in found)))
    rows.append(("by hand, with hooks", *(f"{by_hand:.1f}" for _, by_hand in found)))
    return rows


def main(arguments: list[str] | None = None) -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a few rounds only: shows that everything runs")
    parser.add_argument("--markdown", metavar="FILE", help="write the tables to this file too")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    page = Page(PAGE_HEAD, machine()[:2])
    for kind in SUITES:
        suite = kind()
        page.add(suite.name, table(suite, SCENARIOS, 3 if options.quick else suite.rounds))
    page.write(options.markdown)


if __name__ == "__main__":
    main()
