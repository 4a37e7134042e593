"""Put other libraries beside loupe where they are installed: each is held to the hooks' results before it is timed."""

from __future__ import annotations

import copy
import importlib
import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.page import Row
from benchmarks.suite import TITLES, Scenario, Suite, Unequal, hold
from benchmarks.timing import Call, Comparison

MODULES = {"nnsight": "benchmarks.nnsight_peer"}  # by the library's name, what has its `PEER`
METHODS = {title: method for method, title in TITLES.items()}
TRIES = 3  # what fails on its second call is not timed either


class Ways:
    """A library's ways of doing a suite's scenarios, on a copy of the module: a method `{name of the library}_…` each.

    What the library attaches to the copy is in the way of nobody else.
    """

    def __init__(self, suite: Suite) -> None:
        self.suite: Any = suite
        self.module = copy.deepcopy(suite.module)


@dataclass(frozen=True, slots=True)
class Peer:
    """A library with its ways by the kind of suite; a suite without any has those of the suite that it inherits from.

    >>> Peer("nnsight", "0.8.1", {LinearStack: LinearStackWays})
    """

    name: str
    version: str
    kinds: Mapping[type[Suite], type[Ways]]

    def ways(self, suite: Suite) -> Ways | None:
        """The ways of doing a suite; None where there are none."""
        found = next((self.kinds[kind] for kind in type(suite).__mro__ if kind in self.kinds), None)
        return found(suite) if found else None


def installed() -> list[Peer]:
    """The peers whose library is there; raises what its import raises."""
    return [importlib.import_module(home).PEER for name, home in MODULES.items() if importlib.util.find_spec(name)]


@dataclass(slots=True)
class Columns:
    """What the table of one suite says of one peer: two cells a scenario, and below the table why some have no time."""

    peer: Peer
    suite: Suite
    remarks: list[str] = field(default_factory=list)
    _ways: Ways | Exception | None = None

    def __post_init__(self) -> None:
        try:
            self._ways = self.peer.ways(self.suite)
        except Exception as error:
            self._ways = error

    @property
    def header(self) -> tuple[str, str]:
        """The names of both columns."""
        return f"{self.peer.name} us", f"{self.peer.name} CPU ratio (quartiles)"

    def call(self, scenario: Scenario) -> Call | str:
        """What the peer does at a scenario, once it gave the hooks' results; otherwise the word for its cells.

        The word is "-" where the peer has no way, "raises" where that fails, and "differs" where it gives other
        results; a remark says more of the last two.
        """
        if isinstance(self._ways, Exception):
            return self._raises(scenario, self._ways)
        way = getattr(self._ways, f"{self.peer.name}_{METHODS.get(scenario.name)}", None)
        if self._ways is None or way is None:
            return "-"
        try:
            for _ in range(TRIES):
                hold(self.suite, scenario, self.peer.name, way, self._ways.module)
        except Unequal as error:
            self.remarks.append(str(error))
            return "differs"
        except Exception as error:
            return self._raises(scenario, error)
        return way

    def _raises(self, scenario: Scenario, error: Exception) -> str:
        said = next(iter(str(error).strip().splitlines()), "")
        self.remarks.append(
            f"{self.suite.name}, {scenario.name}: {self.peer.name} raises {type(error).__name__}: {said}"
        )
        return "raises"


def cells(calls: Sequence[Call | str], found: Sequence[Comparison]) -> Row:
    """The cells of all peers in one line, from what each does and what was measured of those that do something."""
    measured = iter(found)
    pairs = [_cells(next(measured)) if callable(call) else (call, call) for call in calls]
    return tuple(cell for pair in pairs for cell in pair)


def _cells(found: Comparison) -> tuple[str, str]:
    return f"{found.other.median:.0f}", found.cpu_ratio.text()
