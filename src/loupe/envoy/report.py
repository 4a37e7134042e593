"""Tell what was found about a graph and a model: what fails, what stays in this process, how much memory it takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from loupe.errors import GraphError, Line
from loupe.runtime.estimate import Estimate

Weight = Literal["error", "local", "note"]
_HEADINGS: dict[Weight, str] = {"error": "fails", "local": "runs in this process only", "note": "mind"}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was found: an error, what keeps the graph from being stored or sent, or what is good to know."""

    weight: Weight
    fact: str
    remedy: str
    line: Line | None = None

    def __str__(self) -> str:
        where = f"\n  at {self.line}" if self.line else ""
        return f"{_HEADINGS[self.weight]}: {self.fact}{where}\n  {self.remedy}"


@dataclass(frozen=True, slots=True)
class Report:
    """What was found about a graph and a model; true where the graph can run.

    `estimate` is the memory that a run takes, None where the graph could not be tried; `devices` are where the model's
    weights lie.
    """

    findings: tuple[Finding, ...]
    estimate: Estimate | None
    devices: tuple[str, ...]

    @property
    def errors(self) -> list[Finding]:
        """What keeps the graph from running."""
        return [found for found in self.findings if found.weight == "error"]

    @property
    def portable(self) -> bool:
        """Whether the graph can be stored and sent."""
        return not any(found.weight == "local" for found in self.findings)

    def __bool__(self) -> bool:
        return not self.errors

    def check(self) -> None:
        """Raise GraphError with the first error, where there is one."""
        for found in self.errors:
            raise GraphError(found.fact, remedy=found.remedy, line=found.line)

    def __str__(self) -> str:
        rows = [str(found) for found in self.findings]
        rows.insert(0, "the graph can run" if self else f"the graph cannot run: {_count(len(self.errors), 'error')}")
        if self.estimate is not None:
            rows.append(f"memory: {self.estimate}")
        if self.devices:
            rows.append(f"weights on {', '.join(self.devices)}")
        return "\n".join(rows)


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
