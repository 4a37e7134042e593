"""Split values by rows and put them together again: which axis of a value is the batch, and the slice of one invoke."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from loupe.errors import Line, RowsError
from loupe.graph.node import Event
from loupe.runtime.tensors import is_plain

SHARED = -1
MIXED = -2


class Along(NamedTuple):
    """For each leaf of a value, the axis that is the batch, and how many entries one row has along it."""

    axes: tuple[int, ...]
    each: tuple[int, ...]

    @classmethod
    def of(cls, shapes: Sequence[Sequence[torch.Size | None]], rows: Sequence[int]) -> Along:
        """What passes with other numbers of rows tell; see `axes_from_shapes`."""
        axes = axes_from_shapes(shapes, rows)
        pairs = zip(shapes[0], axes, strict=False)
        each = tuple(shape[axis] // rows[0] if shape is not None and axis >= 0 else 1 for shape, axis in pairs)
        return cls(axes, each)


NOWHERE = Along((), ())
Parts = tuple[list[Any], TreeSpec | None]


class Axes(Protocol):
    """Knows which axis of each leaf of a site's value is the batch."""

    def of(self, event: Event) -> tuple[int, ...]:
        """The axes of the value that passes at an event: an output, or `(args, kwargs)`."""
        ...

    def along(self, event: Event) -> Along:
        """The axes, and how many entries each row has along them."""
        ...


class Rows(NamedTuple):
    """The slice of the batch that belongs to each invoke."""

    slices: tuple[tuple[int, int], ...]
    total: int

    def covers_all(self, invoke: int | None) -> bool:
        """Whether an invoke is the whole batch."""
        return invoke is None or self.slices[invoke][1] == self.total


class Unavailable:
    """Stands for a part of a value that cannot be given to one prompt of several: using it raises RowsError."""

    def __init__(self, what: str) -> None:
        self.__dict__["_what"] = what

    def error(self, line: Line | None = None) -> RowsError:
        """What its use raises."""
        return RowsError(
            f"{self.__dict__['_what']} is about all prompts of the batch, and cannot be split",
            remedy="use it in tracer.invoke() without input (the whole batch), or trace this prompt alone",
            line=line,
        )

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise self.error()

    def __repr__(self) -> str:
        return f"({self.__dict__['_what']}: of all prompts, not available to one)"


