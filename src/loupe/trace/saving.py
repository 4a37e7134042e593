"""Keep any object past the block that is open: a value, or a container of values."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any, TypeVar

from loupe.errors import BlockError
from loupe.trace.handles import isinstance_proxy, open_recorder_in
from loupe.trace.source import user_line
from loupe.trace.stacks import open_recorders, open_sessions

T = TypeVar("T")


def save(value: T, name: str | None = None) -> T:
    """Keep a value, or every value inside a list or dict, past the open block or session; other objects pass through.

    >>> with model.trace("Hello"):
    ...     states = loupe.save([])
    ...     states.append(model.transformer.h[5].output[0])
    >>> states[0].shape
    torch.Size([1, 1, 96])

    Raises BlockError where no block is open.
    """
    proxy: Any = value
    if isinstance_proxy(proxy):
        return proxy.save(name)
    if open_recorders():
        return open_recorders()[-1].keep_container(value)
    if open_sessions():
        open_sessions()[-1].containers.append(value)
        return value
    raise BlockError(
        "save is called where no block is open",
        remedy="call it inside `with model.trace(...):`",
        line=user_line(sys._getframe(1)),
    )


def fn(function: Callable[..., Any]) -> Callable[..., Any]:
    """Mark a Python function for use on values of a block: it is recorded as one step, and runs on the real tensors.

    >>> @loupe.fn
    ... def scale(x):
    ...     return x / x.norm()
    >>> with model.trace("Hello"):
    ...     unit = scale(model.transformer.h[5].output[0]).save()

    Such a step runs in this process only: a graph that has one cannot be sent or stored.
    """

    @functools.wraps(function)
    def recorded(*args: Any, **kwargs: Any) -> Any:
        recorder = open_recorder_in((args, kwargs))
        if recorder is None:
            return function(*args, **kwargs)
        return recorder.apply_function(function, args, kwargs)

    return recorded
