"""Record the calls of torch functions: those that torch hands to a proxy, and those that only a mode sees."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torch.overrides import TorchFunctionMode

from loupe.ops.table import function_name
from loupe.trace.backward import AUTOGRAD
from loupe.trace.handles import open_recorder_in, unwrap

if TYPE_CHECKING:
    from loupe.trace.recorder import Recorder

_FACTORIES = frozenset(
    "tensor as_tensor asarray scalar_tensor from_numpy zeros ones full empty empty_strided arange range linspace "
    "logspace eye rand randn randint randperm tril_indices triu_indices manual_seed is_tensor".split()
)


def call_function(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A torch function on values of a block: recorded while it is open, called on the values after it.

    Functions that make tensors from numbers get the numbers.
    """
    recorder = open_recorder_in((args, kwargs))
    if recorder is None or getattr(func, "__name__", "") in _FACTORIES:
        return func(*unwrap(args), **unwrap(kwargs))
    if func in AUTOGRAD:
        return AUTOGRAD[func](recorder, *args, **kwargs)
    if getattr(func, "__name__", "") in ("__get__", "__set__"):
        raise AttributeError("this attribute of a tensor is not recorded in a block")
    return recorder.apply_function(func, args, kwargs)


class BlockMode(TorchFunctionMode):
    """Active while a block is open: records the calls that torch would not hand to a proxy.

    These are the calls in which torch sees a value of the block only as a number, and those on a tensor of the user's
    own into which a line above has written a value of the block.
    """

    def __init__(self, recorder: Recorder) -> None:
        super().__init__()
        self._recorder = recorder

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call the function, or record it where a value of the block is among its arguments."""
        kwargs = kwargs or {}
        if self._recorder.aside:
            return func(*args, **kwargs)
        if open_recorder_in((args, kwargs)) is not None:
            return call_function(func, args, kwargs)
        written = self._recorder.written
        if written and any(id(arg) in written for arg in args) and self._recorder.open and is_recorded(func):
            return self._recorder.apply_function(func, args, kwargs)
        return func(*args, **kwargs)


def is_recorded(function: Callable[..., Any]) -> bool:
    """Whether the opset has a torch function, other than the reading of an attribute."""
    return function_name(function) not in (None, "python.getattr")
