"""Stand for a value of a block: record what is done to it, and be the value once the block has run."""

from __future__ import annotations

import copy
import functools
import operator
import weakref
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from loupe.errors import BlockError, UnsavedError
from loupe.graph.node import Ref, Site
from loupe.graph.opset import TENSOR_METHODS
from loupe.ops.views import hidden_states
from loupe.trace.attributes import attribute, line_of, value_without_data
from loupe.trace.backward import write_gradient
from loupe.trace.functions import call_function
from loupe.trace.handles import Handle, isinstance_proxy, open_recorder_in, recording, unwrap
from loupe.trace.operators import define_operators
from loupe.trace.saved import SavedOutput, SavedTensor

if TYPE_CHECKING:
    from loupe.trace.recorder import Recorder


class Cell:
    """Where the value of a saved node is put when the block has run."""

    __slots__ = ("filled", "name", "proxy", "steps", "value")

    def __init__(self, proxy: Any = None, name: str = "") -> None:
        self.name = name
        self.proxy = None if proxy is None else weakref.ref(proxy)
        self.filled = False
        self.value: Any = None
        self.steps: dict[int, Any] = {}

    def fill(self, results: dict[str, Any]) -> bool:
        """Take the value out of what a run gave; false where that has none under this name."""
        if self.name not in results:
            return False
        self.value, self.filled = results[self.name], True
        return True


