"""Keep the lines between the blocks of a session from changing what the blocks compute: these run first then."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from loupe.graph.opset import effect_of
from loupe.ops.table import function_name
from loupe.trace.handles import isinstance_proxy

if TYPE_CHECKING:
    from loupe.trace.recorder import Recorder

_RANDOM = frozenset(
    "rand randn randint randperm normal bernoulli_ cauchy_ exponential_ geometric_ log_normal_ normal_ random_ "
    "uniform_".split()
)
_PUTTING = frozenset(("__setitem__", "__set__"))
RandomState = list[torch.Tensor]


class Between(TorchFunctionMode):
    """Active while a session is open: sees the torch functions that the user calls between its blocks.

    A block that waits has to compute what it would have computed at its place. So `run` lets all that wait run before
    a tensor that one of them uses is changed, before one that they change (a tensor of the user's, a `.grad`) is looked
    at, and before random numbers are drawn. `weights` gives the model's own tensors, `passed` the values that a block
    which waits takes from one that has run.
    """

    def __init__(
        self,
        run: Callable[[], None],
        weights: Callable[[], Iterable[torch.Tensor]],
        passed: Callable[[], Iterable[Any]],
    ) -> None:
        self._run = run
        self._weights = weights
        self._passed = passed
        self._used: set[int] = set()
        self._changed: set[int] = set()
        self._anything = False
        self.waits = False

    def note(self, recorder: Recorder) -> None:
        """A block begins to wait: note what it uses and what it changes."""
        with torch._C.DisableTorchFunction():  # none of this is the user's line
            modules = [each for each in recorder.graph.constants if isinstance(each, nn.Module)]
            own = [*tensors_within(recorder.graph.constants), *tensors_within(recorder.inputs)]
            own += [tensor for module in modules for tensor in (*module.parameters(), *module.buffers())]
            if not self.waits:
                own += self._weights()
            self._used |= _memory(own)
            self._changed |= _memory(each for each in own if id(each) in recorder.written)
            if recorder.graph.backwards:
                self._changed |= _memory(each for each in (*own, *self._weights()) if each.requires_grad)
        self._anything = self._anything or any(not _by_torch(each) for each in recorder.graph.functions.values())
        self.waits = True

    def forget(self) -> None:
        """No block waits any more."""
        self.waits = self._anything = False
        self._used.clear()
        self._changed.clear()

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call the function, after the blocks that wait where it matters to them."""
        kwargs = kwargs or {}
        if self.waits and self._matters(func, args, kwargs):
            self._run()
        return func(*args, **kwargs)

    def _matters(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        name = getattr(func, "__name__", "")
        involved = list(tensors_within((*args, *kwargs.values())))
        if name in _RANDOM or effect_of(function_name(func) or "") == "random":
            return not any(tensor.is_meta for tensor in involved)  # in a scan nothing is drawn
        memory = _memory(involved)
        if not self._changed.isdisjoint(memory):
            return True
        changes = (name.endswith("_") and not name.endswith("__")) or name in _PUTTING
        if changes or "out" in kwargs or kwargs.get("inplace"):
            used = self._used | _memory(each for value in self._passed() for each in tensors_within(value))
            return bool(memory) if self._anything else not used.isdisjoint(memory)
        return False


def tensors_within(value: Any) -> Iterator[torch.Tensor]:
    """The tensors in nested tuples, lists and mappings."""
    if isinstance_proxy(value):
        return
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from tensors_within(item)
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from tensors_within(item)


def random_state() -> RandomState:
    """Where torch's random numbers stand."""
    on_gpu = torch.cuda.is_available() and torch.cuda.is_initialized()
    return [torch.get_rng_state(), *(torch.cuda.get_rng_state_all() if on_gpu else ())]


def move_on() -> RandomState:
    """Draw a random number, so that a seed which is set from here on can be told from none; gives the state then."""
    with torch._C.DisableTorchFunction():
        torch.rand((), device="cpu")
    return random_state()


def set_random_state(state: RandomState) -> None:
    """Let torch's random numbers go on from there."""
    torch.set_rng_state(state[0])
    if len(state) > 1:
        torch.cuda.set_rng_state_all(state[1:])


def same_state(one: RandomState, other: RandomState) -> bool:
    """Whether the same random numbers would follow."""
    return len(one) == len(other) and all(map(torch.equal, one, other))


def _memory(tensors: Iterable[torch.Tensor]) -> set[int]:
    """Where the data of tensors lies; a view lies where its base does."""
    found: set[int] = set()
    for tensor in tensors:
        if tensor.layout is torch.strided and not tensor.is_meta:
            found.add(tensor.untyped_storage().data_ptr())
    found.discard(0)
    return found


def _by_torch(function: Callable[..., Any]) -> bool:
    return (getattr(function, "__module__", None) or "").partition(".")[0] == "torch"
