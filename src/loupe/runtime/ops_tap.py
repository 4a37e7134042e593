"""Watch the torch operations of one module's own forward pass, without the passes of its submodules."""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from loupe.errors import Line

_SKIPPED = frozenset(
    ("__get__", "__set__", "__delete__", "size", "dim", "numel", "__len__", "is_floating_point", "__bool__")
)


@dataclass(frozen=True, slots=True)
class Operation:
    """One torch operation of a forward pass: its name, its number among those of that name, what came out, its line."""

    name: str
    index: int
    output: Any
    line: Line


def operation_name(function: Callable[..., Any]) -> str:
    """The name under which an operation is tapped: `softmax`, `matmul`, `add`; no underscores around."""
    name = getattr(function, "__name__", type(function).__name__)
    return name if name in _SKIPPED else name.strip("_")


OnOperation = Callable[[str, int, Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]


class OperationWatch(TorchFunctionMode):
    """Numbers the operations of one call of a module, and hands each to `act`, which runs it."""

    def __init__(self, act: OnOperation) -> None:
        super().__init__()
        self._act = act
        self._counts: dict[str, int] = {}
        self._paused = 0

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = operation_name(func)
        if self._paused or name in _SKIPPED:
            return func(*args, **kwargs)
        index = self._counts.get(name, 0)
        self._counts[name] = index + 1
        return self._act(name, index, func, args, kwargs)

    @contextmanager
    def paused(self) -> Generator[None]:
        """Let operations pass unseen: those of submodules, and of the block's own nodes."""
        self._paused += 1
        try:
            yield
        finally:
            self._paused -= 1


@contextmanager
def watching(
    module: nn.Module, begin: Callable[[], OnOperation | None], active: list[OperationWatch]
) -> Generator[None]:
    """Watch the operations of each call of `module` for the length of the context.

    `begin` is asked at each call: it gives what to do with the operations of that call, or None to leave it alone.
    `active` holds the watches of all modules that are being called just now, so that a tap can pause them.
    """
    watches: list[OperationWatch] = []
    with _wrapped(module, lambda forward: _watch_forward(forward, begin, watches, active)):
        children = [child for child in module.modules() if child is not module]
        undo = [_wrap(child, lambda forward: _pause_forward(forward, watches)) for child in children]
        try:
            yield
        finally:
            for each in undo:
                each()


def _watch_forward(
    forward: Callable[..., Any],
    begin: Callable[[], OnOperation | None],
    watches: list[OperationWatch],
    active: list[OperationWatch],
) -> Callable[..., Any]:
    def watched(*args: Any, **kwargs: Any) -> Any:
        act = begin()
        if act is None:
            return forward(*args, **kwargs)
        watch = OperationWatch(act)
        watches.append(watch)
        active.append(watch)
        try:
            with watch:
                return forward(*args, **kwargs)
        finally:
            watches.pop()
            active.remove(watch)

    return watched


def _pause_forward(forward: Callable[..., Any], watches: list[OperationWatch]) -> Callable[..., Any]:
    def passed(*args: Any, **kwargs: Any) -> Any:
        if not watches:
            return forward(*args, **kwargs)
        with watches[-1].paused():
            return forward(*args, **kwargs)

    return passed


def _wrap(module: nn.Module, wrapper: Callable[[Callable[..., Any]], Callable[..., Any]]) -> Callable[[], None]:
    """Replace a module's forward on the instance; the returned function puts it back."""
    had = module.__dict__.get("forward")
    module.__dict__["forward"] = wrapper(module.forward)

    def undo() -> None:
        if had is None:
            module.__dict__.pop("forward", None)
        else:
            module.__dict__["forward"] = had

    return undo


@contextmanager
def _wrapped(module: nn.Module, wrapper: Callable[[Callable[..., Any]], Callable[..., Any]]) -> Generator[None]:
    undo = _wrap(module, wrapper)
    try:
        yield
    finally:
        undo()


def calling_line() -> Line:
    """The line of the model's own code that called a torch operation: the innermost frame outside torch and loupe."""
    import os

    torch_dir = os.path.dirname(torch.__file__) + os.sep
    own_dir = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
    frame = sys._getframe(1)
    while frame is not None:
        name = frame.f_code.co_filename
        if not name.startswith((torch_dir, own_dir)):
            return Line(name, frame.f_lineno)
        frame = frame.f_back
    return Line("<unknown>", 0)
