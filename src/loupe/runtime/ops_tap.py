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
from torch.utils._pytree import tree_leaves

from loupe.errors import Line
from loupe.ops.views import first_input
from loupe.runtime.tensors import map_tensors, version_of

_AUGMENTED = "add sub mul truediv floordiv mod pow matmul and or xor lshift rshift".split()
_SKIPPED = frozenset(  # these look at a tensor, and compute none
    "__get__ __set__ __delete__ __len__ __bool__ __int__ __float__ __index__ __hash__ __repr__ __format__ __array__ "
    "size dim ndimension numel nelement element_size stride storage_offset data_ptr get_device item tolist numpy "
    "is_floating_point is_complex is_contiguous is_inference is_conj is_neg is_nonzero".split()
)
_IN_PLACE = frozenset(f"__{name}__" for name in ("setitem", *(f"i{each}" for each in _AUGMENTED)))


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
    name = "_old_forward" if "_old_forward" in module.__dict__ else "forward"  # accelerate keeps the module's own there
    with _wrapped(module, lambda forward: _watch_forward(forward, begin, watches, active), name):
        children = [child for child in module.modules() if child is not module]
        undo = [wrap_forward(child, lambda forward: _pause_forward(forward, watches)) for child in children]
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


def wrap_forward(
    module: nn.Module, wrapper: Callable[[Callable[..., Any]], Callable[..., Any]], name: str = "forward"
) -> Callable[[], None]:
    """Replace a module's forward on the instance; the returned function puts it back.

    What stands in its place has `__wrapped__`, for code that looks at a forward's signature, and `replaces`.
    """
    forward = getattr(module, name)
    return put_forward(module.__dict__, forward, wrapper(forward), name)


def put_forward(
    own: dict[str, Any], forward: Callable[..., Any], new: Any, name: str = "forward"
) -> Callable[[], None]:
    """Put another function in the place of a module's forward, as `wrap_forward` does; `own` are its attributes."""
    had = own.get(name)
    new.__wrapped__, new.replaces = forward, had
    own[name] = new

    def undo() -> None:
        if had is None:
            own.pop(name, None)
        else:
            own[name] = had

    return undo


def without_taps(own: dict[str, Any]) -> None:
    """Take what `wrap_forward` has put on a module out of a copy of its attributes."""
    for name in ("forward", "_old_forward"):
        while hasattr(own.get(name), "replaces"):
            before = own.pop(name).replaces
            if before is not None:
                own[name] = before


@contextmanager
def _wrapped(
    module: nn.Module, wrapper: Callable[[Callable[..., Any]], Callable[..., Any]], name: str
) -> Generator[None]:
    undo = wrap_forward(module, wrapper, name)
    try:
        yield
    finally:
        undo()


@contextmanager
def listing(module: nn.Module, found: dict[int, list[Operation]]) -> Generator[None]:
    """Note the operations of each call of a module, in order; their values without data."""

    def begin() -> OnOperation:
        operations: list[Operation] = []
        found[len(found)] = operations

        def act(name: str, index: int, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
            line = calling_line()
            output = function(*args, **kwargs)
            operations.append(Operation(name, index, map_tensors(output, lambda tensor: tensor.to("meta")), line))
            return output

        return act

    with watching(module, begin, []):
        yield


Show = Callable[[Any], Any]


def run_shown(
    function: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    before: Show | None,
    after: Show | None,
    keep: Callable[[torch.Tensor], None],
) -> Any:
    """Run an operation whose inputs, or output, are shown: each is given what passes, and gives what goes on.

    A model that calls an operation which changes a tensor in place goes on with that tensor, whatever the call returns.
    There the block is shown copies, which stay as they are, and what it makes of them is put into the tensor; `keep` is
    called before, where that is something else.
    Raises ValueError where an output is written that the model has no use for.
    """
    in_place = _changes_in_place(function, kwargs)
    if before is not None and in_place and kwargs.get("out") is None:
        target = first_input((args, kwargs))
        copy = target.clone()
        version = version_of(copy)
        args, kwargs = before(_with_first(args, kwargs, copy))
        _put(target, copy, version, first_input((args, kwargs)), keep)
        args, kwargs = _with_first(args, kwargs, target)
    elif before is not None:
        args, kwargs = before((args, kwargs))
    output = function(*args, **kwargs)
    if after is None or not in_place:
        return output if after is None else after(output)
    copies = map_tensors(output, torch.Tensor.clone)
    versions = [version_of(copy) if isinstance(copy, torch.Tensor) else -1 for copy in tree_leaves(copies)]
    new = after(copies)
    if output is None and new is not None:
        raise ValueError(
            f"{operation_name(function)} gives nothing: the model goes on with the argument that it changes"
        )
    leaves = (tree_leaves(value) for value in (output, copies))
    for tensor, copy, version, value in zip(*leaves, versions, tree_leaves(new), strict=True):
        _put(tensor, copy, version, value, keep)
    return output


def _put(
    tensor: torch.Tensor, shown: torch.Tensor, version: int, value: Any, keep: Callable[[torch.Tensor], None]
) -> None:
    """Put into a tensor of the model what a block has made of a copy of it."""
    if value is not shown or version_of(shown) != version or (version == -1 and not torch.equal(shown, tensor)):
        keep(tensor)
    tensor.copy_(value)


def _with_first(args: tuple[Any, ...], kwargs: dict[str, Any], value: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if args:
        return (value, *args[1:]), kwargs
    return args, {**kwargs, next(iter(kwargs)): value}


def _changes_in_place(function: Callable[..., Any], kwargs: dict[str, Any]) -> bool:
    name = getattr(function, "__name__", "")
    return (
        kwargs.get("out") is not None
        or bool(kwargs.get("inplace"))
        or name in _IN_PLACE
        or (name.endswith("_") and not name.endswith("__"))
    )


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