class Proxy(Handle):
    """A value of a block.

    While the block is open, operators, methods, attributes and torch functions on it are recorded. Where Python needs
    the real value (`if`, `float`, `print`, numpy), the run proceeds to it. After the block a saved proxy is its value;
    `.value` is the bare object. Reading an unsaved one raises UnsavedError, which names the line that made it.

    >>> with model.trace("Hello"):
    ...     hidden = model.transformer.h[5].output[0].save()
    >>> hidden.shape
    torch.Size([1, 1, 96])
    """

    __slots__ = ()
    __array_priority__ = 1000
    _cell: Cell | None
    _recorder: Recorder
    _ref: Ref
    _block_site: Site | None

    # -- the value -----------------------------------------------------------------------------------------------------

    @property
    def value(self) -> Any:
        """The bare value: after the block for a saved proxy, inside it by a peek."""
        recorder = self._recorder
        if not recorder.open and recorder.session is not None and recorder.session.settle(recorder):
            return self.value
        cell = self._cell
        if cell is not None and cell.filled:
            return cell.value
        if recorder.open:
            return recorder.peek(self)
        raise _unsaved(self)

    def save(self, name: str | None = None) -> Proxy:
        """Keep the value past the block; `name` is its key in a graph's results.

        >>> logits = model.output.save()
        """
        if self._recorder.open:
            return self._recorder.save(self, name)
        if self._recorder.session is not None and self._recorder.session.save(self):
            return self
        if self._cell is not None:
            return self
        raise BlockError(
            "a value is saved after its block has ended", remedy="call .save() inside the block", line=line_of(self)
        )

    # -- Python's protocols --------------------------------------------------------------------------------------------

    def __getattr__(self, name: str) -> Any:
        recorder = recording(self)
        if recorder is None:
            if name.startswith("__") and not _is_filled(self):
                raise AttributeError(name)
            return getattr(self.value, name)
        return attribute(self, recorder, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _OWN_NAMES:
            set_slot(self, name, value)
        elif (recorder := recording(self)) is None:
            setattr(self.value, name, value)
        elif name == "grad":
            write_gradient(recorder, self, value)
        elif name == "requires_grad":
            recorder.apply("loupe.require_grad", (self, value))
        else:
            raise BlockError(
                f"the attribute {name!r} of a value cannot be set in a block",
                remedy="change the value itself (`x[:] = …`), or the site (`module.output = …`)",
                line=line_of(self),
            )

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """After the block: call the value."""
        if recording(self) is None:
            return self.value(*args, **kwargs)
        raise BlockError(
            "a value of the block is called like a function",
            remedy="call a module or a torch function on it; wrap your own function in loupe.fn",
            line=line_of(self),
        )

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return call_function(func, args, kwargs or {})

    @property
    def __class__(self) -> type:
        if _is_filled(self):
            return type(self.value)
        recorder = self._recorder
        waits = recorder.session is not None and recorder.session.waits_for(recorder)
        if waits or (recorder.open and recorder.execution.describes):
            return type(value_without_data(self))
        return type(self)

    def __repr__(self) -> str:
        if _is_filled(self):
            return repr(self.value)
        return f"<{self._recorder.graph.node_text(self._recorder.graph[self._ref.node])}>"

    def __str__(self) -> str:
        return str(self.value)

    def __format__(self, format_spec: str) -> str:
        value = self.value
        if format_spec and isinstance(value, torch.Tensor) and value.dim() == 0:
            return format(value.item(), format_spec)
        return format(value, format_spec)

    def __bool__(self) -> bool:
        return bool(self.value)

    def __float__(self) -> float:
        return float(_number(self.value))

    def __int__(self) -> int:
        return int(_number(self.value))

    def __complex__(self) -> complex:
        return complex(_number(self.value))

    def __index__(self) -> int:
        return operator.index(self.value)

    def __contains__(self, item: Any) -> bool:
        return (item.value if isinstance_proxy(item) else item) in self.value

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        value = self.value
        array = value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)
        return array if dtype is None else array.astype(dtype)

    def __array_wrap__(self, array: Any, context: Any = None, return_scalar: bool = False) -> Any:
        if not self._recorder.open and isinstance(self.value, torch.Tensor):
            return torch.as_tensor(array)  # numpy functions of a tensor give tensors
        return array[()] if return_scalar else array

    def __len__(self) -> int:
        return len(value_without_data(self)) if recording(self) is not None else len(self.value)

    def __iter__(self) -> Iterator[Any]:
        recorder = recording(self)
        if recorder is None:
            return iter(self.value)
        without_data = value_without_data(self)
        if isinstance(without_data, dict):
            return iter(without_data)
        if isinstance(without_data, torch.Tensor) and without_data.dim() == 0:
            raise TypeError("iteration over a 0-d tensor")
        return iter([recorder.apply("operator.getitem", (self, place)) for place in range(len(without_data))])

    def __getitem__(self, key: Any) -> Any:
        recorder = recording(self) or open_recorder_in(key)
        of_block = self._block_site is not None and type(key) is int and key == 0
        if recorder is None:
            return hidden_states(self.value) if of_block else self.value[unwrap(key)]
        if of_block:
            return recorder.apply("loupe.hidden_states", (self,))
        return recorder.apply("operator.getitem", (self, key))

    def __setitem__(self, key: Any, value: Any) -> None:
        recorder = recording(self)
        of_block = self._block_site is not None and type(key) is int and key == 0
        if recorder is None and of_block:
            hidden_states(self.value)[...] = unwrap(value)
        elif recorder is None:
            self.value[unwrap(key)] = unwrap(value)
        elif not of_block:
            recorder.set_item(self, key, value)
        elif recorder is self._recorder and self._block_site is not None:
            recorder.write(self._block_site, recorder.apply("loupe.with_hidden_states", (self, value)))
        else:  # a value of an earlier block of the session: its model has gone on, and what is left is the tensor
            recorder.set_item(recorder.apply("loupe.hidden_states", (self,)), ..., value)

    def __delitem__(self, key: Any) -> None:
        recorder = recording(self)
        if recorder is not None:
            recorder.apply("operator.delitem", (self, key))
        else:
            del self.value[unwrap(key)]

    def __hash__(self) -> int:
        return id(self)

    def __dir__(self) -> list[str]:
        return sorted({"save", "value", *(dir(self.value) if _is_filled(self) else TENSOR_METHODS)})

    def __copy__(self) -> Any:
        return copy.copy(self.value)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return copy.deepcopy(self.value, memo)

    def __reduce_ex__(self, proto: Any) -> Any:
        value = self.value
        if isinstance(value, torch.Tensor):
            return value.__reduce_ex__(proto)
        return operator.itemgetter(0), ((value,),)


