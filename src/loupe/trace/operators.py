"""Give proxies their operators, from one table."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from loupe.trace.handles import open_recorder_in, recording, unwrap
from loupe.trace.saved import operand


def _operator(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    target = f"operator.{name}"

    def method(self: Any, *others: Any) -> Any:
        others = tuple([operand(other) for other in others])
        recorder = self._recorder
        if recorder.open:
            return recorder.apply(target, (self, *others))
        recorder = recording(self) or open_recorder_in(others)
        if recorder is not None:
            return recorder.apply(target, (self, *others))
        return function(self.value, *unwrap(others))

    return method


def _reflected(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    target = f"operator.{name}"

    def method(self: Any, other: Any) -> Any:
        other = operand(other)
        recorder = recording(self) or open_recorder_in(other)
        if recorder is not None:
            return recorder.apply(target, (other, self))
        return function(unwrap(other), self.value)

    return method


def define_operators(cls: type) -> None:
    """Give a class of proxies its operators."""
    for name in "add sub mul truediv floordiv mod pow matmul and_ or_ xor lshift rshift divmod".split():
        plain = name.rstrip("_")
        function = divmod if name == "divmod" else getattr(operator, name)
        setattr(cls, f"__{plain}__", _operator(name, function))
        setattr(cls, f"__r{plain}__", _reflected(name, function))
    for name in "iadd isub imul itruediv ifloordiv imod ipow imatmul iand ior ixor ilshift irshift".split():
        setattr(cls, f"__{name}__", _operator(name, getattr(operator, name)))
    for name in "neg pos abs invert eq ne lt le gt ge".split():
        setattr(cls, f"__{name}__", _operator(name, getattr(operator, name)))
