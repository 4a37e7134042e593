"""Tell the values of a block from other objects, through containers, and put real values in their place."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from loupe.trace.recorder import Recorder


class Handle:
    """What every proxy is by type; `isinstance` on a proxy answers for the value behind it."""

    __slots__ = ()
    _recorder: Recorder
    leaves_open = False  # whether it stands for a parameter of whatever graph it is used in


def isinstance_proxy(value: Any) -> bool:
    """Whether a value is a proxy; `isinstance` would answer for the value behind it."""
    return issubclass(type(value), Handle)


def recording(proxy: Any) -> Recorder | None:
    """The recorder that takes down what is done to a value now: of its own block, or of a later one of its session."""
    recorder: Recorder = proxy._recorder
    if recorder.open:
        return recorder
    if recorder.session is None:
        return None
    cell = proxy._cell
    saved = cell is not None and cell.filled and cell.name not in recorder.kept.for_session
    return None if saved else recorder.session.open_recorder()


def open_recorder_in(value: Any) -> Recorder | None:
    """The recorder of the first value of an open block in an argument."""
    kind = type(value)
    if issubclass(kind, Handle):
        return recording(value)
    if kind is tuple or kind is list:
        for item in value:
            found = open_recorder_in(item)
            if found is not None:
                return found
    elif kind is dict:
        return open_recorder_in(list(value.values()))
    elif kind is slice:
        return open_recorder_in((value.start, value.stop, value.step))
    return None


def unwrap(value: Any) -> Any:
    """Replace proxies by their values, through containers."""
    kind = type(value)
    if issubclass(kind, Handle):
        return value.value
    if kind is tuple or kind is list:
        return kind([unwrap(item) for item in value])
    if kind is dict:
        return {key: unwrap(item) for key, item in value.items()}
    if kind is slice:
        return slice(unwrap(value.start), unwrap(value.stop), unwrap(value.step))
    return value
