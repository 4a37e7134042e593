"""Say which steps of a generation a block is about: `tracer.all()`, `tracer.iter[2:5]`, `for step in tracer.iter`."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from loupe.errors import BlockError
from loupe.trace.recorder import Recorder
from loupe.trace.source import user_line


class Iter:
    """Picks steps: a slice, or one step."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    def __getitem__(self, key: slice | int) -> StepWise:
        if isinstance(key, int):
            key = slice(key, key + 1)
        start, stop, stride = key.start or 0, key.stop, key.step or 1
        if min(start, stop or 0, stride - 1) < 0:
            raise BlockError(
                f"iter[{key.start}:{key.stop}:{key.step}] counts steps from the end, which is not known",
                remedy="count steps from 0: tracer.iter[2:5]",
                line=user_line(sys._getframe(1)),
            )
        return StepWise(self._recorder, start, stop, stride)


class StepWise:
    """Some steps of a generation: a context whose lines are about each of them, or a loop that goes through them.

    >>> with model.generate("Hello", max_new_tokens=5) as tracer:
    ...     with tracer.iter[1:3]:
    ...         model.transformer.h[5].output[0][:] = 0
    ...     for step in tracer.iter[:5]:
    ...         logits = model.lm_head.output.save()
    """

    def __init__(self, recorder: Recorder, start: int, stop: int | None, stride: int) -> None:
        self._recorder = recorder
        self._bounds = (start, stop, stride)

    def __enter__(self) -> StepWise:
        self._recorder.enter_steps(*self._bounds)
        return self

    def __exit__(self, *error: object) -> None:
        self._recorder.leave_steps()

    def __iter__(self) -> Iterator[int]:
        start, stop, stride = self._bounds
        if stop is None:
            stop = self._recorder.execution.steps()
        outer = self._recorder.step
        try:
            for step in range(start, stop, stride):
                self._recorder.step = step
                yield step
        finally:
            self._recorder.step = outer
