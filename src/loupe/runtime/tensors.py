"""Walk the tensors inside a value: tuples, lists, dicts, model outputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch

_PLAIN = (int, float, complex, str, bytes, torch.dtype, torch.device, torch.layout, type)


def tensors_in(value: Any) -> Iterator[torch.Tensor]:
    """The tensors in a value, in order."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from tensors_in(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from tensors_in(item)


def map_tensors(value: Any, change: Callable[[torch.Tensor], Any]) -> Any:
    """The value with each tensor replaced; containers keep their type, other objects pass through."""
    if isinstance(value, torch.Tensor):
        return change(value)
    if isinstance(value, tuple):
        items = [map_tensors(item, change) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else _rebuild_tuple(value, items)
    if isinstance(value, list):
        return [map_tensors(item, change) for item in value]
    if isinstance(value, dict):
        items = {key: map_tensors(item, change) for key, item in value.items()}
        return items if type(value) is dict else type(value)(**items)
    return value


def is_plain(value: Any) -> bool:
    """Whether a value that is no tensor is simple data, in which no tensor can be hidden."""
    return value is None or isinstance(value, _PLAIN)


def _rebuild_tuple(value: tuple[Any, ...], items: list[Any]) -> Any:
    return tuple(items) if type(value) is tuple else type(value)(items)


def storage_of(tensor: torch.Tensor) -> int | None:
    """What identifies the memory of a tensor; None where it has none."""
    try:
        first = tensor.data_ptr()
        if first:
            offset = tensor.storage_offset()
            return int(first - offset * tensor.element_size()) if offset else first
        return tensor.untyped_storage().data_ptr() or None
    except RuntimeError:
        return None


def memory_of(tensor: torch.Tensor) -> int | None:
    """What identifies the memory of a tensor, also where that has no data; None for what is made of other tensors."""
    found = storage_of(tensor)
    if found is not None:
        return found
    try:
        return tensor.untyped_storage()._cdata
    except RuntimeError:
        return None


def share_memory(value: Any, storages: set[int]) -> bool:
    """Whether a tensor in the value lives in one of these storages."""
    if type(value) is torch.Tensor:
        return storage_of(value) in storages
    return any(storage_of(tensor) in storages for tensor in tensors_in(value))


def storages_of(value: Any) -> set[int]:
    """The storages of the tensors in a value."""
    if type(value) is torch.Tensor:
        found = storage_of(value)
        return set() if found is None else {found}
    return {each for tensor in tensors_in(value) if (each := storage_of(tensor)) is not None}


def version_of(tensor: torch.Tensor) -> int:
    """How often a tensor has been changed in place; -1 where torch does not count."""
    return -1 if tensor.is_inference() else tensor._version


def agree(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two tensors of a shape hold the same values; what is no number is the same as itself."""
    if one.is_meta or other.is_meta:
        return True
    with torch.no_grad():
        return torch.equal(one, other) or bool(((one == other) | ((one != one) & (other != other))).all())


def summary(value: Any) -> str:
    """Shapes and dtypes of a value, in a few words: `f32[1, 5, 96]`."""
    from loupe.graph.graph import constant_text

    if isinstance(value, torch.Tensor):
        return constant_text(value)
    if isinstance(value, (tuple, list)):
        inner = ", ".join(summary(item) for item in list(value)[:6])
        return f"({inner}{', …' if len(value) > 6 else ''})"
    if isinstance(value, dict):
        return f"{type(value).__name__}({', '.join(f'{key}={summary(item)}' for key, item in list(value.items())[:6])})"
    return constant_text(value)