set_slot = object.__setattr__
_set_class = object.__dict__["__class__"].__set__
_OWN_NAMES = ("_block_site", "_cell", "_recorder", "_ref")


class ValueProxy(Proxy):
    """A value of a block that is no tensor: a tuple, a model output, a dict."""

    __slots__ = ("__weakref__", *_OWN_NAMES)


class TensorProxy(Proxy, torch.Tensor):
    """A value of a block that is, or may be, a tensor.

    It is a tensor by type, so that torch's own argument parser may look at it: a tensor without data stands in for the
    value until the block has run. Then a saved one becomes a tensor that shares the value's memory (`SavedTensor`).
    """


# What a tensor proxy is to torch's argument parser, which reads numbers and sizes before it asks for our functions.
_STAND_IN = torch.empty((), dtype=torch.int64, device="meta")
_make_tensor = torch.Tensor._make_subclass


def make_proxy(recorder: Recorder, ref: Ref, *, tensor: bool = True, block_site: Site | None = None) -> Proxy:
    """A handle on a node; `tensor` says whether its value is, or may be, a tensor."""
    proxy: Any
    if tensor:
        proxy = _make_tensor(TensorProxy, _STAND_IN)
        own = proxy.__dict__
        own["_recorder"], own["_ref"], own["_cell"], own["_block_site"] = recorder, ref, None, block_site
        return proxy
    proxy = ValueProxy()
    for name, value in zip(_OWN_NAMES, (block_site, None, recorder, ref), strict=True):
        set_slot(proxy, name, value)
    return proxy


def settle(proxy: Any) -> None:
    """Let a saved proxy be its value, where that is a tensor."""
    value = proxy._cell.value
    if type(proxy) is not TensorProxy or not isinstance(value, torch.Tensor) or value.layout != torch.strided:
        if type(proxy) is TensorProxy and type(value) in (bool, int, float):
            torch._C._swap_tensor_impl(proxy, torch.tensor(value))  # torch reads numbers from the tensor itself
        return
    bare = value if type(value) is torch.Tensor else value.as_subclass(torch.Tensor)
    if value.requires_grad:
        with torch.enable_grad():
            alias = torch.ops.aten.alias.default(bare)
    else:
        alias = bare.detach()
    torch._C._swap_tensor_impl(proxy, alias)
    own = proxy.__dict__
    own.clear()
    _set_class(proxy, SavedTensor if type(value) is torch.Tensor else SavedOutput)
    own["_value"] = value


def _number(value: Any) -> Any:
    """A value about to be a number: torch warns where that leaves a gradient behind, which a look never means."""
    return value.detach() if isinstance(value, torch.Tensor) and value.requires_grad else value


def _is_filled(proxy: Proxy) -> bool:
    cell = proxy._cell
    return cell is not None and cell.filled


def _unsaved(proxy: Proxy) -> UnsavedError:
    if proxy._recorder.failed:
        return UnsavedError(
            "this value was never computed: its block ended with an exception",
            remedy="mend the error that the block raised",
            line=line_of(proxy),
        )
    if proxy._cell is not None:
        return UnsavedError(
            "this value was saved, but the run ended before it was reached",
            remedy="read it at a module that runs in every pass",
            line=line_of(proxy),
        )
    return UnsavedError(
        "this value was not saved, so it is gone with its block",
        remedy="add .save() to this line",
        line=line_of(proxy),
    )


def _define_names() -> None:
    """Send every public name of a tensor through `Proxy.__getattr__`, which knows what is recorded."""
    for name in dir(torch.Tensor):
        if not name.startswith("_") and name not in Proxy.__dict__:
            setattr(TensorProxy, name, property(functools.partial(_named, name)))


def _named(name: str, proxy: Proxy) -> Any:
    return Proxy.__getattr__(proxy, name)


define_operators(Proxy)
_define_names()
