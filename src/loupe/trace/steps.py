"""Say which steps of a generation a block is about: `tracer.all()`, `tracer.iter[2:5]`, `for step in tracer.iter`."""

from __future__ import annotations

import operator
import sys
from collections.abc import Iterator
from typing import Any

from loupe.errors import BlockError
from loupe.graph.node import Steps
from loupe.trace.recorder import Recorder
from loupe.trace.source import user_line


class Iter:
    """Picks steps: a slice, one step, or a list of steps."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    def __getitem__(self, key: Any) -> StepWise:
        try:
            steps = _picked(key)
        except TypeError:
            raise BlockError(
                f"tracer.iter[{key!r}] names no steps",
                remedy="name steps by a slice, a number or a list: tracer.iter[2:5], tracer.iter[2], "
                "tracer.iter[[0, 2]]",
                line=user_line(sys._getframe(1)),
            ) from None
        if min(steps.start, steps.stop or 0, steps.stride - 1, *steps.listed) < 0:
            shown = steps if isinstance(key, slice) else repr(key)
            raise BlockError(
                f"tracer.iter[{shown}] counts steps from the end, which is not known",
                remedy="count steps from 0, forwards: tracer.iter[2:5]",
                line=user_line(sys._getframe(1)),
            )
        return StepWise(self._recorder, steps)


def _picked(key: Any) -> Steps:
    if isinstance(key, slice):
        start, stop, stride = (0 if key.start is None else key.start, key.stop, 1 if key.step is None else key.step)
        return Steps(0, operator.index(start), None if stop is None else operator.index(stop), operator.index(stride))
    if isinstance(key, (list, tuple, range)):
        listed = tuple(sorted({operator.index(each) for each in key}))
        return Steps(0, 0, 0, listed=listed)
    step = operator.index(key)
    return Steps(0, step, step + 1)


class StepWise:
    """Some steps of a generation: a context whose lines are about each of them, or a loop that goes through them.

    >>> with model.generate("Hello", max_new_tokens=5) as tracer:
    ...     with tracer.iter[1:3]:
    ...         model.transformer.h[5].output[0][:] = 0
    ...     for step in tracer.iter[:5]:
    ...         logits = model.lm_head.output.save()

    The body of the context runs once, so Python cannot look at a value in it; in the loop it runs for each step, and
    can. A loop without an end that looks at values ends with the generation, be it by an early end of text.
    """

    def __init__(self, recorder: Recorder, steps: Steps) -> None:
        self._recorder = recorder
        self._steps = steps

    def __enter__(self) -> StepWise:
        self._recorder.scope.enter_steps(self._steps)
        return self

    def __exit__(self, *error: object) -> None:
        self._recorder.scope.leave_steps()

    def __iter__(self) -> Iterator[int]:
        recorder, scope, steps = self._recorder, self._recorder.scope, self._steps
        line = user_line(sys._getframe(1))
        endless = steps.stop is None
        outer, looks = scope.enter_loop(line), recorder.looks
        try:
            for step in steps.of(scope.most_steps() if endless else sys.maxsize):
                if endless and recorder.looks > looks and not recorder.happens(step, line):
                    return
                looks = recorder.looks
                scope.step = step
                yield step
        finally:
            scope.step = outer
