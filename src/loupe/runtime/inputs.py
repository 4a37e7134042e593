"""Take the inputs of a run, one by one, and make the one call of the model in which they are its rows."""

from __future__ import annotations

from typing import Any

from loupe.errors import InputError, Line
from loupe.runtime.describe import Undescribed
from loupe.runtime.host import Batch, Host, Input


class Inputs:
    """What the invokes of one run were given, the options of its generation, and the call that these make.

    `taken` are the inputs so far, in order. A call that was made before the weights were loaded is made anew: token ids
    go where the weights are.
    """

    def __init__(self, host: Host) -> None:
        self._host = host
        self.taken: list[Input] = []
        self._generation: dict[str, Any] | None = None
        self._batch: Batch | None = None
        self._called: Batch | None = None
        self._module = host.module

    @property
    def generates(self) -> bool:
        """Whether the run is a generation."""
        return self._generation is not None

    def add(self, args: tuple[Any, ...], kwargs: dict[str, Any], line: Line) -> int:
        """Take one more; raises InputError, on its own line, where it cannot be used. Returns its number."""
        self.taken.append(Input(args, kwargs, line))
        self._called = None
        alone = self._host.merge(self.taken[-1:])
        self._batch = alone if len(self.taken) == 1 else None
        return len(self.taken) - 1

    def generate(self, options: dict[str, Any]) -> None:
        """Make it a generation with these options of the host; raises InputError where it takes no such options."""
        if self.taken:
            self._host.merge(self.taken, options)
        self._generation, self._called = options, None

    def steps(self) -> int:
        """The most steps that the run can have."""
        if not self.taken:
            raise InputError(
                "the block has no input yet, so that its steps cannot be counted",
                remedy="open tracer.invoke(prompt) first, or give the loop an end: tracer.iter[:5]",
            )
        return self._host.steps(self.call())

    def batch(self) -> Batch:
        """One forward pass with all inputs; raises Undescribed where there is none yet."""
        if not self.taken:
            raise Undescribed("the block has no input yet")
        self._follow_module()
        if self._batch is None:
            self._batch = self._host.merge(self.taken)
        return self._batch

    def call(self) -> Batch:
        """What the run calls: the forward pass, or the generation."""
        if self._generation is None:
            return self.batch()
        self._follow_module()
        if self._called is None:
            self._called = self._host.merge(self.taken, self._generation)
        return self._called

    def _follow_module(self) -> None:
        if self._host.module is not self._module:
            self._module, self._batch, self._called = self._host.module, None, None
