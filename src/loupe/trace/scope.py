"""Know where in its block the user stands: in which invoke, at which steps of a generation, in which backward pass."""

from __future__ import annotations

import sys

from loupe.errors import BlockError, Line
from loupe.graph.node import Site, Steps
from loupe.trace.execution import Execution
from loupe.trace.source import user_line


class Scope:
    """What the next line of a block is about.

    `invoke` is the prompt; `step` is that of the loop in which the block stands, `steps` those of its step-wise part;
    `shifts` is how far `module.next()` has moved each module on; `backward` is the open backward pass.
    """

    def __init__(self, execution: Execution) -> None:
        self._execution = execution
        self.invoke: int | None = None
        self.in_invoke = False
        self.step: int | None = None
        self.steps: Steps | None = None
        self.shifts: dict[str, int] = {}
        self.counted = False  # whether the steps of the run are said to be known
        self.backward: int | None = None
        self._groups = 0

    def enter_invoke(self, invoke: int | None) -> None:
        """What follows is about one prompt; None where it is about all."""
        if invoke is not None:
            self.invoke = invoke
        self.in_invoke = True

    def leave_invoke(self) -> None:
        """What follows is about all prompts again."""
        self.invoke = None
        self.in_invoke = False

    def at_step(self, site: Site) -> Site:
        """The site as the block means it where it stands: at the step of its loop, moved on by `module.next()`."""
        calls = self.step * self._execution.calls_each(site.path) if self.step else 0
        call = site.call + calls + self.shifts.get(site.path, 0)
        return site if call == site.call else site._replace(call=call)

    def enter_steps(self, steps: Steps) -> None:
        """What follows is about each of these steps."""
        if self.steps is not None or self.step is not None:
            raise _nested(user_line(sys._getframe(2)))
        self._groups += 1
        self.steps = steps._replace(group=self._groups)

    def leave_steps(self) -> None:
        """What follows is about the run as a whole again."""
        self.steps = None

    def enter_loop(self, line: Line) -> int | None:
        """What follows is about one step after the other; gives the step that the block is about so far."""
        if self.steps is not None:
            raise _nested(line)
        return self.step

    def check_look(self, steps: Steps | None) -> None:
        """Refuse a look at a value of each of these steps where the block stands at none of them."""
        if steps is None or self.steps is None:
            return
        picked = str(self.steps)
        where, picked = ("tracer.all()", ":") if picked == "0:" else (f"tracer.iter[{picked}]", picked)
        raise BlockError(
            f"a value is looked at inside `with {where}:`, which is written once for all its steps",
            remedy=f"look at it in a loop, which runs for each step: `for step in tracer.iter[{picked}]:`",
            line=user_line(sys._getframe(2)),
        )

    def most_steps(self) -> int:
        """The most steps that the run can have; a run that is counted cannot become a generation any more."""
        self.counted = True
        return self._execution.steps()


def _nested(line: Line) -> BlockError:
    return BlockError(
        "a step-wise block stands inside another, or inside a loop over steps",
        remedy="put one after the other",
        line=line,
    )