def axes_from_shapes(shapes: Sequence[Sequence[torch.Size | None]], rows: Sequence[int]) -> tuple[int, ...]:
    """For each leaf of a value, the axis along which it grows with the batch.

    `shapes[i]` are the leaves' shapes in a pass with `rows[i]` rows. SHARED where no axis changes: a table that all
    rows use, whatever its length. MIXED where rows cannot be told apart: two axes change, or one changes out of
    proportion.
    """
    leaves = {len(found) for found in shapes}
    if len(leaves) != 1:
        return (MIXED,) * max(leaves, default=0)
    axes = []
    for each in zip(*shapes, strict=True):
        if any(shape is None for shape in each):
            axes.append(SHARED)
            continue
        sizes = [tuple(shape) for shape in each if shape is not None]
        if len({len(size) for size in sizes}) != 1:
            axes.append(MIXED)
            continue
        changing = [axis for axis in range(len(sizes[0])) if len({size[axis] for size in sizes}) > 1]
        if not changing:
            axes.append(SHARED)
        elif len(changing) > 1:
            axes.append(MIXED)
        else:
            axis = changing[0]
            ratios = {(size[axis] // count, size[axis] % count) for size, count in zip(sizes, rows, strict=True)}
            axes.append(axis if len(ratios) == 1 and next(iter(ratios))[1] == 0 else MIXED)
    return tuple(axes)


def leaf_shapes(value: Any) -> tuple[torch.Size | None, ...]:
    """The shapes of a value's leaves, None for a leaf that is no tensor."""
    return tuple(leaf.shape if isinstance(leaf, torch.Tensor) else None for leaf in parts_of(value)[0])


def parts_of(value: Any) -> Parts:
    """The leaves of a value, and its form; a lone tensor, which most values are, has none."""
    return ([value], None) if isinstance(value, torch.Tensor) else tree_flatten(value)


def narrow(value: Any, axes: tuple[int, ...], rows: Rows, invoke: int, event: Event, parts: Parts | None = None) -> Any:
    """The rows of one invoke, as views; shared tensors as they are. `parts` are those of the value, where known.

    A number (a loss) may be about all prompts, and an object (a cache) may hold tensors of all: these are Unavailable.

    Raises RowsError for a value whose rows cannot be told apart.
    """
    leaves, spec = parts_of(value) if parts is None else parts
    start, size = rows.slices[invoke]
    _check(len(leaves) == len(axes), event)
    narrowed: list[Any] = []
    for leaf, axis in zip(leaves, axes, strict=True):
        if not isinstance(leaf, torch.Tensor):
            narrowed.append(leaf if is_plain(leaf) else Unavailable(f"a {type(leaf).__name__} at {event}"))
            continue
        if axis == SHARED:
            number = leaf.dim() == 0 and leaf.is_floating_point()
            narrowed.append(Unavailable(f"a single number at {event}") if number else leaf)
            continue
        each = _rows_each(leaf, axis, rows, event)
        narrowed.append(leaf.narrow(axis, start * each, size * each))
    return narrowed[0] if spec is None else tree_unflatten(narrowed, spec)


def widen(whole: Any, part: Any, axes: tuple[int, ...], rows: Rows, invoke: int, event: Event) -> Any:
    """The whole value with the rows of one invoke replaced by `part`; gradients flow through both.

    Raises RowsError where a leaf is shared by all rows, or `part` is of another form.
    """
    leaves, spec = parts_of(whole)
    parts, part_spec = parts_of(part)
    start, size = rows.slices[invoke]
    _check(len(leaves) == len(axes), event)
    if len(parts) != len(leaves) or (part_spec != spec and len(leaves) != 1):
        raise RowsError(
            f"{event} is written by one prompt of several with a value of another form",
            remedy="write a value with the same structure as the one that is read there",
        )
    widened = []
    for leaf, new, axis in zip(leaves, parts, axes, strict=True):
        if new is leaf or type(new) is Unavailable or not isinstance(leaf, torch.Tensor):
            widened.append(leaf)
            continue
        if axis == SHARED:
            raise RowsError(
                f"{event} is shared by all prompts of the batch, so one of them cannot write it",
                remedy="write it in tracer.invoke() without input, for the whole batch",
            )
        each = _rows_each(leaf, axis, rows, event)
        expected = (*leaf.shape[:axis], size * each, *leaf.shape[axis + 1 :])
        if not isinstance(new, torch.Tensor) or tuple(new.shape) != expected:
            shape = list(new.shape) if isinstance(new, torch.Tensor) else type(new).__name__
            raise RowsError(
                f"{event} is written with {shape}, where this prompt's rows are {list(expected)}",
                remedy="prompts of one batch are padded to one length; write a value of that shape",
            )
        before, after = (
            leaf.narrow(axis, 0, start * each),
            leaf.narrow(axis, (start + size) * each, leaf.shape[axis] - (start + size) * each),
        )
        widened.append(torch.cat([before, new.to(leaf.dtype).to(leaf.device), after], dim=axis))
    return widened[0] if spec is None else tree_unflatten(widened, spec)


def join_rows(parts: Sequence[Any], axes: tuple[int, ...], event: Event) -> Any:
    """Put the parts of all invokes together, in order; what is no tensor of rows is taken from the first.

    Raises RowsError where the parts are of different forms.
    """
    flat = [tree_flatten(part) for part in parts]
    if any(spec != flat[0][1] for _, spec in flat) or len(flat[0][0]) != len(axes):
        raise RowsError(
            f"{event} is written by the prompts of a batch with values of different forms",
            remedy="write values with the structure of the module's output",
        )
    joined = []
    for leaves, axis in zip(zip(*(leaves for leaves, _ in flat), strict=True), axes, strict=True):
        rows = axis >= 0 and all(isinstance(leaf, torch.Tensor) for leaf in leaves)
        joined.append(torch.cat(leaves, dim=axis) if rows else leaves[0])
    return tree_unflatten(joined, flat[0][1])


def _rows_each(leaf: torch.Tensor, axis: int, rows: Rows, event: Event) -> int:
    _check(axis != MIXED and axis < leaf.dim() and leaf.shape[axis] % rows.total == 0, event)
    return leaf.shape[axis] // rows.total


def _check(known: bool, event: Event) -> None:
    if not known:
        raise RowsError(
            f"the rows of single prompts cannot be told apart at {event}",
            remedy="use it in tracer.invoke() without input (the whole batch), or trace this prompt alone",
        )
